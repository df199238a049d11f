"""A task: three splits of labelled images and the names of their classes."""

import hashlib
from typing import Any, Literal, NamedTuple

import numpy as np

from reprojax.data.lazy import Images
from reprojax.data.rows import batch_labels, leaves

Answers = Literal["class", "labels", "numbers", "words", "none"]


class Split(NamedTuple):
    """Images x, uint8 [N h w C] with C 1 or 3, and labels y, int32 [N].

    If x is `Images`, rows stay in files until they are read. Other tasks hold any tree
    of arrays [N ...], such as `sequence.Tokens`.
    """

    x: Any
    y: np.ndarray
    context: Any = None
    """The survey's c: a tree of arrays [N ...] with a row for each of x. A value for
    all rows is wrapped in `Shared`."""


class Task(NamedTuple):
    """Three splits with values of one shape, and labels of the kind `answers`."""

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    holds: str = "images"
    """What x is if not images, a tree of arrays [N ...] of any type: a site's name for
    cached values, "text" for strings, or a word of your own."""
    answers: Answers = "class"
    """The kind of y. "class": [N], an index into `classes`. "labels": [N T] of 0 and 1,
    one for each of `classes`, -1 if unknown. "numbers": floats [N R], NaN if unknown.
    "words": [N L], token ids to be written, -1 where none counts. "none": zeros [N],
    for losses without labels."""


SPLITS = ("train", "validation", "test")

SPELLINGS = {  # accepted names of splits in files and folders
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
}


def digest(task: Task) -> str:
    """sha256 of all splits and class names: the identity of the data.

    Images in files count by their shape and marks (`Images`): file names, sizes, and a
    checksum of each file's last KiB.
    """
    import jax

    total = hashlib.sha256(repr(task.classes).encode())
    if task.answers not in ("class", "words"):
        total.update(task.answers.encode())
    for name in SPLITS:
        split = getattr(task, name)
        for leaf in leaves(split.x):
            total.update(f"{name} {leaf.shape}".encode())
            if isinstance(leaf, Images):
                for mark in leaf.marks():
                    total.update(f"{mark}\n".encode(errors="surrogateescape"))
            else:
                total.update(np.ascontiguousarray(leaf).view(np.uint8).data)
        total.update(np.ascontiguousarray(batch_labels(split.y)).data)
        if split.context is not None:
            total.update(str(jax.tree.structure(split.context)).encode())
        for leaf in map(np.asarray, leaves(split.context)):
            total.update(f"{name} {leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return total.hexdigest()
