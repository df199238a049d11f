"""The table of paradigms: its draws, its cells, its page, and a run that is killed."""

import json

import numpy as np
import optax
import pytest
from small_texts import CARD, LETTERS

from experiments.three_paradigms import benches, images
from experiments.three_paradigms.__main__ import Config, main
from experiments.three_paradigms.methods import (
    Bench,
    Cell,
    Made,
    Method,
    examples,
    searched,
)
from experiments.three_paradigms.page import differences, header, notes, rows
from experiments.three_paradigms.texts import Problem, Settings, Texts, bench
from reprojax.data import Split, Task
from reprojax.models.language import Tokenizer
from reprojax.taxonomy import Description


def a_task(counts=(20, 20, 20), rows=9):
    y = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    x = np.array([f"text {i}" for i in range(len(y))])
    other = Split(np.array([f"other {i}" for i in range(rows)]), y[:rows] * 0 + 1)
    names = tuple(f"class {c}" for c in range(len(counts)))
    return Task("toy", Split(x, y), other, other, names, "text")


# -- draws


def test_examples_are_balanced_and_nested():
    task = a_task((40, 12, 30))
    drawn = {k: examples(task, k, 3).train for k in (1, 4, 16, 64)}
    assert {k: len(split.y) for k, split in drawn.items()} == {
        1: 3,
        4: 4,
        16: 16,
        64: 64,
    }
    assert sorted(drawn[1].y) == [0, 1, 2]
    assert sorted(np.bincount(drawn[16].y)) == [5, 5, 6]
    assert np.bincount(drawn[64].y)[1] == 12  # a class that has no more
    for small, large in ((1, 4), (4, 16), (16, 64)):
        n = len(drawn[small].y)
        np.testing.assert_array_equal(drawn[large].x[:n], drawn[small].x)
    assert len(set(drawn[64].x)) == 64
    labels = dict(zip(task.train.x, task.train.y, strict=True))
    assert [labels[x] for x in drawn[64].x] == drawn[64].y.tolist()


def test_examples_hang_on_the_seed_and_are_not_sorted_by_class():
    task = a_task()
    one, two = (examples(task, 30, seed).train for seed in (0, 1))
    assert list(one.x) == list(examples(task, 30, 0).train.x) != list(two.x)
    assert (np.diff(one.y[:12]) < 0).any()
    turns = one.y.reshape(-1, 3)
    assert (np.sort(turns, 1) == [0, 1, 2]).all() and len({*map(tuple, turns)}) > 1


def test_more_examples_than_there_are():
    with pytest.raises(ValueError, match="got k=61 examples for 60 training rows"):
        examples(a_task(), 61, 0)


# -- the run, on a bench without a model


def toy(calls, seconds=()):
    """Accuracies that tell method, k and seed."""

    def method(name, scale, **how):
        def make(task, seed):
            calls.append((name, len(task.train.y), seed))
            score = lambda split: scale + 0.001 * len(task.train.y) + 0.01 * seed
            seen = Description((), "rule")
            return Made(score, lambda split: 0, scale + 0.01 * seed, seen, name)

        return Method(make=make, **how)

    methods = {
        "zero-shot": method("zero-shot", 0.5, paradigm="instruction", examples=False),
        "few-shot": method("few-shot", 0.6, paradigm="instruction"),
        "few-shot, calibrated": method("calibrated", 0.55, paradigm="instruction"),
        "prompt tuning": method("tuned", 0.7, paradigm="tuning", learned=True),
    }
    identity = {"model": "toy", "steps": [1, 2]}
    return Bench("toy", lambda seed: a_task(), methods, (1, 4), 2, identity, ["Few."])


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(own, **given):
        monkeypatch.setattr(benches, "find", lambda *given: own)
        return main(Config(out=tmp_path / "run", **given))

    return run


def test_a_killed_run_goes_on_with_what_is_missing(run, tmp_path, capsys):
    calls = []
    own = toy(calls)
    right = own.methods["prompt tuning"].make

    def killed(task, seed):
        if seed == 1:
            raise KeyboardInterrupt
        return right(task, seed)

    broken = own.methods["prompt tuning"]._replace(make=killed)
    with pytest.raises(KeyboardInterrupt):
        run(own._replace(methods=own.methods | {"prompt tuning": broken}), seeds=2)
    before = list(calls)
    assert before[:3] == [
        ("zero-shot", 60, 0),
        ("few-shot", 4, 0),
        ("calibrated", 4, 0),
    ]
    calls.clear()
    cells = run(own, seeds=2, resume=True)
    assert not set(calls) & set(before)
    assert len(set(before + calls)) == 2 * (1 + 3 * 2) == len(cells)
    assert {(c.k, c.examples) for c in cells} == {(0, 0), (1, 3), (4, 4)}
    stored = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [Cell(**one) for one in stored] == cells
    table = capsys.readouterr().out.split("\ntoy\n")[-1]
    assert "k = 0" in table and "k = 1 (3)" in table and "0.709 ± 0.064" in table
    calls.clear()
    run(own, seeds=1, ks=(4, 16), first_seed=2, resume=True)  # another seed, another k
    assert {(k, seed) for _, k, seed in calls} == {(60, 2), (4, 2), (16, 2)}


def test_the_folder_of_another_run_is_refused(run):
    own = toy([])
    run(own, seeds=1)
    with pytest.raises(ValueError, match="already holds this run"):
        run(own, seeds=1)
    with pytest.raises(ValueError, match="holds another run"):
        run(own._replace(identity={"model": "toy", "steps": [1, 3]}), resume=True)


def test_bad_settings(run, monkeypatch):
    with pytest.raises(ValueError, match=r"got --methods \['nothing'\], expected"):
        run(toy([]), methods=("zero-shot", "nothing"))
    with pytest.raises(ValueError, match="expected at least 1"):
        run(toy([]), ks=(0, 4))


# -- table and page


def cell(method, k, seed, test, validation=0.5, ms=1.0):
    what = "learnable input -> rule", "sites", "words", 1.0
    return Cell(method, k, seed, max(k, 2) if k else 0, test, validation, 7, ms, *what)


def test_rows_say_how_many_seeds_there_are():
    cells = [cell("few-shot", 4, s, 0.5 + 0.1 * s, ms=s) for s in range(3)]
    cells += [cell("zero-shot", 0, s, 0.4) for s in range(3)]
    cells += [cell("few-shot", 1, 0, 0.25, ms=99.0)]
    assert header(cells)[-3:] == ("k = 0", "k = 1 (2)", "k = 4")
    zero, few = rows(toy([]), cells)
    assert zero == (
        *cells[3][:1],
        cells[0].coordinates,
        "7",
        "1.0",
        "0.400 ± 0.000",
        "",
        "",
    )
    assert few[3:] == ("1.0", "", "0.250 (1)", "0.600 ± 0.248")


def test_what_is_learned_is_compared_with_the_row_that_validation_prefers():
    seeds, tests = range(3), (0.80, 0.85, 0.84)
    cells = [cell("prompt tuning", 4, s, t) for s, t in zip(seeds, tests, strict=True)]
    cells += [cell("few-shot", 4, s, 0.95, validation=0.6) for s in seeds]
    cells += [cell("few-shot, calibrated", 4, s, 0.8, validation=0.7) for s in seeds]
    cells += [cell("zero-shot", 0, 1, 0.5), cell("prompt tuning", 1, 0, 0.1)]
    head, (line,) = differences(toy([]), cells)
    assert head == ("k = 4", "over few-shot, calibrated", "over zero-shot")
    assert line == ("prompt tuning", "+0.030 [-0.036, +0.096]", "+0.350")
    lines = notes(toy([]), cells)
    assert "validation prefers few-shot, calibrated" in lines[1]
    assert "3 seeds" in lines[0] and lines[-1] == "Few."


def test_the_page_shows_curves_and_programs(run, tmp_path):
    from test_report import Page

    own = toy([])
    odd = own.methods["few-shot"]._replace(
        make=lambda task, seed: (
            own.methods["few-shot"]
            .make(task, seed)
            ._replace(shown="<b>Review</b>" + "x" * 3000)
        )
    )
    run(own._replace(methods=own.methods | {"few-shot": odd}), seeds=2)
    text = (tmp_path / "run" / "report.html").read_text()
    page = Page(text)
    assert len(page.images()) == 2 and "http" not in text.split("base64")[0]
    for name in own.methods:
        assert page.texts.count(name) >= 2  # in the table, and with its program
    assert "<b>Review" not in text and "… (1,513 more characters)" in text
    (alt,) = (a["alt"] for a in page.all("img"))
    assert "at 4: zero-shot 0.565, few-shot 0.609" in alt


# -- with a model

BLACK_BOX = "fixed input concatenative + learnable embedding additive -> rule"
TEXTS = [a + b + c for a in "abcdefgh" for b in "abcdefgh" for c in "abcd"]
SETTINGS = Settings(
    ks=(16,),
    validation=8,
    test=12,
    length=6,
    steps=16,
    batch=4,
    rates=dict.fromkeys(
        ("prompt tuning", "prefix tuning", "additive prompt, Bayesian map"), 0.05
    ),
    subspace=5,
    population=4,
    queries=64,
)


def a_model():
    """Its tokeniser takes any character that it does not know for the first."""
    encode = lambda text, special=True: [max(LETTERS.find(c), 0) for c in text]
    known = CARD.input.tokenizer
    text = Tokenizer(encode, known.decode, known.id, known.token, known.size)
    return CARD._replace(tokenizer=text)


def a_problem(texts=TEXTS):
    y = [int(text[0] in "efgh") for text in texts]
    how = "{text}.{label}", "a text."
    return Problem("first letters", texts, y, ("o", "p"), *how)


FEW = ("zero-shot", "few-shot", "few-shot, calibrated", "prompt tuning", "linear probe")


@pytest.mark.parametrize("names", [FEW, pytest.param((), marks=pytest.mark.slow)])
def test_methods_on_a_language_model(run, names):
    own = bench(a_model(), a_problem([*TEXTS, "abcabcabc"]), SETTINGS)
    cells = run(own, seeds=1, methods=names)
    names = names or tuple(own.methods)
    assert sorted(c.method for c in cells) == sorted(names)
    assert all(0 <= c.test <= 1 and c.milliseconds >= 0 for c in cells)
    seen = {c.method: (c.coordinates, c.learnable) for c in cells}
    known = {
        "majority class": ("no prompt -> rule", 0),
        "zero-shot": ("no prompt -> rule", 0),
        "few-shot": ("fixed input concatenative -> rule", 0),
        "few-shot, calibrated": ("fixed input concatenative -> statistical", 0),
        "prompt tuning": ("learnable embedding concatenative -> rule", 7 * 16),
        "prefix tuning": ("learnable hidden concatenative -> rule", 2 * 7 * 2 * 4),
        "black-box tuning": (BLACK_BOX, 5),
        "additive prompt, Bayesian map": (
            "learnable embedding additive -> statistical",
            16,
        ),
        "map without prompt": ("no prompt -> statistical", 0),
        "linear probe": ("no prompt -> linear", 2 * 16 + 2),
    }
    assert seen == {name: known[name] for name in names}
    shown = {c.method: c.shown for c in cells}
    assert "16 examples shown, at most 7 of them left out" in shown["few-shot"]
    assert "16 steps, loss" in shown["prompt tuning"]
    assert len(shown["prompt tuning"].splitlines()) == 1 + 7
    if len(names) > len(FEW):
        lines = shown["additive prompt, Bayesian map"].splitlines()
        assert lines[1].startswith("o: '") and "64 queries" in shown["black-box tuning"]
    assert "1 of 257 texts, of more than 6 tokens" in own.remarks[0]


@pytest.mark.slow
def test_all_methods_on_an_image_classifier(run):
    import backbones

    settings = images.SETTINGS._replace(
        target="digits", ks=(20,), validation=20, test=30, steps=8, inner=8, map="blm"
    )
    own = images.bench(backbones.transformer(), settings)
    cells = run(own, seeds=1)
    assert sorted(c.method for c in cells) == sorted(own.methods)
    seen = {c.method: c.coordinates for c in cells}
    assert seen["padding"] == "learnable input concatenative -> statistical"
    assert seen["visual prompt tuning"].endswith("-> linear")
    shown = {c.method: c.shown for c in cells}
    assert len(shown["map without prompt"].splitlines()) == 1 + 10
    assert "8 steps, loss" in shown["padding"]


def test_a_search_learns_and_never_sees_the_test_split():

    own = Texts(a_model(), a_problem(), SETTINGS)
    task = own.encoded(examples(own.task(0), 8, 0)).task
    poisoned = task._replace(test=Split(None, None))
    found = searched(
        own.programs["prompt tuning"],
        own.card.frozen,
        poisoned,
        optax.adam(0.2),
        steps=64,
        batch=4,
        seed=0,
    )
    assert found.curves.shape == (8, 5)
    assert found.curves[-1, 0] < 0.8 * found.curves[0, 0]
    assert found.validation == found.curves[:, 1].max()
