"""Which of the 72 cells the survey fills with a published method, and which it leaves
empty.

Counted from the 70 entries of the list that the survey's authors keep beside it
(github.com/zyecs/awesome-reprogrammability, arXiv 2506.04650). An entry with several
values counts in each of their combinations, so the counts are upper bounds. BAR, whose
columns are swapped there, counts as additive.
"""

from itertools import product

import numpy as np

from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell

KINDS = tuple(product(FORMATS, LOCATIONS, OPERATORS))
"""The 18 prompts, in the order of `experiments.map.cells.CELLS`."""

PAPERS = np.array(
    [  # identity, rule, statistical, linear
        [6, 3, 9, 4],  # learnable input additive
        [2, 2, 2, 2],
        [1, 2, 2, 0],
        [1, 0, 0, 0],  # learnable embedding additive
        [10, 2, 0, 5],
        [3, 1, 1, 6],
        [0, 1, 0, 0],  # learnable hidden additive
        [1, 1, 0, 4],
        [0, 1, 0, 1],
        [1, 2, 0, 0],  # fixed input additive
        [14, 1, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 0],  # fixed embedding additive
        [2, 0, 1, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],  # fixed hidden additive
        [2, 0, 0, 1],
        [0, 0, 0, 0],
    ]
)
"""Entries of the list in each cell, [18 4]."""

MISPLACED = {
    Cell("fixed", "embedding", "concatenative", "statistical"): "DART, 2108.13161: its "
    "code trains all weights of the model, so that nothing is frozen",
    Cell("fixed", "embedding", "concatenative", "linear"): "VPT, 2203.12119: its "
    "prompt is learnable",
    Cell("fixed", "hidden", "concatenative", "linear"): "VPT, 2203.12119: its prompt "
    "is learnable",
}
"""Cells that are filled only by an entry whose method belongs elsewhere, and why."""


def empty(as_listed: bool = False) -> np.ndarray:
    """Which cells have no published method, bool [18 4]: 40, or 37 by the list alone.

    Args:
        as_listed: believe the entries of `MISPLACED`.
    """
    found = PAPERS == 0
    for cell in () if as_listed else MISPLACED:
        found[KINDS.index(cell[:3]), OMEGAS.index(cell.omega)] = True
    return found
