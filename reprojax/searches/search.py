"""The interface of a search for learnable params without gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from reprojax.core import Key, PyTree


class Search(NamedTuple):
    """Four pure functions. One step: ask for points, evaluate them, tell the values.

    The points are one tree whose leaves have a leading axis: n trees of learnable
    params. A jitted model, a service or a person may evaluate them.
    """

    init: Callable[[Key, PyTree], Any]
    """(key, learnable) -> state"""
    ask: Callable[[Key, Any], PyTree]
    """(key, state) -> points [n ...]; the key is the step's"""
    tell: Callable[[Any, PyTree, jax.Array], Any]
    """(state, points, values [n], the lower the better) -> state"""
    read: Callable[[Any], PyTree]
    """state -> learnable, the search's result: the mean, not a noisy best point"""
