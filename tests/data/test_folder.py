import os

import numpy as np
import pytest
from PIL import Image

from reprojax.data import digest, from_folder, image_files, load, read_images

COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


def draw(path, colour, size=(12, 10), mode="RGB", **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **save)


def classes(root, count=6, names=tuple(COLOURS)):
    for name in names:
        for i in range(count):
            draw(root / name / f"{i:02}.png", tuple(c + i % 5 for c in COLOURS[name]))
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
        assert (tone == tone[:, :1, :1, :1]).all() and (tone < 5).all()
    assert digest(load(root, size=8)) == digest(task)
    assert digest(load(root, size=8, seed=1)) != digest(task)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "validation")])
def test_split_folders_are_kept(tmp_path, names):
    for i, name in enumerate(names):
        classes(tmp_path / name, count=5 - i)
    task = from_folder(tmp_path, size=4)
    assert sizes(task) == ((15, 12, 9) if "test" in names else (12, 12, 3))
    pooled = from_folder(tmp_path, size=4, test_seed=0)
    assert sizes(pooled) == ((15, 12, 9) if "test" in names else (10, 12, 5))


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        for i in range(5):
            draw(tmp_path / name / f"{i}.png", (i, 0, 0))
    assert from_folder(tmp_path, size=4).classes == ("bus", "train")


def test_nested_sorted_and_without_hidden_or_foreign_files(tmp_path):
    root = classes(tmp_path, count=2)
    draw(root / "red/deep/er/z.webp", COLOURS["red"], lossless=True)
    draw(root / "red/A.BMP", COLOURS["red"])
    draw(root / "red/.hidden.png", (9, 9, 9))
    draw(root / "red/.cache/x.png", (9, 9, 9))
    draw(root / ".git/x.png", (9, 9, 9))
    draw(root / "__MACOSX/red/x.png", (9, 9, 9))
    (root / "red/notes.txt").write_text("no image")
    (root / "red/folder.png").mkdir()
    names = [f.relative_to(root).as_posix() for f in image_files(root)]
    assert names == [
        *(f"{c}/{i:02}.png" for c in ("blue", "green") for i in range(2)),
        *("red/00.png", "red/01.png", "red/A.BMP", "red/deep/er/z.webp"),
    ]
    task = from_folder(root, size=4, validation=1, test=1)
    assert sum(sizes(task)) == 8 and task.classes == ("blue", "green", "red")


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
    (tmp_path / "tiff/violet/a.tif").write_bytes(b"")
    fails(r"no image in .*violet; expected files that end with .png", tmp_path / "tiff")
    with pytest.raises(ValueError, match="no images to read"):
        read_images(image_files(tmp_path / "tiff/violet"))


def test_progress_is_shown_for_many_images(tmp_path, capsys):
    draw(tmp_path / "a.png", (1, 2, 3))
    read_images([tmp_path / "a.png"] * 500, size=2)
    assert capsys.readouterr().err == ""
    found = read_images([tmp_path / "a.png"] * 501, size=2)
    assert (found == (1, 2, 3)).all()
    assert capsys.readouterr().err.endswith("read 501 of 501 images\n")
