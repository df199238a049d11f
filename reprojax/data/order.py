"""Batches as a pure function of (seed, epoch, index), so a resume needs no state.

The last short batch of an epoch is filled with images of the epoch, under the label −1,
which losses and counts ignore. So every batch has the one compiled shape and nothing is
biased. The fillers are real images, because batch statistics do not look at labels.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from reprojax.data.checks import check
from reprojax.data.lazy import Images
from reprojax.data.rows import batch_labels, filler, spec, taken, unshared
from reprojax.data.task import Answers, Split, Task

READERS, AHEAD = 2, 3
"""Threads that make batches of images in files, and how many batches are made ahead."""

Batch = tuple[Any, Any, Any]
"""x uint8 [B h w C], or a tree of arrays [B ...]; y int32 [B]; the context. NumPy
arrays, or placed on devices by a `Reader`."""


class Outline(NamedTuple):
    """What is known of a task's training batches before any row is read."""

    name: str
    answers: Answers
    classes: int
    """The number of classes."""
    size: int
    """Rows of a batch."""
    steps: int
    """Batches an epoch."""
    short: int
    """Real rows of the last batch; 0 if it is full."""
    gaps: bool
    """Whether some label is missing."""
    x: Any
    """Shapes and types of a batch, as programs get it; likewise y and context."""
    y: Any
    context: Any


def outline(task: Task, batch: int) -> Outline:
    """Check a task, and describe its batches of that many rows."""
    x, y, context = check(task).train
    size = min(batch, len(y))
    steps, short = -(-len(y) // size), len(y) % size
    gaps = np.isnan(y) if np.issubdtype(y.dtype, np.floating) else y < 0
    specs = (
        spec(x, size),
        spec(batch_labels(y[:1]), size),
        unshared(spec(context, size)),
    )
    known = task.name, task.answers, len(task.classes), size, steps, short
    return Outline(*known, bool(gaps.any()), *specs)


def read_rows(split: Split, rows: np.ndarray, y: np.ndarray) -> Batch:
    """These rows of a split, with the given labels."""
    x, context = taken((split.x, split.context), rows)
    return x, y, context


class Reader(NamedTuple):
    """How to read batches whose rows are chosen."""

    read: Callable[[Split, np.ndarray, np.ndarray], Batch] = read_rows
    hold: Callable[[Any], Any] = lambda context: context
    """Called once with a split's context, before rows are read."""


PLAIN = Reader()


def steps(split: Split, size: int) -> int:
    """Batches an epoch, including a short last one."""
    if size < 1:
        raise ValueError(f"batches of {size} images; expected at least 1")
    if not len(split.y):
        raise ValueError("no batches of an empty split; expected at least one image")
    return -(-len(split.y) // size)


def batch(
    split: Split, size: int, seed: int, step: int, reader: Reader = PLAIN
) -> Batch:
    """The batch of a step counted from 0 through all epochs."""
    epoch, index = divmod(step, steps(split, size))
    order = _shuffled(len(split.y), seed, epoch)
    return reader.read(split, *_rows(split, order, index * size, size))


def batches(
    split: Split,
    size: int,
    seed: int,
    first: int,
    total: int,
    reader: Reader = PLAIN,
) -> Iterator[Batch]:
    """The batches of the steps first … total − 1: `batch` of each, in order.

    A run that resumes at another step gets the same rows, with nothing stored. Images
    in files are read ahead, a few batches at most.
    """
    split = split._replace(context=reader.hold(split.context))
    make = lambda step: batch(split, size, seed, step, reader)
    yield from _read(split, make, first, total)


def in_order(split: Split, size: int, reader: Reader = PLAIN) -> Iterator[Batch]:
    """Every row once, unshuffled: row i of the split is row i of the batches."""
    count, rows = steps(split, size), np.arange(len(split.y))
    split = split._replace(context=reader.hold(split.context))
    make = lambda i: reader.read(split, *_rows(split, rows, i * size, size))
    return _read(split, make, 0, count)


def _read(
    split: Split, make: Callable[[int], Batch], first: int, total: int
) -> Iterator[Batch]:
    """make(first) … make(total − 1); images in files are read ahead in threads."""
    if not isinstance(split.x, Images):
        yield from map(make, range(first, total))
        return
    import grain

    options = grain.ReadOptions(num_threads=READERS, prefetch_buffer_size=AHEAD)
    source = grain.MapDataset.range(first, total).map(lambda i: make(int(i)))
    made = iter(source.to_iter_dataset(options))
    try:
        yield from made
    finally:
        made.close()  # so that a loop left early leaves no thread behind


@lru_cache(maxsize=8)  # the steps of an epoch share one permutation
def _shuffled(n: int, seed: int, epoch: int) -> np.ndarray:
    rows = np.random.default_rng((seed, epoch)).permutation(n)
    rows.setflags(write=False)
    return rows


def _rows(
    split: Split, order: np.ndarray, start: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a batch, and their labels."""
    real = len(order[start : start + size])
    chosen = np.take(order, range(start, start + size), mode="wrap")
    y = batch_labels(split.y[chosen])
    y[real:] = filler(y)
    return chosen, y
