"""Numbers that are not finite are marked, or refused with their file."""

import json
import math

import pytest
from scipy.stats import binomtest

from experiments import train_abacus
from experiments.three_paradigms.methods import Cell, kept
from experiments.train_glyphs import __main__ as train_glyphs
from reprojax.commands.intervals import Share, mean_of, paired
from reprojax.commands.outputs import replaceable
from reprojax.commands.tables import comparisons, control_row
from reprojax.models.language import abacus
from reprojax.models.vision import glyphs

CELL = Cell("prompt", 4, 0, 4, 0.5, 0.75, 10, 1.5, "(l)", "table", "words", 2.0)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_mean_is_marked(wrong):
    assert str(mean_of([0.5, wrong])) == str(mean_of([wrong])) == "not finite"
    assert paired([0.5, wrong], [0.5, 0.5]).interval == "not finite"
    assert control_row("x", {"test": [wrong, 0.5]})[0] == "not finite"
    assert str(mean_of([0.5])) == "0.500"


def test_the_interval_of_a_share():
    """Against scipy's; and it is never empty at 0 and 1."""
    for part, whole in ((0, 5), (3, 7), (90, 100), (5, 5)):
        wanted = binomtest(part, whole).proportion_ci(method="wilson")
        assert Share(part, whole).interval == pytest.approx(tuple(wanted), abs=1e-7)
    assert str(Share(0, 7)) == "0.000 [0.000, 0.354]"  # not -0.000
    assert Share(20, 20).interval[1] == 1


def test_cells_are_read_back_and_wrong_ones_are_named(tmp_path):
    path = tmp_path / "cells" / "prompt-k4-seed0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CELL._asdict()))
    assert kept(tmp_path) == [CELL]
    whole = CELL._asdict()
    wrong = [{**whole, k: v} for k in whole for v in (None, [], {}, math.nan)]
    wrong += [
        {**whole, k: "a" if isinstance(whole[k], float | int) else 1} for k in whole
    ]
    wrong += [{**whole, "more": 1}, {k: whole[k] for k in list(whole)[1:]}, [], None]
    for value in wrong:
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match="prompt-k4-seed0.json is"):
            kept(tmp_path)


@pytest.mark.parametrize(
    "script, own", [(train_glyphs, glyphs), (train_abacus, abacus)]
)
def test_training_writes_into_runs_and_over_nothing_else(tmp_path, script, own):
    config = script.Config()
    assert config.out.parts[0] == "runs" and config.weights == own.WEIGHTS
    copy = tmp_path / "own.safetensors"
    copy.write_bytes(own.WEIGHTS.read_bytes())
    replaceable(copy, script.MARK)
    other = tmp_path / "thesis.txt"
    other.write_text("a year")
    with pytest.raises(ValueError, match="thesis.txt is there and was not written by"):
        script.main(script.Config(out=other))


def test_a_difference_without_an_interval_tells_of_none():
    table = {"program": [0.5, 0.7, 0.6], "probe": [0.4, 0.6, 0.5], "map": [0.4] * 3}
    found = comparisons({name: {"test": scores} for name, scores in table.items()})
    assert found[0] == "over probe: +0.100 [no interval] (paired)"
    assert found[1].endswith("] (paired, 95 % interval)")
