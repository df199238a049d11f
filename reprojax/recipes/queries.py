"""The frozen model's own feature of each image: a program's context, or its data."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import (
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    informed,
    until,
)
from reprojax.data import Split, in_order
from reprojax.models import Model, Pixels, role
from reprojax.operators import resize


def query(
    model: Model[Pixels], to_size: Manipulation | None = None
) -> Callable[[PyTree, PyTree], Float[Array, "B D"]]:
    """(frozen, x) -> the feature of each image by the model without prompts.

    Args:
        to_size: what makes an image one of the model's size; by default `resize`.
    """
    features = until(model.forward, role(model, "features")[0])
    to_size = resize(model.input.size) if to_size is None else to_size
    return lambda frozen, x: features(frozen, to_size.apply(Params(), x, Scope()))


def asking(program: Program, model: Model[Pixels], to_size: Manipulation) -> Program:
    """The program with the frozen model's own feature of each image as context.

    That is a second pass, of the model without prompts. A caller may give features that
    were computed once as the context instead.
    """
    return informed(program, query(model, to_size))


def queries(model: Model[Pixels], split: Split) -> Float[np.ndarray, "N D"]:
    """The features of all images of a split, a few at a time."""
    look, size = jax.jit(query(model)), min(50, len(split.y))
    batches: Any = (x for x, *_ in in_order(split, size))
    rows = [np.asarray(look(model.frozen, x)) for x in batches]
    return np.concatenate(rows)[: len(split.y)]
