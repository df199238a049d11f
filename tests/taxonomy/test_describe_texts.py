import pytest
from scripted import Scripted, worded

from reprojax import stateless
from reprojax.recipes.prompt_instruction import (
    chain_of_thought,
    few_shot,
    kate,
    self_consistency,
    zero_shot,
    zero_shot_chain_of_thought,
)
from reprojax.taxonomy import describe_texts
from reprojax.text import ask, instruct, number
from reprojax.text.calibration import contextual_calibration

LABELS = ("bad", "good")
TEMPLATE = "{text} It was {label}"
ROWS = [{"text": "a", "label": "bad"}, {"text": "b", "label": "good"}]
XS = [{"text": "x"}]
QA = "Q: {text}\nA: {answer}"
STEPS = [{"text": "1+1", "answer": "2"}]

CASES = {
    "zero-shot": (lambda: zero_shot(TEMPLATE, LABELS), "no prompt -> rule"),
    "instruction": (
        lambda: zero_shot(TEMPLATE, LABELS, instruction="Judge. "),
        "fixed input concatenative -> rule",
    ),
    "few-shot": (
        lambda: few_shot(TEMPLATE, LABELS, ROWS),
        "fixed input concatenative -> rule",
    ),
    "kate": (
        lambda: kate(TEMPLATE, LABELS, ROWS, lambda t: [[1.0]] * len(t), k=1),
        "fixed input concatenative -> rule",
    ),
    "chain of thought": (
        lambda: chain_of_thought(QA, STEPS, number()),
        "fixed input concatenative -> rule",
    ),
    "self-consistency": (
        lambda: self_consistency(QA, STEPS, number(), samples=3),
        "fixed input concatenative -> rule",
    ),
    "zero-shot chain of thought": (
        lambda: zero_shot_chain_of_thought(QA),
        "fixed input concatenative + learnable input concatenative -> rule",
    ),
    "bare": (lambda: instruct(ask(QA), {}), "no prompt -> identity"),
    "rewritten": (
        lambda: instruct(ask(QA), {"ask:in": stateless(str.upper)}),
        "fixed input parametric -> identity",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_coordinates_of_text_programs(name):
    make, expected = CASES[name]
    scripted = Scripted(lambda r: "1", lambda item: -1.0, worded, 1000)
    program = make()
    params = program.init(None, scripted.language)
    found = describe_texts(program, params, scripted.language, XS)
    assert found.coordinates == expected
    assert not scripted.rounds, "nothing is paid"
    assert found.learnable == 0


def test_an_alignment_is_statistical_once_it_was_estimated():
    lean = lambda item: -1.0 if "good" in item.text else -3.0
    scripted = Scripted(score=lean, encode=worded)
    program = few_shot(TEMPLATE, LABELS, ROWS)
    params = program.init(None, scripted.language)
    params = contextual_calibration(program, params, scripted.language)
    found = describe_texts(program, params, scripted.language, XS)
    assert found.coordinates == "fixed input concatenative -> statistical"
    assert found.rows[-1].fixed == 2
    assert "ask:in" in str(found)
