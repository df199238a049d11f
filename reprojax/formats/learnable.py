"""Learnable prompts: free, in a subspace, or seen through a manipulation."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    PyTree,
    Scope,
    fold,
    inside,
    merge,
    part,
)
from reprojax.formats.fixed import check_shape


def learnable(initial: Callable[..., jax.Array] | jax.Array | Any) -> Format:
    """A trained prompt.

    Args:
        initial: any `jax.nn.initializers` initialiser, `(key, shape, dtype) -> array`, or
            the first value itself (a text's embeddings, trained rows).
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        if callable(initial):
            return Params(initial(key, shape, jnp.float32))
        return Params(jnp.asarray(check_shape(initial, shape, "learnable")))

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        return params.learnable

    return Format(init, read)


def subspace(size: int, base: Format, scale: float = 1.0) -> Format:
    """base + z A: z [size] is learnable, A [size *prompt] is drawn once and fixed.

    A's entries are normal with standard deviation scale / sqrt(size). Black-box tuning
    searches here (Sun et al., arXiv 2201.03514).
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        start = base.read(base.init(fold(key, "base"), shape, scope), None, scope)
        matrix = scale * jax.random.normal(fold(key, "matrix"), (size, *shape)) / size**0.5
        return Params(jnp.zeros(size), {"base": start, "matrix": matrix})

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        move = jnp.tensordot(params.learnable, params.fixed["matrix"], 1)
        return params.fixed["base"] + move

    return Format(init, read)


def through(fmt: Format, manipulation: Manipulation) -> Format:
    """A prompt that is itself manipulated: a sigmoid border, dropout, a prefix MLP.

    `through(learnable(zeros), stateless(jax.nn.sigmoid))` starts at grey, not at zero.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        prompt = fmt.init(fold(key, "prompt"), shape, inside(scope, "prompt"))
        value = jax.eval_shape(lambda: fmt.read(prompt, None, scope))
        edit = manipulation.init(fold(key, "edit"), value, inside(scope, "edit"))
        return merge({"prompt": prompt, "edit": edit})

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        prompt = fmt.read(part(params, "prompt"), value, inside(scope, "prompt"))
        return manipulation.apply(part(params, "edit"), prompt, inside(scope, "edit"))

    return Format(init, read)
