"""Batches as a pure function of (seed, epoch, index): nothing to store for a resume.

The last short batch of an epoch is filled with empty images of label −1. A label of −1
weighs nothing in a loss or a count, so the filling biases nothing, and every batch has
the one shape that was compiled.
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
    rows = _shuffled(len(split.y), seed, epoch)[index * size : (index + 1) * size]
    return _filled(split, rows, size)


def batches(split: Split, size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """One epoch, every image once."""
    count = steps(split, size)
    return (batch(split, size, seed, epoch * count + i) for i in range(count))


def in_order(split: Split, size: int) -> Iterator[Batch]:
    """Every image once, unshuffled: row i of the split is row i of the batches."""
    rows = np.arange(len(split.y))
    starts = range(0, steps(split, size) * size, size)
    return (_filled(split, rows[i : i + size], size) for i in starts)


@lru_cache(maxsize=8)  # an epoch's steps share one permutation
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    rows = np.random.default_rng((seed, epoch)).permutation(n)
    rows.setflags(write=False)
    return rows


def _filled(split: Split, rows: np.ndarray, size: int) -> Batch:
    x = np.zeros((size, *split.x.shape[1:]), split.x.dtype)
    y = np.full(size, -1, np.int32)
    x[: len(rows)], y[: len(rows)] = split.x[rows], split.y[rows]
    return x, y
