"""Fixed prompts: demonstrations, templates, prompts passed with the call."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.core import Format, Key, Params, PyTree, Scope


def check_shape(value: Any, shape: tuple[int, ...], who: str) -> Any:
    """The array; raise unless it has the shape that the operator asks for."""
    if hasattr(value, "shape") and tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"{who} got an array of shape {tuple(value.shape)}, expected "
            f"{tuple(shape)}; give an array of the prompt's shape, or change the "
            "operator's sizes"
        )
    return value


def fixed(value: PyTree) -> Format:
    """An array [*prompt] (or Tokens) that is never trained.

    It is kept in `params.fixed`: closed over, it would become a constant in the text of
    the compiled program.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        return Params(
            fixed=jax.tree.map(jnp.asarray, check_shape(value, shape, "fixed"))
        )

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        return params.fixed

    return Format(init, read)


def from_context(pick: Callable[[PyTree], Any] = lambda context: context) -> Format:
    """A prompt `pick(context)` of the call's context: one for all, or one a row."""

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        return Params()

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        if scope.context is None:
            raise ValueError(
                "from_context got no context, expected one with the call; call "
                "apply(params, frozen, x, context)"
            )
        return pick(scope.context)

    return Format(init, read)
