"""Batches as a pure function of (seed, epoch, index): nothing to store for a resume.

The last short batch of an epoch is filled with images that it has had, under the label
−1. That label weighs nothing in a loss or a count, so the filling biases nothing, and
every batch has the one shape that was compiled. The images are real ones because batch
statistics, where a method has some, do not look at labels.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from reprojax.data.task import Split

Batch = tuple[np.ndarray, np.ndarray]
"""x uint8 [B h w C] and y int32 [B]."""


def steps(split: Split, size: int) -> int:
    """Batches an epoch, the short one counted."""
    if size < 1:
        raise ValueError(f"batches of {size} images; expected at least 1")
    if not len(split.y):
        raise ValueError("no batches of an empty split; expected at least one image")
    return -(-len(split.y) // size)


def batch(split: Split, size: int, seed: int, step: int) -> Batch:
    """The batch of a step counted from 0 through all epochs."""
    epoch, index = divmod(step, steps(split, size))
    return _rows(split, _shuffled(len(split.y), seed, epoch), index * size, size)


def batches(split: Split, size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch, every image once."""
    count = steps(split, size)
    return (batch(split, size, seed, epoch * count + i) for i in range(count))


def in_order(split: Split, size: int) -> Iterator[Batch]:
    """Every image once, unshuffled: row i of the split is row i of the batches."""
    rows = np.arange(len(split.y))
    starts = range(0, steps(split, size) * size, size)
    return (_rows(split, rows, i, size) for i in starts)


@lru_cache(maxsize=8)  # an epoch's steps share one permutation
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    rows = np.random.default_rng((seed, epoch)).permutation(n)
    rows.setflags(write=False)
    return rows


def _rows(split: Split, order: np.ndarray, start: int, size: int) -> Batch:
    real = len(order[start : start + size])
    chosen = np.take(order, range(start, start + size), mode="wrap")
    y = np.where(np.arange(size) < real, split.y[chosen], -1)
    return split.x[chosen], y.astype(np.int32)
