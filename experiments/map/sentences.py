"""What the map says, in sentences that are computed from it."""

from collections.abc import Sequence

import numpy as np

from experiments.map.outcomes import TUNED, Board, Spot
from reprojax.commands.intervals import Mean


def overview(boards: Sequence[Board]) -> str:
    """How many cells have been measured, and how."""
    cells = [spot for board in boards for spot in board.cells.values()]
    if not cells:
        return "Nothing has been measured yet."
    states = [spot.state for spot in cells]
    others = [
        f"{states.count(state)} {words}"
        for state, words in (
            ("impossible", "cannot exist"),
            ("failed", "failed"),
            ("waiting", "are not measured yet"),
        )
        if state in states
    ]
    rest = f"; {', '.join(others)}" if others else ""
    return (
        f"{states.count('measured')} of {len(cells)} cells are measured on "
        f"{_number(len(boards), 'task')} ({', '.join(b.bench for b in boards)}), "
        f"{_seeds(cells)}{rest}."
    )


def _seeds(spots: Sequence[Spot]) -> str:
    counts = sorted({len(spot.runs) for spot in spots if spot.runs})
    if len(counts) < 2:
        return f"each with {_number(counts[0] if counts else 0, 'seed')}"
    return f"each with {counts[0]} to {counts[-1]} seeds"


def verdict(board: Board) -> str:
    """The best cell beside the strongest control."""
    ranked, control = board.ranked, board.strongest()
    if not ranked:
        return f"On {board.bench}, no cell has a mean yet."
    best = ranked[0]
    own = f"{best.title}, has {best.mean}"
    if control is None:
        return (
            f"On {board.bench}, the best of {len(ranked)} cells, {own}; no control is "
            "measured yet."
        )
    text = (
        f"On {board.bench}, {_against(ranked, control)}: the best, {own}; "
        f"{_by(best, control)}."
    )
    frozen = board.strongest(tuned=False)
    if control.name == TUNED and frozen is not None:
        text += (
            f" Among the controls that leave the weights as they are, "
            f"{_against(ranked, frozen)}; of the best cell, {_by(best, frozen)}."
        )
    return text


def _against(ranked: Sequence[Spot], control: Spot) -> str:
    over = sum(above(spot.over(control)) for spot in ranked)
    name = f"{control.title} ({control.mean})"
    if not over:
        return f"no cell beats {name}"
    return f"{over} of {len(ranked)} cells {'beats' if over == 1 else 'beat'} {name}"


def _by(best: Spot, control: Spot) -> str:
    difference = best.over(control)
    if np.isnan(difference.value):
        return "the two have no seed in common"
    text = f"the paired difference is {difference.interval}"
    if np.isfinite(difference.half) and abs(difference.value) <= difference.half:
        text += ", which may be none"
    return text


def above(difference: Mean) -> bool:
    """The whole interval is above zero."""
    return bool(difference.value - difference.half > 0)


def picked(board: Board) -> str:
    """The cell that validation would take; "" without validation accuracies."""
    ranked = board.ranked
    by = [float(np.mean(spot.of_runs("validation"))) for spot in ranked]
    if not by or not np.isfinite(by).any():
        return ""
    best = ranked[int(np.nanargmax(by))]
    if best is ranked[0]:
        return f"On {board.bench}, validation picks the cell that is best on test."
    own = f"{best.title}, which has {best.mean} on test"
    return f"On {board.bench}, validation picks {own}."


CAUTION = (
    "± and brackets are 95 % intervals over seeds (Student's t). A cell beats a "
    "control where the interval of their difference, paired over seeds, lies above "
    "zero. The intervals are not corrected for the number of cells: of 40 cells that "
    "are as good as the control, one would seem to beat it. The best cell is found by "
    "the test examples themselves, so its number is a little too high."
)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
