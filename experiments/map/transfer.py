"""Whether the coordinates alone predict a cell's accuracy on a task that was held out.

A ridge regression (penalty 1 for each effect) on the cells of the other tasks: the
effect of each level of the four dimensions, with or without those of all pairs of
levels, and an intercept for each task that is not penalised. The held-out task gets the
mean of these intercepts. A level that no other task has, such as identity where the
held-out task alone is in the model's label space, has the effect 0.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np

from experiments.map.cells import CELLS
from experiments.map.rows import mean
from experiments.map.variance import DIMENSIONS

MODELS = ("main effects", "with pairs")
MEASURES = ("R² against a constant", "R² of the order", "Spearman")
PENALTY = 1.0


def features(pairs: bool) -> np.ndarray:
    """Each level of each dimension, and each pair of levels: 0 or 1, [72 F]."""
    words = np.array(CELLS)
    levels = [np.array(own) for own in DIMENSIONS.values()]
    one = [(words[:, i, None] == own).astype(float) for i, own in enumerate(levels)]
    two = [
        (a[:, :, None] * b[:, None]).reshape(len(words), -1)
        for a, b in combinations(one, 2)
    ]
    return np.concatenate(one + two if pairs else one, 1)


def predicted(scores: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of all cells on a new task, [72], by tasks [T 72] and features [72 F]."""
    there = np.isfinite(scores)
    task, cell = np.nonzero(there)
    count, size = scores.shape[0], x.shape[1]
    design = np.concatenate([np.eye(count)[task], x[cell]], 1)
    penalty = np.diag(np.repeat([0.0, PENALTY], [count, size]))
    found = np.linalg.solve(design.T @ design + penalty, design.T @ scores[there])
    return found[:count].mean() + x @ found[count:]


class Held(NamedTuple):
    """A held-out task's cells, those predicted, and the other tasks' mean."""

    true: np.ndarray
    guess: np.ndarray
    constant: float


def held_out(scores: np.ndarray, task: int, pairs: bool) -> Held:
    """Of tasks [T 72]; the cells that the held-out task has."""
    others = np.delete(scores, task, 0)
    others = others[np.isfinite(others).any(1)]
    there = np.isfinite(scores[task])
    guess = predicted(others, features(pairs))[there]
    return Held(scores[task, there], guess, float(mean(others)))


def errors(held: Held) -> np.ndarray:
    """Sums of squares [4]: of the prediction and of the constant; of both after the
    mean of the task's true cells, or of its predicted ones, was taken off."""
    true, guess, constant = held
    level = true - true.mean()
    parts = true - guess, true - constant, level - (guess - guess.mean()), level
    return np.array([float(np.sum(part**2)) for part in parts])


def ranks_agree(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's correlation; NaN if all values of one are equal."""
    from scipy import stats

    return correlation(stats.rankdata(a), stats.rankdata(b))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; NaN if one does not vary."""
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / size if size > 1e-12 else np.nan


def transfer(accuracy: np.ndarray) -> np.ndarray:
    """For both `MODELS`, all `MEASURES` on each task, and over all: [2 3 T+1].

    Over all tasks, an R² is of the tasks' sums of squares; Spearman's is their mean.
    """
    scores = mean(accuracy, -1).reshape(len(accuracy), -1)
    found = []
    for pairs in (False, True):
        held = [held_out(scores, task, pairs) for task in range(len(scores))]
        sums = np.array([errors(own) for own in held])
        sums = np.concatenate([sums, sums.sum(0, keepdims=True)])
        orders = np.array([ranks_agree(own.true, own.guess) for own in held])
        orders = np.append(orders, mean(orders))
        found.append([_r2(*sums.T[:2]), _r2(*sums.T[2:]), orders])
    return np.array(found)


def _r2(error: np.ndarray, whole: np.ndarray) -> np.ndarray:
    nothing = np.full(error.shape, np.nan)
    return 1 - np.divide(error, whole, out=nothing, where=whole > 1e-12)
