"""The experiment of images and texts: its tasks, its sentences, a small run."""

import json

import numpy as np
import pytest

from experiments.image_text import tasks
from experiments.image_text.__main__ import Config, main, rows
from experiments.image_text.methods import CONTROLS, spoken
from experiments.image_text.sentences import best, holds, orders
from experiments.train_sketches import captions
from reprojax.commands.intervals import Mean
from reprojax.data import Split, Task
from reprojax.models import image_text


def small(classes=6, each=20):
    y = np.arange(classes * each) % classes
    x = np.broadcast_to(y[:, None, None, None], (len(y), 4, 4, 3)).astype(np.uint8)
    split = Split(x, y.astype(np.int32))
    return Task("small", split, split, split, tuple("abcdef"[:classes]))


def test_halves_hold_their_own_classes_and_images():
    base, new = tasks.halves(small(5))
    assert (base.classes, new.classes) == (("a", "b", "c"), ("d", "e"))
    for part, first in ((base, 0), (new, 3)):
        np.testing.assert_array_equal(part.test.x[:, 0, 0, 0], part.test.y + first)
    with pytest.raises(ValueError, match="expected at least 4"):
        tasks.halves(small(3))


def test_few_draws_other_shots_by_seed_and_keeps_the_test_images():
    task = small()
    drawn = [tasks.few(task, 3, seed) for seed in (0, 0, 1)]
    for one in drawn:
        assert np.bincount(one.train.y).tolist() == [3] * 6
        assert np.bincount(one.validation.y).tolist() == [3] * 6
        np.testing.assert_array_equal(one.test.y, task.test.y)
    assert np.bincount(tasks.few(task, 16, 0).validation.y).tolist() == [4] * 6


def test_unseen_pairs_are_never_drawn_in_training():
    rng = np.random.default_rng(0)
    pairs = lambda drawn: {
        (captions.MANNERS[m], [*captions.FIGURES][f])
        for m, f in zip(drawn.manner, drawn.figure, strict=True)
    }
    assert not pairs(captions.draw(rng, 2000)) & set(captions.UNSEEN)
    assert pairs(captions.draw(rng, 500, unseen=True)) == set(captions.UNSEEN)


def test_captions_are_of_known_words_and_name_the_figure():
    encode = image_text.load("sketches").text.input.tokenizer.encode
    rng = np.random.default_rng(0)
    drawn = captions.draw(rng, 200, unseen=None)
    for i in range(200):
        text = captions.caption(rng, drawn, i)
        name = [*captions.FIGURES][drawn.figure[i]]
        assert name in text and len(encode(text)) <= 16
        assert " a o" not in f" {text}" and "  " not in text
    with pytest.raises(ValueError, match="the words \\['zebra'\\]"):
        encode("a zebra")


def test_sentences_say_who_is_best_and_which_orders_hold():
    scores = {
        "zero-shot": {"base": [0.5, 0.52, 0.51], "new": [0.6, 0.6, 0.61]},
        "linear probe": {"base": [0.8, 0.81, 0.82]},
        "coop": {"base": [0.7, 0.72, 0.71], "new": [0.5, 0.51, 0.5]},
        "cocoop": {"base": [0.6, 0.61, 0.62], "new": [0.58, 0.6, 0.59]},
    }
    methods = ("coop", "cocoop")
    (line,) = best(methods, scores, "base")
    assert "the best prompt is coop" in line and "linear probe, 0.810" in line
    assert "no prompt beats it" in line
    (line,) = best(methods, scores, "new")
    assert "the best prompt is cocoop" in line and "do not settle" in line
    said = orders(scores)
    assert len(said) == 2 and all(line.endswith("it holds.") for line in said)
    assert holds(Mean(0.1, 0.2)) == "not settled"
    assert holds(Mean(-0.3, 0.2)) == "it does not hold"
    better = scores | {"coop": {"base": [0.9, 0.91, 0.92]}}
    assert "the prompt wins" in best(methods, better, "base")[0]


def test_a_prompt_of_the_base_classes_is_asked_about_new_ones(tmp_path, monkeypatch):
    whole = tasks.read("dark-figures", pool=240, test=96)
    monkeypatch.setattr(tasks, "read", lambda name: whole)
    own = dict(seeds=1, shots=(2,), rates=(1.0, 10.0), choosing=1, epochs=1)
    found = main(Config(methods=("kgcoop",), out=tmp_path / "run", **own))
    assert set(found["2/kgcoop/rates"]) == {"1", "10"}
    assert set(found["2/kgcoop/0"]) == {"base", "new"}
    # one step from "a photo of a" is still nearly zero-shot
    for place in ("base", "new"):
        assert abs(found["2/kgcoop/0"][place] - found["2/zero-shot/0"][place]) < 0.2


def test_descriptions_of_each_class_are_written_in_known_words():
    task = tasks.read("unseen-figures", pool=48, test=24)
    encode = image_text.load("sketches").text.input.tokenizer.encode
    looks, apart = tasks.descriptions(task, ())
    assert set(looks) == set(apart) == set(task.classes)
    for texts in (*looks.values(), *apart.values()):
        assert len(set(texts)) == 6 and all(map(encode, texts))
    other = task._replace(classes=("zebra", *task.classes[1:]))
    with pytest.raises(ValueError, match="give --descriptions"):
        tasks.descriptions(other, ())


def test_names_of_folders_are_read_as_words():
    assert spoken("red_arrow-two") == "red arrow two"


def test_a_small_run_keeps_its_numbers_and_goes_on(tmp_path, capsys):
    config = Config(methods=(), seeds=2, shots=(2,), out=tmp_path / "run")
    found = main(config)
    kept = json.loads((tmp_path / "run/results.json").read_text())
    assert kept == found and len(found) == 8
    assert set(found["2/zero-shot/0"]) == {"base", "new"}
    assert set(found["2/linear probe/1"]) == {"base"}
    page = (tmp_path / "run/report.html").read_text()
    assert page.count("<img") == 12 and "Images, and what zero-shot answers" in page
    again = main(
        Config(methods=(), seeds=2, shots=(2,), out=tmp_path / "run", resume=True)
    )
    assert again == found
    table = rows(config, found)
    assert [line["method"] for line in table] == list(CONTROLS)
    assert table[2]["new"] == "—"
    with pytest.raises(ValueError, match="resume"):
        main(config)


BAD = {
    "a method": (dict(methods=("coup",)), "expected some of"),
    "no seeds": (dict(seeds=0, methods=()), "expected at least one of each"),
    "no shots": (dict(shots=(), methods=()), "expected at least one of each"),
    "transfer": (dict(transfer=("digits",), methods=()), "and none otherwise"),
    "cross": (dict(protocol="cross-dataset", methods=()), "expected other data sets"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name, tmp_path):
    given, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        main(Config(out=tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()
