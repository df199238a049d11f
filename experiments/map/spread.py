"""The other measures of a map: costs, calibration, and accuracy under shift.

Arrays are [T 18 4 N], as of `experiments.map.rows.grid`.
"""

import numpy as np

from experiments.map.rows import mean
from experiments.map.transfer import correlation
from experiments.map.variance import DIMENSIONS


def with_cost(
    accuracy: np.ndarray, cost: np.ndarray, by_alignment: bool = False
) -> np.ndarray:
    """Pearson's correlation of a cell's accuracy with the logarithm of a cost, after
    the means of each task were taken off both. Cells without the cost, or of cost 0
    (such as prompts without learnable numbers), are left out.

    Args:
        by_alignment: take off the means of each task and alignment instead.
    """
    a, cost = mean(accuracy, -1), mean(cost, -1)
    there = np.isfinite(a) & (cost > 0)
    b = np.log(cost, out=np.full(cost.shape, np.nan), where=there)
    axes = (1,) if by_alignment else (1, 2)
    a, b = (_centred(np.where(there, own, np.nan), axes)[there] for own in (a, b))
    return np.array(correlation(a, b) if len(a) > 2 else np.nan)


def _centred(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return values - np.expand_dims(mean(values, axes), axes)


def levels(values: np.ndarray, dimension: str) -> np.ndarray:
    """For each level of a dimension, [2 levels]: the mean over its cells; and the mean
    difference between a cell and the cells that differ from it in this dimension alone,
    itself among them."""
    axis = 1 + [*DIMENSIONS].index(dimension)
    split = mean(values, -1).reshape(len(values), *map(len, DIMENSIONS.values()))
    others = tuple(i for i in range(split.ndim) if i != axis)
    alone = np.isfinite(split).sum(axis, keepdims=True) < 2
    matched = np.where(alone, np.nan, _centred(split, (axis,)))
    return np.stack([mean(split, others), mean(matched, others)])
