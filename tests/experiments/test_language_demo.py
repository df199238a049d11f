"""The strings that the embedded language model learns from, its training, its demo."""

import json
import random
import re
from itertools import islice

import jax
import numpy as np
import pytest

from experiments import language_demo as demo
from experiments import train_abacus as training
from experiments.shared import abacus as drawn
from reprojax.models.language import abacus
from reprojax.text.in_process import language

SHARES = training.FINAL


def lines(family, number=40, length=200, manners=("direct", "steps"), seed=0):
    """Documents as texts."""
    rng = random.Random(seed)
    ids, weight = drawn.draw(rng, number, length, {family: 1.0}, manners)
    texts = ["".join(drawn.CHARACTERS[i] for i in row) for row in ids]
    return list(zip(texts, weight, strict=True))


def test_drawing_is_deterministic():
    one, again = (drawn.draw(random.Random(1), 8, 64, SHARES) for _ in range(2))
    for a, b in zip(one, again, strict=True):
        assert a.shape == (8, 64)
        np.testing.assert_array_equal(a, b)
    assert (drawn.draw(random.Random(2), 8, 64, SHARES)[0] != one[0]).any()


@pytest.mark.parametrize("operations", [1, 2, 8, 12])
def test_chains_are_worked_out_from_left_to_right(operations):
    rng = random.Random(operations)
    for _ in range(50):
        one = drawn.chain(rng, operations)
        first, *rest = re.findall(r"\d|[-+*]\d", one.question)
        value, written = int(first), []
        for step in rest:
            new = eval(f"{value}{step}") % 10
            written.append(f"{value}{step}={new}")
            value = new
        assert one.answer == str(value) and len(rest) == operations
        assert one.steps == " ".join(written)


@pytest.mark.parametrize("digits", [1, 3, 7])
def test_sums_are_worked_out_from_the_right(digits):
    rng = random.Random(digits)
    for _ in range(50):
        one = drawn.total(rng, digits)
        assert one.answer == str(eval(one.question.replace("+", "+0+")))
        *columns, last = one.steps.split()
        assert last == one.answer and len(columns) == digits
        carry = 0
        for column in columns:
            sides, whole = column.split("=")
            assert int(sides[-1]) == carry and eval(sides) == int(whole)
            carry = int(whole) // 10
        assert (
            "".join(c.split("=")[1][-1] for c in columns)[::-1]
            == (one.answer[-digits:])
        )


def test_functions_do_what_they_say():
    made = {name: f("abcd") for name, f in (drawn.FUNCTIONS | drawn.UNSEEN).items()}
    assert made == {
        "copy": "abcd",
        "reverse": "dcba",
        "first": "a",
        "last": "d",
        "double": "abcdabcd",
        "upper": "ABCD",
        "swap": "dbca",
    }


@pytest.mark.parametrize("family", ["chains", "sums"])
def test_training_draws_nothing_that_is_held_out(family):
    seen = 0
    for text, _ in lines(family, manners=("direct",)):
        whole = re.findall(r"(?<![\d*+-])\d+(?:[-+*]\d+)+(?![\d*+-])", text[:-20])
        seen += len(whole)
        assert not any(map(drawn.held_out, whole))
    assert seen > 100


def test_maps_of_training_are_not_held_out_and_those_of_tests_are():
    text_of = lambda one: ",".join(f"{k}>{v}" for k, v in sorted(one.pairs.items()))
    rng = random.Random(0)
    assert not any(drawn.held_out(text_of(drawn.drawn_map(rng, 3, 3))) for _ in "1234")
    for one in demo.held_out_maps(8, 4):
        assert drawn.held_out(text_of(one)) and len(one.pairs) == 4
        assert set(one.labels) == set(demo.LABELS)
    for one in demo.problems(drawn.chain, 5, 8):
        assert drawn.held_out(one.question)


def test_answers_alone_count_with_what_ends_them():
    form = drawn.Form("Q: ", "\nA: ", "\n\n")
    problem = drawn.Problem("1+2", "3", "1+2=3 3")
    pieces = list(drawn.written(form, iter([problem]), "steps"))
    assert "".join(text for text, _ in pieces) == "Q: 1+2\nA: 1+2=3 3\n\n"
    assert "".join(text for text, counts in pieces if counts) == "1+2=3 3\n"


def test_a_repeat_counts_where_it_was_there_before():
    for text, weight in lines("repeats", number=20, length=150):
        counted = np.flatnonzero(weight)
        assert counted.size
        for at in counted:
            before = text[:at]
            assert text[at - 1 : at + 1] in before or text[at] in before


def test_a_document_keeps_to_one_map():
    for text, weight in lines("maps", number=20):
        starts = np.flatnonzero((weight > 0) & (np.roll(weight, 1) == 0))
        told = {}
        for a, b in zip(starts[:-1], starts[1:], strict=True):
            end = a + int((weight[a:b] > 0).sum())
            question = text[max(0, a - 14) : a]
            told.setdefault(text[a:end], set()).add(question[-4:])
        assert len(told) <= 8


def test_killed_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    class Often(training.Checkpoints):
        def __init__(self, *args, minutes, **kw):
            super().__init__(*args, minutes=0.0, **kw)

    def at_most(number):
        def batch_of(config, step):
            if step == number:
                raise KeyboardInterrupt
            return real(config, step)

        return batch_of

    real = training.batch_of
    monkeypatch.setattr(training, "Checkpoints", Often)
    monkeypatch.setattr(abacus, "DEPTH", 1)
    monkeypatch.setattr(training, "LOOKING", 9)  # short documents
    config = training.Config(steps=5, batch=2, runs=tmp_path / "one")
    whole = training.train(config)
    config = training.Config(steps=5, batch=2, runs=tmp_path / "two")
    with monkeypatch.context() as patch:
        patch.setattr(training, "batch_of", at_most(3))
        with pytest.raises(KeyboardInterrupt):
            training.train(config)
    jax.tree.map(np.testing.assert_array_equal, training.train(config), whole)


def test_stored_weights_come_back_with_their_card(tmp_path):
    net = abacus.load_abacus()
    training.store(tmp_path / "w.safetensors", net.frozen, {"steps": 3})
    again = abacus.load_abacus(tmp_path / "w.safetensors")
    jax.tree.map(np.testing.assert_array_equal, again.frozen, net.frozen)
    assert abacus.abacus_card(tmp_path / "w.safetensors") == {"steps": 3}


# -- what the model can do, on draws that neither training nor its card had


@pytest.fixture(scope="module")
def asked():
    return language(abacus.load_abacus(), rows=32)


def test_maps_are_read_off_demonstrations(asked):
    maps = demo.held_out_maps(12, 4, seed=77)
    rows = [demo.demonstrations(one, 16, 77) for one in maps]
    wrong = [demo.text.random_labels(own, demo.LABELS, seed=1) for own in rows]
    ideal = np.mean([demo.ideal(*pair) for pair in zip(maps, rows, strict=True)])
    right = np.mean(demo.in_context(asked, maps, rows))
    control = np.mean(demo.in_context(asked, maps, wrong))
    stated, _ = abacus.abacus_card()["abilities"]["maps of 4 keys, 16 shown"]
    assert abs(right - stated) < 0.15 and right <= ideal + 0.05
    assert control < 0.45 < right


def test_steps_are_as_good_as_the_card_says(asked):
    asks = demo.problems(drawn.chain, 4, 16, seed=77)
    stated = abacus.abacus_card()["abilities"]["chain of 4: direct, steps"]
    for manner, said in zip(("direct", "steps"), stated, strict=True):
        score, _ = demo.written(asked, drawn.chain, asks, manner)
        assert abs(score.accuracy - said) < 0.3


def test_ideal_learner_knows_what_was_shown():
    one = drawn.Map({"a": "w", "b": "x", "c": "x", "d": "z"}, demo.LABELS)
    rows = [{"text": "a", "label": "w"}, {"text": "a", "label": "w"}]
    assert demo.ideal(one, []) == 0.25
    assert demo.ideal(one, rows) == (1 + 3 / 4) / 4


@pytest.mark.slow
def test_demo_writes_its_page(tmp_path):
    config = demo.Config(
        maps=2,
        shown=(0, 4),
        tuned=1,
        epochs=2,
        problems=2,
        operations=(2, 9),
        samples=2,
        out=tmp_path,
    )
    found = demo.main(config)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["steps"] == found["steps"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<table") == 3 and page.count("<picture>") == 2
    assert "ideal learner" in page and "random labels" in page
    assert len(list(islice(found["shown"]["few-shot"], 3))) == 2
