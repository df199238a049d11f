"""The taxonomy's tables of language methods and of cells say what is observed."""

import jax.numpy as jnp
import pytest
from scripted import Scripted, worded
from small_languages import QUERIES, card
from test_describe_texts import CASES, LABELS, ROWS, TEMPLATE, XS
from test_docs import ROOT, rows

from reprojax import reprogram
from reprojax.alignments import label_words
from reprojax.core import padded
from reprojax.formats import fixed
from reprojax.models.language.maps import vocabulary_map
from reprojax.operators import insert
from reprojax.recipes import METHODS, methods
from reprojax.recipes import model_reprogramming as reprogrammed
from reprojax.recipes import prompt_tuning as tuned
from reprojax.recipes.prompt_instruction import few_shot
from reprojax.taxonomy import cells, describe, describe_texts, grid
from reprojax.text.calibration import contextual_calibration

LANGUAGE = card("rotary")
WORDS = label_words([3, 5, 8])
VECTOR = jnp.ones(LANGUAGE.width)
PROGRAMS = {
    "prompt-tuning": lambda: tuned.prompt_tuning(LANGUAGE, WORDS, length=3),
    "prefix-tuning": lambda: tuned.prefix_tuning(LANGUAGE, WORDS, length=3, hidden=4),
    "p-tuning-v2": lambda: tuned.p_tuning_v2(LANGUAGE, targets=3, length=3),
    "loreft": lambda: tuned.loreft(LANGUAGE, WORDS, rank=2),
    "activation-addition": lambda: tuned.activation_addition(
        LANGUAGE, WORDS, vector=VECTOR, layer=1
    ),
    "black-box-tuning": lambda: tuned.black_box_tuning(
        LANGUAGE, WORDS, length=3, size=5
    ),
    "decomposed-prompt-tuning": lambda: tuned.decomposed_prompt_tuning(
        LANGUAGE, WORDS, length=3, rank=2, words=4
    ),
    "vocabulary-remapping": lambda: reprogrammed.vocabulary_remapping(
        LANGUAGE, WORDS, letters=10, width=1
    ),
    "additive-prompt": lambda: reprogrammed.additive_prompt(LANGUAGE, WORDS),
}
TEXTS = {
    "zero-shot": "instruction",
    "few-shot": "few-shot",
    "kate": "kate",
    "chain-of-thought": "chain of thought",
    "self-consistency": "self-consistency",
    "zero-shot-chain-of-thought": "zero-shot chain of thought",
}
CALIBRATED = "contextual_calibration"
ONE_LINE = {
    "reprogram": reprogram,
    "insert": insert,
    "fixed": fixed,
    "vocabulary_map": vocabulary_map,
    "additive_prompt": reprogrammed.additive_prompt,
    "vocabulary_remapping": reprogrammed.vocabulary_remapping,
    "prompt_tuning": tuned.prompt_tuning,
    "prefix_tuning": tuned.prefix_tuning,
    "language": LANGUAGE,
    "demonstrations": jnp.array([4, 5, 6]),
    "n": 3,
    "T": 3,
    "letters": 10,
}


def observed(program):
    x = padded(QUERIES)
    seen = describe(program, LANGUAGE.frozen, x, roles=LANGUAGE.roles)
    return seen.coordinates


def test_the_tables_have_every_method():
    lines = rows("Language models")
    assert set(lines) == {*PROGRAMS, *TEXTS, CALIBRATED}
    assert set(PROGRAMS) == set(methods(LANGUAGE))
    assert set(TEXTS) == {n for n, m in METHODS.items() if m.needs.access == "texts"}
    for name in {*PROGRAMS, *TEXTS}:
        assert lines[name][3] == METHODS[name].enters


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_line_is_what_describe_observes(name):
    assert rows("Language models")[name][2] == observed(PROGRAMS[name]())


@pytest.mark.parametrize("name", TEXTS)
def test_a_line_of_texts_is_what_describe_texts_observes(name):
    make, _ = CASES[TEXTS[name]]
    scripted = Scripted(lambda r: "1", lambda item: -1.0, worded, 1000)
    program = make()
    params = program.init(None, scripted.language)
    seen = describe_texts(program, params, scripted.language, XS)
    assert rows("Language models")[name][2] == seen.coordinates


def test_the_line_of_calibration_is_what_describe_texts_observes():
    lean = lambda item: -1.0 if "good" in item.text else -3.0
    scripted = Scripted(score=lean, encode=worded)
    program = few_shot(TEMPLATE, LABELS, ROWS)
    params = program.init(None, scripted.language)
    params = contextual_calibration(program, params, scripted.language)
    seen = describe_texts(program, params, scripted.language, XS)
    assert rows("Language models")[CALIBRATED][2] == seen.coordinates


def test_the_grid_has_the_methods_of_all_tables():
    lines = {**rows("Images"), **rows("Pairs of an image and a text tower")}
    lines |= rows("Language models")
    found = grid(cells({name: line[2] for name, line in lines.items()}))
    assert found in (ROOT / "docs/taxonomy.md").read_text()


@pytest.mark.parametrize("line", rows("The 72 cells"))
def test_cells_that_the_literature_leaves_empty(line):
    assert observed(eval(line, ONE_LINE)) == rows("The 72 cells")[line][1]
