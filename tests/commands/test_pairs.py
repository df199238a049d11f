"""The commands with a pair of towers: the folders' names become its texts."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from reprojax import __main__ as command
from reprojax import data, recipes
from reprojax.commands import pairs, predict, runs
from reprojax.commands.controls import Outputs
from reprojax.commands.settings import (
    Config,
    check_backbone,
    check_room,
    for_pair,
    identity_of,
    own_templates,
    sizes,
)
from reprojax.commands.train import facts, main
from reprojax.core import Params, reprogram
from reprojax.models import image_text, load
from reprojax.models.image_text import classifier
from reprojax.models.image_text.card import TEMPLATE
from reprojax.operators import resize
from reprojax.saving import programs

FOLDERS = ("solid-dash", "solid_tee")
NAMES = ["solid dash", "solid tee"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two folders of figures in the dark, nine in each, which zero-shot mixes up."""
    from experiments.train_sketches import captions

    folder, names = tmp_path_factory.mktemp("photos"), captions.unseen_names()
    drawn = captions.draw(np.random.default_rng(0), 400, unseen=True)
    labels = captions.unseen_numbers(drawn)
    for place, name in zip(FOLDERS, NAMES, strict=True):
        (folder / place).mkdir()
        rows = np.flatnonzero(labels == names.index(name))[:9]
        for row in rows:
            Image.fromarray(drawn.images[row] // 10).save(folder / place / f"{row}.png")
    return folder


def small(photos, out, **given):
    """A run of coop that takes seconds."""
    own = dict(method="coop", backbone="sketches", target=str(photos), out=out)
    own |= dict(epochs=2, learning_rate=0.5, batch=4, seeds=1, controls=False)
    own |= dict(length=2)
    return Config(**(own | given))


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def answers(program, params, model, photos, rows):
    """[N T] of a program, by hand."""
    files = [photos / row[0] for row in rows]
    x = data.read_images(files, size=256)
    logits = jax.jit(program.apply)(params, model.frozen, x)
    return np.asarray(jax.nn.softmax(logits))


def test_learned_words_around_the_names_of_folders(photos, tmp_path, capsys):
    """Through the command: trained, kept, and asked again from the file alone."""
    given = {"backbone": "sketches", "method": "coop", "target": photos, "epochs": 2}
    given |= {"learning-rate": 0.5, "batch": 4, "seeds": 1, "length": 2}
    given |= {"random-weights": 0, "out": tmp_path / "run"}
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    command.main(["train", *map(str, words)])
    said = " ".join(capsys.readouterr().out.split())
    table = json.loads((tmp_path / "run/results.json").read_text())["results"]
    assert [*table] == [
        "program",
        "zero-shot",
        "zero-shot ensemble",
        "linear probe",
        "nearest features",
    ]
    assert "coop has " in said and " over zero-shot and " in said
    assert (tmp_path / "run/report.html").read_text().count("&#x27;{}.&#x27;") > 0
    pair, found = image_text.load("sketches"), {}
    for name, template in {"seed": "{}.", "zero-shot": TEMPLATE}.items():
        file = tmp_path / f"run/{name}-0.safetensors"
        out = tmp_path / f"{name}.csv"
        words = ["--program", file, "--images", photos, "--out", out]
        command.main(["predict", *map(str, words)])
        header, *rows = read_csv(out)
        assert header[3:] == [*FOLDERS] and len(rows) == 18
        saved, model = programs.load(file), classifier(pair, NAMES, [template])
        assert saved.card.classes == FOLDERS and saved.card.template == template
        if name == "seed":
            program = recipes.build("coop", model, 2, length=2)
        else:
            program = reprogram(model.forward, {"input": resize(32)})
        spec = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.uint8)
        params = program.init(jax.random.key(0), model.frozen, spec)
        if name == "seed":
            assert saved.params["learnable"]["text/embed:out"].shape == (2, 64)
            params = saved.params_for(program, model.frozen, spec)
        found[name] = answers(program, params, model, photos, rows)
        kept = np.array([row[3:] for row in rows], float)
        np.testing.assert_allclose(kept, found[name], atol=2e-6)
    assert np.abs(found["seed"] - found["zero-shot"]).max() > 0.01
    assert " of 18 (95 % interval)" in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_same_bits(photos, tmp_path, monkeypatch):
    def run(place, **given):
        config = small(photos, tmp_path / place, **given)
        return runs.train(config, program, model, task, 0, "seed-0", progress=False)

    def stopped(*given, **how):
        def stop(told):
            raise KeyboardInterrupt

        return fit(*given, **how, on_epoch=stop)

    task = runs.read_task(small(photos, tmp_path), 0)
    model = pairs.bound(image_text.load("sketches"), task.classes, ["{}."])
    program, fit = recipes.build("coop", model, 2, length=2), runs.fit
    whole = run("whole")
    monkeypatch.setattr(runs, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("parts")
    monkeypatch.setattr(runs, "fit", fit)
    assert [*(tmp_path / "parts/seed-0").iterdir()]
    found = run("parts", resume=True)
    jax.tree.map(np.testing.assert_array_equal, found.params, whole.params)
    np.testing.assert_array_equal(found.curves[:, :2], whole.curves[:, :2])
    model = pairs.bound(image_text.load("sketches"), task.classes, ["the {}."])
    with pytest.raises(ValueError, match="identity.backbone"):
        run("parts", resume=True)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"template": ("a photo of a {name}.",)}, "one {} for the class's name and no"),
        ({"template": ("a {} of {a}",)}, "got the template 'a {} of {a}', expected"),
        (
            {"template": ("a {}", "a\n{}")},
            r"--template 'a.n\{\}', expected .* one line",
        ),
        ({"method": "tpt"}, "tpt, which has nothing to train .* coop, .*build.'tpt'"),
        ({"method": "tip-adapter"}, "nothing to train before .* tip-adapter-f;"),
        ({"method": "rvp"}, "rvp, which takes descriptions .* image_text.of_desc"),
        ({"method": "few-shot"}, "few-shot, which is not for images, expected one of"),
        ({"method": "maple", "rank": 2}, "with --method maple, .* one of lor-vp;"),
    ],
)
def test_settings_that_cannot_be_are_refused_first(given, said, tmp_path):
    unread = lambda *a, **k: pytest.fail("the model was loaded")
    with pytest.raises(ValueError, match=said):
        main(
            small("photos", tmp_path, **{"length": None} | given), load_backbone=unread
        )


@pytest.mark.parametrize(
    "given, said",
    [
        ({"backbone": "glyphs"}, "--method coop with --backbone glyphs, a model of im"),
        (
            {"backbone": "glyphs", "method": "vp", "template": ("a {}",)},
            "--template 'a {}' with --backbone glyphs, .* or leave --template out",
        ),
        ({"method": "l2p"}, r"l2p with the pair sketches, .*\['tokens'\], .* coop,"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_images_are_read(
    given, said, tmp_path
):
    unread = lambda *a, **k: pytest.fail("the images were read")
    config = small("photos", tmp_path, **{"length": None} | given)
    with pytest.raises(ValueError, match=said):
        main(config, load_task=unread)


def task_of(*classes, side=32):
    x = np.random.default_rng(0).integers(0, 256, (12, side, side, 3), np.uint8)
    return data.from_arrays(x, np.arange(12) % len(classes), classes)


@pytest.mark.parametrize(
    "classes, given, said",
    [
        (
            ["red_" * 40 + "box", "cup"],
            {},
            "of 44 tokens, expected at most 32, the pos",
        ),
        (
            ["red_box", "cup", "red-box"],
            {},
            "got the classes red_box, red-box, whose text is 'red box', .* for each",
        ),
        (["_-", "cup"], {}, "got the classes _-, whose text is '', .* rename '_-'"),
        (["Box", "box"], {}, "got the classes 'Box' and 'box', which are the same tok"),
        (["box", "zebra"], {}, r"sketches got the words \['zebra'\]"),
        (["box", "cup"], {"length": 40}, "44 tokens for a model that has 32 positions"),
        (
            ["box", "cup"],
            {"controls": True, "template": ("a nice {}",)},
            r"got the words \['nice'\]",
        ),
    ],
)
def test_texts_that_cannot_be_read_are_refused_before_training(
    classes, given, said, tmp_path, monkeypatch
):
    unread = lambda *a, **k: pytest.fail("something was trained")
    monkeypatch.setattr(runs, "fit", unread)
    config = small("photos", tmp_path, **given)
    with pytest.raises(ValueError, match=said):
        main(config, load_task=lambda *a, **k: task_of(*classes))


def test_words_do_not_fit_texts_whose_padding_counts():
    pair = replace(image_text.load("sketches"), padding="right")
    model = classifier(pair, NAMES)
    config = Config(method="kgcoop", backbone="sketches")
    with pytest.raises(ValueError, match="kgcoop with sketches, .* padding, vp|water"):
        check_room(config, pair, recipes.build("kgcoop", model, 2))
    check_room(config, pair, recipes.build("watermark", model, 2, "first"))


def test_what_a_pair_changes_in_the_settings():
    pair, config = image_text.load("sketches"), Config(template=("a {}", "the {}."))
    assert for_pair(replace(config, method="watermark")).map == "first"
    assert for_pair(replace(config, method="watermark", map="blm")).map == "blm"
    assert for_pair(replace(config, method="vpt-deep")).map is None
    assert own_templates(replace(config, method="coop")) == ("{}.",)
    assert own_templates(replace(config, method="kgcoop")) == config.template
    assert own_templates(Config(method="watermark")) == (TEMPLATE,)
    adapter = Config(method="tip-adapter-f")
    assert sizes(adapter, task_of("box", "cup")) == {"examples": 8}
    for name in ("coop", "vpt-deep", "watermark", "tip-adapter-f"):
        check_backbone(Config(method=name), pair)


def test_zero_shot_of_features_is_that_of_images():
    pair, task = image_text.load("sketches"), task_of(*FOLDERS)
    model = pairs.bound(pair, FOLDERS, ["a {}", "the {}."])
    logits = jax.jit(model.forward)(model.frozen, task.train.x)
    features = image_text.image_features(pair, task.train.x)
    labels = np.array(logits.argmax(-1))
    labels[0] = 1 - labels[0]
    seen = Outputs(np.zeros((len(labels), 0)), np.asarray(features), labels)
    found = pairs.unprompted_accuracy(model, {"test": seen})["test"]
    assert found == pytest.approx(1 - 1 / len(labels))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_nearest_features_are_those_of_the_smallest_angle(dtype):
    rows = lambda *rows: np.asarray(jnp.asarray(rows, dtype))
    known = Outputs(rows(), rows([10, 0], [1, 1]), np.array([0, 1]))
    asked = Outputs(rows(), rows([1.5, 0.1]), np.array([0]))
    assert pairs.nearest({"train": known, "test": asked}) == {"test": 1.0}


def test_a_program_of_bfloat16_finds_its_pair_again():
    model = pairs.bound(image_text.load("sketches", dtype="bfloat16"), FOLDERS, ["{}."])
    card = programs.Card.of(model, method="coop", arguments={}, classes=FOLDERS)
    card = card._replace(template="{}.")
    found = predict.find_backbone(card, None, pairs.load, pairs.names())
    assert found.fingerprint == card.fingerprint


def test_a_program_of_images_is_not_asked_of_a_pair():
    card = programs.Card.of(load("glyphs"), method="watermark", arguments={})
    with pytest.raises(ValueError, match="got the pair sketches for a program of an"):
        predict.find_backbone(card, "sketches", pairs.load, pairs.names())


def test_a_program_without_templates_is_not_of_a_pair_by_names():
    model = pairs.bound(image_text.load("sketches"), FOLDERS, ["{}."])
    card = programs.Card.of(model, method="coop", arguments={}, classes=FOLDERS)
    with pytest.raises(ValueError, match="pair sketches tells no templates .* in its"):
        predict.find_backbone(card, None, pairs.load, pairs.names())


def test_a_run_is_told_by_its_templates():
    model = pairs.bound(image_text.load("sketches"), FOLDERS, ["a {}"])
    told = lambda name: identity_of(Config(method=name, template=("a {}",)), model)
    assert told("kgcoop")["template"] == ["a {}"]
    assert told("coop")["template"] == ["{}."]
    assert "template" not in identity_of(Config(), load("glyphs"))


def test_a_report_tells_the_sizes_that_were_given(tmp_path):
    """Not those that a recipe takes from the task."""
    (tmp_path / "seed-0.safetensors").write_bytes(b"a file")
    model = pairs.bound(image_text.load("sketches"), FOLDERS, [TEMPLATE])
    config = Config(method="tip-adapter-f", out=tmp_path)
    told = dict(facts(config, model, task_of(*FOLDERS), Params()))
    assert "sizes given" not in told and told["texts"] == f"'{TEMPLATE}'"
    told = dict(facts(replace(config, rank=2), model, task_of(*FOLDERS), Params()))
    assert told["sizes given"] == "rank 2"


def test_which_features_are_computed_once():
    pair, task = image_text.load("sketches"), task_of(*FOLDERS)
    for name, held in {"kgcoop": "image/features", "plot": "images"}.items():
        model = classifier(pair, NAMES, own_templates(Config(method=name)))
        program = recipes.build(name, model, 2)
        only = model.roles["features"]
        assert pairs.quicker(program, model, task, only)[2].holds == held


def test_a_pair_is_told_by_its_files(tmp_path):
    from safetensors.numpy import save_file

    said = {"clip": True, "siglip2": True, "vit": False, "clip_vision_model": False}
    for kind, wanted in said.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        save_file({"a": np.ones(1)}, tmp_path / kind / "model.safetensors")
        assert image_text.is_pair(str(tmp_path / kind)) == wanted, kind
    for name, wanted in {"module.visual.proj": True, "blocks.0.norm": False}.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({name: np.ones(1)}, file)
        assert image_text.is_pair(file) == wanted
    (tmp_path / "torn.safetensors").write_bytes(b"no tensors")
    for name in ("glyphs", "nonsense", "./org/name", Path("a/b.safetensors")):
        assert not image_text.is_pair(name)
    assert not image_text.is_pair(tmp_path / "torn.safetensors")
