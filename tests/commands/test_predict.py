"""Predictions from a kept program equal the program itself; bad input is refused."""

import csv
import io
import subprocess
import sys
import warnings
from functools import partial

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reprojax import data, recipes
from reprojax.commands import predict
from reprojax.commands.intervals import Share
from reprojax.commands.outputs import command
from reprojax.commands.predict import Config
from reprojax.commands.train import Config as Train
from reprojax.recipes import registry
from reprojax.saving import programs
from reprojax.training.parallel import cast

CLASSES = ("cat", 'a "dog", small', "größer")
MODELS = {
    "here": backbones.convolutional,
    "elsewhere": backbones.convolutional,
    "other": backbones.transformer,
}


def load(name, **given):
    if name not in MODELS:
        raise ValueError(f"no backbone {name!r}")
    dtype = given.pop("dtype")
    assert given == {"size": 16, "mean": backbones.MEAN, "std": backbones.STD}
    model = MODELS[name]()
    return model._replace(frozen=cast(model.frozen, dtype))


main = partial(predict.main, load_backbone=load, known=tuple(MODELS))


@pytest.fixture
def home(tmp_path):
    """A folder with seven images."""
    x = backbones.photos(7, side=12)
    for i, image in enumerate(x):
        place = tmp_path / "photos" / ("deep/er" if i % 2 else "")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    return tmp_path


def kept(home, method="watermark", image=(12, 12, 3), dtype="float32", **arguments):
    """Random params of a recipe, saved as a run would, and the program."""
    backbone = load(
        "here", size=16, mean=backbones.MEAN, std=backbones.STD, dtype=dtype
    )
    name = arguments.get("alignment")
    sizes = {k: v for k, v in arguments.items() if k != "alignment"}
    program = recipes.build(method, backbone, 3, name, **sizes)
    x = jnp.zeros((1, *image), jnp.uint8)
    params = program.init(jax.random.key(0), backbone.frozen, x)
    draw = lambda a: abs(np.random.default_rng(a.size).normal(size=a.shape)).astype(
        "float32"
    )
    params = jax.tree.map(draw, params)  # variances among them, so none is negative
    card = programs.Card.of(
        backbone, method=method, arguments=arguments, image=image, classes=CLASSES
    )
    path = home / "program.safetensors"
    programs.save(path, params, card._replace(backbone="here"))
    return program, params, path


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize(
    "how",
    [
        {"method": "watermark", "alignment": "blm"},
        {"method": "padding", "alignment": "linear", "inner": 6},
        {"method": "vp", "alignment": None, "width": 3},
        {"method": "smm"},
    ],
    ids=lambda how: how["method"],
)
def test_the_csv_is_what_the_program_says(home, how):
    program, params, path = kept(home, **how)
    out = main(Config(path, (home / "photos",), out=home / "new" / "out.csv", batch=3))
    header, *lines = read_csv(out)
    assert header == ["file", "label", "probability", *CLASSES]
    order = [0, 2, 4, 6, 1, 3, 5]
    names = [f"deep/er/{i}.png" if i % 2 else f"{i}.png" for i in order]
    assert [line[0] for line in lines] == names
    x = jnp.asarray(backbones.photos(7, side=12)[order])
    logits = jax.jit(program.apply)(params, backbones.convolutional().frozen, x)
    logits = logits - logits.max(1, keepdims=True)
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = np.array([line[3:] for line in lines], float)
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert [line[1] for line in lines] == [CLASSES[i] for i in wanted.argmax(1)]
    best = [float(line[2]) for line in lines]
    np.testing.assert_allclose(best, wanted.max(1), atol=2e-6)


def test_one_compilation_whatever_the_last_batch(home):
    _, _, path = kept(home)
    before = predict._answer._cache_size()
    main(Config(path, (home / "photos",), out=home / "out.csv", batch=4))
    assert predict._answer._cache_size() == before + 1


def test_grey_programs_get_grey_images(home):
    program, params, path = kept(home, image=(12, 12, 1))
    rows = read_csv(main(Config(path, (home / "photos",), out=home / "out.csv")))[1:]
    grey = np.stack(
        [np.asarray(Image.open(home / "photos" / r[0]).convert("L")) for r in rows]
    )
    x = jnp.asarray(grey[..., None])
    logits = jax.jit(program.apply)(params, backbones.convolutional().frozen, x)
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    # PIL's fixed-point grey may be one level off
    np.testing.assert_allclose(
        np.array([r[3:] for r in rows], float), wanted, atol=0.02
    )


def test_a_moved_backbone_is_found_and_another_refused(home):
    _, _, path = kept(home)
    config = Config(path, (home / "photos",), out=home / "out.csv")
    first = main(config).read_text()
    moved = Config(path, (home / "photos",), "elsewhere", out=home / "two.csv")
    assert main(moved).read_text() == first
    wrong = Config(path, (home / "photos",), "other", out=home / "three.csv")
    with pytest.raises(ValueError, match="'tiny transformer' with fingerprint"):
        main(wrong)
    assert not (home / "three.csv").exists()


def test_a_backbone_has_the_type_of_the_run(home):
    _, _, path = kept(home, dtype="bfloat16")
    assert programs.load(path).card.dtype == "bfloat16"
    main(Config(path, (home / "photos",), out=home / "out.csv"))
    assert len(read_csv(home / "out.csv")) == 8


def test_a_missing_backbone_says_how_to_name_it(home):
    _, _, path = kept(home)

    def load(name, **given):
        raise ValueError(f"no backbone {name!r}")

    with pytest.raises(ValueError, match="no backbone 'here'; say where .*--backbone"):
        main(Config(path, (home / "photos",)), load_backbone=load)
    with pytest.raises(ValueError, match="^no backbone 'there'$"):
        main(Config(path, (home / "photos",), "there"))


def test_unreadable_images_are_all_named_before_anything_else(home):
    _, _, path = kept(home)
    for name in ("broken.png", "deep/torn.jpg"):
        (home / "photos" / name).write_bytes(b"no image")

    def never(*args, **given):
        raise AssertionError("the model was loaded for a folder with broken images")

    config = Config(path, (home / "photos",), out=home / "out.csv")
    with pytest.raises(ValueError, match="2 of 9 .* by --skip-bad") as caught:
        main(config, load_backbone=never)
    assert "broken.png" in str(caught.value) and "torn.jpg" in str(caught.value)
    assert not (home / "out.csv").exists()


def test_files_that_cannot_be_read_are_left_out_if_asked(home, capsys):
    _, _, path = kept(home)
    whole = read_csv(main(Config(path, (home / "photos",), out=home / "whole.csv")))
    for name in ("broken.png", "deep/torn.jpg"):
        (home / "photos" / name).write_bytes(b"no image")
    given = Config(path, (home / "photos",), out=home / "out.csv", skip_bad=True)
    assert read_csv(main(given)) == whole
    said = capsys.readouterr().out
    assert "left out 2 of 9 files" in said and "torn.jpg (it is empty or none" in said
    with pytest.raises(ValueError, match="none of 1 files is an image"):
        main(Config(path, (home / "photos/broken.png",), skip_bad=True))


def test_single_files_have_the_lines_that_they_have_in_their_folder(home):
    _, _, path = kept(home)
    photos = home / "photos"
    whole = read_csv(main(Config(path, (photos,), out=home / "whole.csv")))
    given = photos / "2.png", photos / "deep"
    header, *lines = read_csv(main(Config(path, given, out=home / "out.csv")))
    names = [str(photos / "2.png")]
    names += [str(photos / f"deep/er/{i}.png") for i in (1, 3, 5)]
    assert [line[0] for line in lines] == names
    own = {str(photos / line[0]): line[1:] for line in whole[1:]}
    assert [line[1:] for line in lines] == [own[name] for name in names]


def test_a_labelled_folder_says_its_accuracy(home, capsys):
    _, _, path = kept(home)
    out = home / "out.csv"
    rows = read_csv(main(Config(path, (home / "photos",), out=out)))[1:]
    answers = {row[0]: row[1] for row in rows}
    labelled = home / "labelled"
    for i, name in enumerate(answers):  # the first two under a label that is not theirs
        own = CLASSES.index(answers[name])
        place = labelled / CLASSES[(own + 1) % 3 if i < 2 else own]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes((home / "photos" / name).read_bytes())
    capsys.readouterr()
    main(Config(path, (labelled,), out=out))
    _, total, *each = capsys.readouterr().out.splitlines()
    low, high = Share(5, 7).interval
    assert total == f"accuracy 0.714 [{low:.3f}, {high:.3f}], 5 of 7 (95 % interval)"
    counts = [line.rsplit(", ", 1)[1].split(" of ") for line in each]
    assert sum(int(right) for right, _ in counts) == 5
    assert sum(int(of) for _, of in counts) == 7
    (labelled / "bird").mkdir()
    (labelled / "bird/7.png").write_bytes((home / "photos" / name).read_bytes())
    main(Config(path, (labelled,), out=out))
    assert "no accuracy of" in (said := capsys.readouterr().out) and "bird" in said
    assert "\naccuracy" not in said
    (labelled / "bird/7.png").write_bytes(b"no image")  # left out, it labels nothing
    main(Config(path, (labelled,), out=out, skip_bad=True))
    assert total in capsys.readouterr().out


def test_bad_requests(home):
    _, _, path = kept(home)
    (home / "empty").mkdir()
    with pytest.raises(ValueError, match="no image below"):
        main(Config(path, (home / "empty",)))
    with pytest.raises(ValueError, match="no file or folder"):
        main(Config(path, (home / "absent",)))
    with pytest.raises(ValueError, match="could not be read as safetensors"):
        main(Config(home / "absent.safetensors", (home / "photos",)))
    with pytest.raises(ValueError, match=f"is a folder, .* such as {path.name}"):
        main(Config(path.parent, (home / "photos",)))
    with pytest.raises(ValueError, match="--batch 0"):
        main(Config(path, (home / "photos",), batch=0))
    _, _, wide = kept(home, image=(12, 14, 3))
    with pytest.raises(ValueError, match="12 x 14 pixels"):
        main(Config(wide, (home / "photos",)))


def test_rebuild_refuses_other_preprocessing_and_names(home):
    _, _, path = kept(home)
    saved, backbone = programs.load(path), backbones.convolutional()
    with pytest.raises(ValueError, match=r"\(0.4, 0.5, 0.6\).*std="):
        registry.rebuild(
            saved,
            backbone._replace(mean=(0.5, 0.5, 0.5)),
        )
    with pytest.raises(ValueError, match="did you mean 'watermark'"):
        card = saved.card._replace(method="watermarks")
        registry.rebuild(saved._replace(card=card), backbone)
    with pytest.raises(ValueError, match="other|not those of the program"):
        card = saved.card._replace(classes=("a", "b"))
        registry.rebuild(saved._replace(card=card), backbone)


def test_read_images_as_training_did(home):
    """The same files, through a task from a folder and through predict."""
    _, _, path = kept(home)
    files = data.image_files(home / "photos")
    found = predict.find_images([home / "photos"])
    x, kept_ones = predict.read(found, programs.load(path).card)
    np.testing.assert_array_equal(x, data.read_images(files, size=12))
    assert kept_ones == found and [one.path for one in found] == files
    assert x.dtype == np.uint8 and x.shape == (7, 12, 12, 3)


def test_nothing_is_fetched_because_a_file_says_so(home, monkeypatch):
    _, params, path = kept(home)
    for name in ("somebody/model", "https://example.com/x", str(home / "gone")):
        programs.save(path, params, programs.load(path).card._replace(backbone=name))
        with pytest.raises(ValueError, match=f"names '{name}' .* by --backbone"):
            main(Config(path, (home / "photos",), out=home / "out.csv"))
    main(Config(path, (home / "photos",), "elsewhere", out=home / "out.csv"))


def test_what_is_not_its_own_is_not_overwritten(home):
    _, _, path = kept(home)
    out = home / "out.csv"
    main(Config(path, (home / "photos",), out=out))
    main(Config(path, (home / "photos",), out=out))  # its own
    other = home / "marks.csv"
    other.write_text("name,mark\nAnn,1\n")
    with pytest.raises(ValueError, match="marks.csv is there and was not written by"):
        main(Config(path, (home / "photos",), out=other))
    assert other.read_text() == "name,mark\nAnn,1\n"
    with pytest.raises(ValueError, match="photos is a folder, expected a regular file"):
        main(Config(path, (home / "photos",), out=home / "photos"))
    with pytest.raises(OSError, match="out.csv"):  # a file in a folder's place
        main(Config(path, (home / "photos",), out=out / "new.csv"))


def test_cells_are_no_formulas_and_names_can_be_written():
    names = ["=1+1.png", "+a", "-a", "@a", "\ta", "\ra", "a=b", "caf\udce9.png"]
    text = predict.csv_text(names, ["=cat", "dog"], np.full((8, 2), 0.5))
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == ["file", "label", "probability", "'=cat", "dog"]
    wanted = ["'=1+1.png", "'+a", "'-a", "'@a", r"\x09a", r"\x0da", "a=b"]
    wanted += [r"caf\xe9.png"]
    assert [line[:2] for line in lines] == [[name, "'=cat"] for name in wanted]
    assert text.encode()


def test_answers_that_are_not_finite_are_refused(home, monkeypatch):
    _, _, path = kept(home)
    bad = np.full((7, 3), 1 / 3)
    bad[2] = np.nan
    monkeypatch.setattr(predict, "probabilities", lambda *_: bad)
    with pytest.raises(ValueError, match=r"1 of 7 images .* not finite \(4.png\)"):
        main(Config(path, (home / "photos",), out=home / "out.csv"))
    assert not (home / "out.csv").exists()


@pytest.mark.parametrize("error", [ValueError("no"), OSError(28, "No space left", "f")])
def test_a_fault_is_one_line(error, monkeypatch, capsys):
    def fails(config):
        raise error

    monkeypatch.setattr("sys.argv", ["x", "--program", "a", "--images", "b"])
    with pytest.raises(SystemExit) as ended:
        command(fails, Config)
    assert ended.value.code == f"error: {error}"


@pytest.mark.parametrize("settings, said", [(Config, ""), (Train, "; the same comm")])
def test_ctrl_c_is_one_line_too(settings, said, capsys):
    def stops(config):
        raise KeyboardInterrupt

    args = ["--program", "a", "--images", "b"] if settings is Config else []
    with pytest.raises(SystemExit) as ended:
        command(stops, settings, args=args)
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith(f"\nstopped{said}")


def test_a_warning_is_one_line_without_its_place(capsys):
    kinds = (UserWarning, DeprecationWarning)
    show = lambda _: print(*(warnings.formatwarning("one", k, "f", 1) for k in kinds))
    before = warnings.formatwarning
    command(show, Config, args=["--program", "a", "--images", "b"])
    assert capsys.readouterr().out.startswith("warning: one\n f:1: DeprecationWarning")
    assert warnings.formatwarning is before


def test_the_command_line_names_the_fault():
    command = [sys.executable, "-m", "reprojax", "predict"]
    run = subprocess.run(
        [*command, "--program", "absent.safetensors", "--images", "absent"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and "absent.safetensors" in run.stderr
