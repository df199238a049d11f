import os

import numpy as np
import pytest
from PIL import Image

from reprojax.data import (
    digest,
    folder,
    from_folder,
    image_files,
    load,
    pixels,
    read_images,
)

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def draw(path, colour, size=(12, 10), mode="RGB", **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **save)


def classes(root, count=6, names=tuple(COLOURS), first=0):
    """Image i of a class has its colour and the tone first + i, less than 6."""
    for name in names:
        for i in range(count):
            colour = np.minimum(255, np.array(COLOURS[name]) + first + i)
            draw(root / name / f"{i:02}.png", tuple(colour.tolist()))
    return root


def sizes(task):
    return tuple(len(s.y) for s in (task.train, task.validation, task.test))


def test_class_folders_become_a_task(tmp_path):
    root = classes(tmp_path / "paint")
    task = from_folder(root, size=8)
    assert task.name == "paint" and task.classes == ("blue", "green", "red")
    assert task.train.x.shape[1:] == (8, 8, 3) and sum(sizes(task)) == 18
    for split in (task.train, task.validation, task.test):
        shown = np.array([COLOURS[task.classes[label]] for label in split.y])
        tone = split.x - shown[:, None, None]
        assert (tone == tone[:, :1, :1, :1]).all() and (tone < 6).all()
    assert digest(load(root, size=8)) == digest(task)
    assert digest(load(root, size=8, seed=1)) != digest(task)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "validation")])
def test_split_folders_are_kept(tmp_path, names):
    for i, name in enumerate(names):
        classes(tmp_path / name, count=5 - i, first=20 * i)
    task = from_folder(tmp_path, size=4)
    assert sizes(task) == ((15, 12, 9) if "test" in names else (12, 12, 3))
    pooled = from_folder(tmp_path, size=4, test_seed=0)
    assert sizes(pooled) == ((15, 12, 9) if "test" in names else (10, 12, 5))


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        for i in range(5):
            draw(tmp_path / name / f"{i}.png", (i, len(name), 0))
    assert from_folder(tmp_path, size=4).classes == ("bus", "train")


def test_nested_sorted_and_without_hidden_or_foreign_files(tmp_path):
    root = classes(tmp_path, count=2)
    draw(root / "red/deep/er/z.webp", (249, 0, 0), lossless=True)
    draw(root / "red/A.BMP", (248, 0, 0))
    draw(root / "red/.hidden.png", (9, 9, 9))
    draw(root / "red/.cache/x.png", (9, 9, 9))
    draw(root / ".git/x.png", (9, 9, 9))
    draw(root / "__MACOSX/red/x.png", (9, 9, 9))
    (root / "red/Thumbs.db").write_text("no image")
    (root / "red/folder.png").mkdir()
    names = [f.relative_to(root).as_posix() for f in image_files(root)]
    assert names == [
        *(f"{c}/{i:02}.png" for c in ("blue", "green") for i in range(2)),
        *("red/00.png", "red/01.png", "red/A.BMP", "red/deep/er/z.webp"),
    ]
    task = from_folder(root, size=4, validation=1, test=1)
    assert sum(sizes(task)) == 8 and task.classes == ("blue", "green", "red")


def test_what_is_no_image_is_counted_by_its_ending(tmp_path):
    root = classes(tmp_path, count=2)
    for name in ("a.txt", "red/b.txt", "red/c.psd", "red/d"):
        (root / name).write_text("no image")
    line = "4 files below .* left out, .*: 2 .txt, 1 .psd, 1 without ending; 6 images"
    with pytest.warns(UserWarning, match=line.replace("1 .psd, 1 w", ".*w")):
        assert len(image_files(root)) == 6
    with pytest.warns(UserWarning, match="4 files below"):
        from_folder(root, size=4, validation=1, test=1)


KINDS = {
    **{"tif": "TIFF", "TIFF": "TIFF", "gif": "GIF", "ppm": "PPM", "pgm": "PPM"},
    **{"jfif": "JPEG", "jpe": "JPEG", "bmp": "BMP", "dib": "DIB", "apng": "PNG"},
    **{"webp": "WEBP", "jp2": "JPEG2000", "pnm": "PPM", "heic": "HEIF", "hif": "HEIF"},
}


def test_images_of_all_endings_are_read(tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    for i, (ending, kind) in enumerate(KINDS.items()):
        mode = "L" if ending == "pgm" else "RGB"
        draw(tmp_path / f"{i}.{ending}", (15 * i,) * 3, (32, 32), mode, format=kind)
    files = image_files(tmp_path)
    assert len(files) == len(KINDS)
    shades = 15 * np.array([int(f.stem) for f in files])[:, None, None, None]
    assert abs(read_images(files, size=8).astype(int) - shades).max() <= 3


def test_heic_without_its_reader_is_named_and_counted(tmp_path, monkeypatch):
    import pillow_heif

    pillow_heif.register_heif_opener()
    draw(tmp_path / "a.png", (1, 2, 3))
    draw(tmp_path / "b.heic", (1, 2, 3), (32, 32))
    (tmp_path / "c.jpg").write_bytes((tmp_path / "b.heic").read_bytes())
    known = tuple(name for name in pixels._formats() if name != "HEIF")
    monkeypatch.setattr(pixels, "_formats", lambda: known)
    monkeypatch.setattr(folder, "endings", pixels.endings.__wrapped__)
    with pytest.warns(UserWarning, match=r"1 files .* 1 .heic; .*'reprojax\[heif\]'"):
        files = image_files(tmp_path)
    with pytest.raises(ValueError, match=r"c.jpg \(it is HEIC or AVIF, .*\[heif\]'"):
        read_images(files)


def test_linked_folders_are_followed_without_circles(tmp_path):
    root = classes(tmp_path / "task", count=2)
    classes(tmp_path / "store", count=3, names=("red",), first=9)
    os.symlink(tmp_path / "store/red", root / "red/more")
    os.symlink(root, root / "red/above")
    os.symlink(root / "red", root / "red/itself")
    os.symlink(tmp_path / "store/red/00.png", root / "blue/one.png")
    assert len(image_files(root)) == 3 * 2 + 3 + 1
    task = from_folder(root, size=4, validation=1, test=1, duplicates="keep")
    every = np.concatenate([split.y for split in task[1:4]])
    assert np.bincount(every).tolist() == [3, 2, 5]


@pytest.mark.parametrize("lazy", [False, True])
def test_what_is_no_regular_file_is_named_at_once(tmp_path, lazy):
    root = classes(tmp_path)
    os.mkfifo(root / "red/x.png")
    with pytest.raises(ValueError, match=r"1 of \d+ .*\n.*red/x.png is a named pipe"):
        from_folder(root, size=4, lazy=lazy, validation=1, test=1)


def test_a_file_is_read_as_an_image_and_never_run(tmp_path):
    """Pillow gives PostScript to Ghostscript, whatever the file's ending."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ValueError, match="it is empty or none of PNG, JPEG"):
        read_images([tmp_path / "a.png"])


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    draw(tmp_path / "a.png", (1, 2, 3), (100, 100))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with pytest.raises(ValueError, match=r"a.png \(DecompressionBombError: .*10000"):
        read_images([tmp_path / "a.png"])


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_is_taken_and_said(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), (0, 120 * i, 0)) for i in range(3)]
    save = {"save_all": True, "append_images": frames[1:]}
    save |= {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(tmp_path / "a.png", kind, **save)
    draw(tmp_path / "b.png", (9, 9, 9))
    with pytest.warns(UserWarning, match="1 of 2 images have several frames"):
        found = read_images([tmp_path / "a.png", tmp_path / "b.png"], size=4)
    assert (found[0] == 0).all() and (found[1] == 9).all()


def test_deep_grey_is_scaled_by_one_rule(tmp_path):
    def saved(values, name="a.tif"):
        Image.fromarray(np.array(values).reshape(1, -1)).save(tmp_path / name)
        return read_images([tmp_path / name], size=1)[0, 0, 0].tolist()

    assert saved(np.full(1, 257 * 50, np.uint16)) == [50] * 3
    assert saved(np.full(1, 257 * 50, np.int32)) == [50] * 3
    assert saved(np.full(1, 257 * 50, np.uint16), "a.pgm") == [50] * 3
    assert saved(np.full(1, 0.4, np.float32)) == [102] * 3
    assert saved(np.zeros(1, np.int32)) == [0] * 3
    for wrong, words in (
        (np.full(1, 200, np.int32), "from 200 to 200 of 65535, nothing but black"),
        (np.full(1, 70000, np.int32), "to 70000, expected 0 to 65535"),
        (np.full(1, -1, np.int32), "from -1 to -1, expected 0 to 65535"),
        (np.full(1, 200, np.float32), "from 200 to 200, expected 0 to 1;"),
        (np.full(1, np.nan, np.float32), "from nan to nan, expected 0 to 1;"),
    ):
        with pytest.raises(ValueError, match=f"it is {wrong.dtype} grey .*{words}"):
            saved(wrong)


def test_names_that_are_no_utf8(tmp_path):
    root = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    for i, name in enumerate((b"\xe9t\xe9", b"hiver")):
        for k in range(5):
            os.makedirs(os.path.join(root, name), exist_ok=True)
            draw(tmp_path / "x.png", (40 * k, 200 * i, 0))
            os.rename(tmp_path / "x.png", os.path.join(root, name, b"%d\xff.png" % k))
    for lazy in (False, True):
        task = from_folder(os.fsdecode(root), size=4, lazy=lazy)
        assert task.name == "caf\\xe9" and set(task.classes) == {"\\xe9t\\xe9", "hiver"}
        assert len(digest(task)) == 64


def test_equal_images_in_two_splits_or_under_two_labels(tmp_path):
    for name in ("train", "test"):  # tones 0 to 3, and 2 to 4
        first = 2 * (name == "test")
        classes(tmp_path / name, count=4 - first // 2, first=first)
    draw(tmp_path / "train/blue/more.png", tuple(c + 1 for c in COLOURS["red"]))
    load_it = lambda **given: from_folder(tmp_path, size=4, validation=1, **given)
    for lazy in (False, True):
        with pytest.warns(UserWarning) as told:
            task = load_it(lazy=lazy)
        assert len(told) == 1 and sizes(task) == (12, 1, 9)
        for words in (r"6 of 9 test images \(first row 0\)", "2 images have an equal"):
            assert told[0].message.args[0].count(words.replace("\\", "")) == 1
        task = load_it(lazy=lazy, duplicates="drop")
        assert sizes(task) == (4, 1, 9)  # tones 0 and 1, but none of the red 1
        assert sizes(load_it(lazy=lazy, duplicates="keep")) == (12, 1, 9)
    with pytest.raises(ValueError, match="duplicates='no', expected 'warn', 'drop'"):
        load_it(duplicates="no")


def test_the_centre_square_is_resized_with_antialiasing(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels.swapaxes(0, 1)).save(tmp_path / "tall.png")
    files = [tmp_path / "wide.png", tmp_path / "tall.png"]
    wide, tall = read_images(files, size=60).astype(int)
    assert (wide == pixels[:, 20:80]).all()
    assert (tall == pixels.swapaxes(0, 1)[20:80]).all()
    for found in read_images(files, size=6):  # noise of sd 74, means over 10 × 10
        assert abs(found.astype(float) - 127).std() < 25
    # short side to 30, then the centre: the same but for rounding
    by_hand = Image.fromarray(pixels).resize((50, 30), Image.Resampling.BICUBIC)
    by_hand = np.asarray(by_hand)[:, 10:40].astype(int)
    found = read_images(files[:1], size=30)[0].astype(int)
    assert abs(found - by_hand)[:, 2:-2].max() <= 1


def test_exif_grey_palette_alpha_and_sixteen_bits(tmp_path):
    left_red = np.zeros((8, 8, 3), np.uint8)
    left_red[:, :4, 0] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera's top is the picture's right
    Image.fromarray(left_red).save(tmp_path / "exif.png", exif=turned)
    red = read_images([tmp_path / "exif.png"], size=8)[0, ..., 0]
    assert (red[:4] == 255).all() and (red[4:] == 0).all()

    draw(tmp_path / "grey.png", (77, 77, 77), mode="L")
    draw(tmp_path / "palette.png", (0, 255, 0), mode="P")
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    clear.quantize(4).save(tmp_path / "clear_palette.png", transparency=0)
    Image.fromarray(np.full((8, 8), 257 * 50 + 100, np.uint16)).save(
        tmp_path / "deep.png"
    )
    names = ("grey", "palette", "clear", "clear_palette", "deep")
    found = read_images([tmp_path / f"{n}.png" for n in names], size=8)
    for image, colour in zip(
        found, [(77,) * 3, (0, 255, 0), (255,) * 3, (255,) * 3, (50,) * 3], strict=True
    ):
        assert (image == colour).all()


def test_all_unreadable_images_are_named_in_one_error(tmp_path):
    root = classes(tmp_path)
    whole = (root / "red/00.png").read_bytes()
    (root / "blue/00.png").write_bytes(whole[: len(whole) // 2])
    (root / "green/text.jpg").write_text("this is no picture")
    (root / "red/zero.bmp").write_bytes(b"")
    os.symlink(root / "gone.png", root / "red/link.png")
    with pytest.raises(ValueError, match="4 of 21 images cannot be read") as caught:
        from_folder(root, size=4)
    for name in ("blue/00.png", "green/text.jpg", "red/zero.bmp", "red/link.png"):
        assert str(root / name) in str(caught.value)
    assert "01.png" not in str(caught.value)


def fails(message, root, **options):
    with pytest.raises(ValueError, match=message):
        from_folder(root, size=4, **options)


def test_folders_of_the_wrong_form(tmp_path):
    fails("no folder .*absent", tmp_path / "absent")
    fails("0 class folders .*none.*expected at least two", tmp_path)
    draw(tmp_path / "loose/a.png", (0, 0, 0))
    fails(r"1 images lie directly in .*loose \(a.png\)", tmp_path / "loose")
    fails(r"1 class folders in .*\(loose\)", tmp_path)
    root = classes(tmp_path / "mixed" / "train").parent
    classes(root / "test")
    classes(root / "extra")
    fails("holds test, train beside extra; expected either class folders", root)
    classes(tmp_path / "lost" / "val")
    classes(tmp_path / "lost" / "test")
    fails("holds test, val; expected either", tmp_path / "lost")
    for name in ("train", "val", "validation"):
        classes(tmp_path / "both" / name)
    fails("holds both val and validation; expected one", tmp_path / "both")
    classes(tmp_path / "new" / "train", names=("red", "blue"))
    classes(tmp_path / "new" / "test")
    fails("classes without a training folder: green", tmp_path / "new")
    classes(tmp_path / "tiff")
    (tmp_path / "tiff/violet").mkdir()
    fails(r"no image in .*violet; expected files that end with .png", tmp_path / "tiff")
    with pytest.raises(ValueError, match="no images to read"):
        read_images(image_files(tmp_path / "tiff/violet"))
    classes(tmp_path / "split/train")
    draw(tmp_path / "split/test/0.png", (0, 0, 0))
    fails(r"1 images lie directly in .*split/test \(0.png\)", tmp_path / "split")


def test_progress_is_shown_for_many_images(tmp_path, capsys):
    draw(tmp_path / "a.png", (1, 2, 3))
    read_images([tmp_path / "a.png"] * 500, size=2)
    assert capsys.readouterr().err == ""
    found = read_images([tmp_path / "a.png"] * 501, size=2)
    assert (found == (1, 2, 3)).all()
    assert capsys.readouterr().err.endswith("read 501 of 501 images\n")


def test_a_side_of_no_pixels_is_refused_before_a_file_is_read():
    with pytest.raises(ValueError, match="got size=0, expected a side of at least 1"):
        read_images(["nowhere.png"], size=0)
