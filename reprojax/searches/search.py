"""A search: how learnable params are found where no gradient can be had."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from reprojax.core import Key, PyTree


class Search(NamedTuple):
    """Four pure functions. Ask, have the points judged, tell: that is one step.

    The points are one tree whose leaves have a leading axis: n trees of learnable
    params. What judges them may be a jitted model, a service or a person.
    """

    init: Callable[[Key, PyTree], Any]
    """(key, learnable) -> state"""
    ask: Callable[[Key, Any], PyTree]
    """(key, state) -> points [n ...]; the key is that of the step"""
    tell: Callable[[Any, PyTree, jax.Array], Any]
    """(state, points, values [n], the lower the better) -> state"""
    read: Callable[[Any], PyTree]
    """state -> learnable, the best that is known: the mean, not a noisy best point"""
