"""Rows of a task's arrays: trees of them, and values that all rows share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Shared(NamedTuple):
    """A context, or part of one, that is the same for all rows; programs and losses get
    its value. The wrapper is explicit, because a length may equal N by chance."""

    value: Any


def leaves(x: Any) -> list[Any]:
    """The arrays of a tree; lazy `Images` are one leaf."""
    import jax

    return jax.tree.leaves(x)


def by_rows(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to each array of a tree; `Shared` values are kept."""
    import jax

    one = lambda leaf: leaf if isinstance(leaf, Shared) else function(leaf)
    return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, Shared))


def taken(x: Any, rows: Any) -> Any:
    """Rows of images, or of each array of a tree; `Shared` values are kept."""
    return by_rows(lambda leaf: leaf[rows], x)


def spec(x: Any, size: int) -> Any:
    """Shape and type of a batch of that many rows; `Shared` values are kept."""
    import jax

    one = lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)
    return by_rows(one, x)


def unshared(context: Any) -> Any:
    """A context as programs and losses get it: `Shared` replaced by its value."""
    import jax

    one = lambda leaf: leaf.value if isinstance(leaf, Shared) else leaf
    return jax.tree.map(one, context, is_leaf=lambda leaf: isinstance(leaf, Shared))


def parted(context: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """(the leaves that have rows, None for `Shared` ones; a function that puts such a
    list back together with the `Shared` values)."""
    import jax

    shared = lambda leaf: isinstance(leaf, Shared)
    every, form = jax.tree.flatten(context, is_leaf=shared)

    def joined(rows: list[Any]) -> Any:
        pairs = zip(every, rows, strict=True)
        return form.unflatten([a if shared(a) else row for a, row in pairs])

    return [None if shared(a) else a for a in every], joined


def shape_of(x: Any) -> Any:
    """The shape of a row of images; for a tree, one for each array."""
    shapes = tuple(tuple(leaf.shape[1:]) for leaf in leaves(x))
    return shapes[0] if len(shapes) == 1 else shapes


def filler(y: Any) -> Any:
    """The label that marks a missing one."""
    return np.nan if np.issubdtype(y.dtype, np.floating) else -1


def batch_labels(y: np.ndarray) -> np.ndarray:
    """Labels in the dtype of the device: int32, or float32."""
    floats = np.issubdtype(y.dtype, np.floating)
    return y.astype(np.float32 if floats else np.int32)
