"""Learnable prompts: free, in a subspace, several, or passed through a manipulation."""

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
    bare,
    fold,
    inside,
    merge,
    part,
)
from reprojax.core.guards import check_sizes
from reprojax.core.slips import (
    arguments,
    check_format,
    check_manipulation,
    shown,
    takes,
)
from reprojax.formats.fixed import check_shape


def learnable(initial: Callable[..., jax.Array] | jax.Array | Any) -> Format:
    """A trained prompt.

    Args:
        initial: any `jax.nn.initializers` initialiser, `(key, shape, dtype) -> array`,
            or the initial array itself (a text's embeddings, trained rows).
    """

    if callable(initial) and not takes(initial, None, None, None):
        raise ValueError(
            f"learnable got {shown(initial)} of {arguments(initial)}, expected an "
            "initialiser (key, shape, dtype) -> array, or the array; take one of "
            "jax.nn.initializers: zeros, or normal(.02), called with its scale"
        )

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        if callable(initial):
            first = initial(key, shape, jnp.float32)
            return Params(check_first(first, shape, initial))
        return Params(jnp.asarray(check_shape(initial, shape, "learnable")))

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        return params.learnable

    return Format(init, read)


def check_first(first: Any, shape: tuple[int, ...], initial: Any) -> Any:
    """An initialiser's array; raise unless it has the prompt's shape."""
    if tuple(getattr(first, "shape", (None,))) != tuple(shape):
        raise ValueError(
            f"{shown(initial)} made {shown(first)} for a prompt of {tuple(shape)}, "
            "expected an array of that shape; take an initialiser (key, shape, dtype) "
            "-> array, such as jax.nn.initializers.normal(.02), called with its scale"
        )
    return first


def subspace(size: int, base: Format, scale: float = 1.0) -> Format:
    """base + z A: z [size] is learnable, A [size *prompt] is drawn once and fixed.

    A's entries are normal with standard deviation scale / sqrt(size). Black-box tuning
    searches such a subspace (Sun et al., arXiv 2201.03514).
    """
    check_format("subspace", base)
    check_sizes("subspace", size=size)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        start = base.read(base.init(fold(key, "base"), shape, scope), None, scope)
        matrix = (
            scale * jax.random.normal(fold(key, "matrix"), (size, *shape)) / size**0.5
        )
        return Params(jnp.zeros(size), {"base": start, "matrix": matrix})

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        move = jnp.tensordot(params.learnable, params.fixed["matrix"], 1)
        return params.fixed["base"] + move

    return Format(init, read)


def through(fmt: Format, manipulation: Manipulation) -> Format:
    """A prompt passed through a manipulation: a sigmoid, dropout, a prefix's MLP.

    `through(learnable(zeros), stateless(jax.nn.sigmoid))` starts at grey, not at zero.
    """
    check_format("through", fmt)
    check_manipulation("through", manipulation)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        prompt = fmt.init(fold(key, "prompt"), shape, inside(scope, "prompt"))
        value = jax.eval_shape(lambda: fmt.read(prompt, None, scope))
        edit = manipulation.init(fold(key, "edit"), value, inside(scope, "edit"))
        return merge({"prompt": prompt, "edit": edit})

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        prompt = fmt.read(part(params, "prompt"), value, inside(scope, "prompt"))
        return manipulation.apply(part(params, "edit"), prompt, inside(scope, "edit"))

    return Format(init, read)


def of_each(fmt: Format, count: int) -> Format:
    """`count` prompts of a format, [count *prompt], each for as many rows of the value:
    the first for the first rows, and so on."""
    check_format("of_each", fmt)
    check_sizes("of_each", count=count)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        each = lambda key: fmt.init(key, shape, scope)
        return jax.vmap(each)(jax.random.split(key, count))

    def read(params: Params, value: PyTree, scope: Scope) -> Any:
        rows = len(bare(value))
        if rows % count:
            raise ValueError(
                f"of_each got {rows} rows for {count} prompts, expected a multiple, so "
                "that each prompt has as many"
            )
        keys = None if scope.key is None else jax.random.split(scope.key, count)
        one = lambda own, key: fmt.read(own, value, scope._replace(key=key))
        prompts = jax.vmap(one, axis_size=count)(params, keys)
        return jnp.repeat(prompts, rows // count, 0)

    return Format(init, read)


def border(fmt: Format, width: int) -> Format:
    """A prompt [H W C] whose four edge strips are learned; its inside is zero.

    Params hold the strips alone: `width` 30 of 224 x 224 x 3 has 69,840 numbers.
    """
    check_format("border", fmt)

    def strips(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        height, wide, channels = shape
        if not 0 < 2 * width < min(height, wide):
            raise ValueError(
                f"border got a width of {width} for a prompt of {tuple(shape)}, "
                f"expected 1 to {(min(height, wide) - 1) // 2}; take a smaller width"
            )
        row, column = (width, wide, channels), (height - 2 * width, width, channels)
        return {"top": row, "bottom": row, "left": column, "right": column}

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        return merge(
            {n: fmt.init(fold(key, n), s, scope) for n, s in strips(shape).items()}
        )

    def read(params: Params, value: Any, scope: Scope) -> Any:
        top, bottom, left, right = (
            fmt.read(part(params, name), value, scope)
            for name in ("top", "bottom", "left", "right")
        )
        hole = (left.shape[0], top.shape[1] - 2 * width, left.shape[2])
        middle = jnp.concatenate([left, jnp.zeros(hole, left.dtype), right], axis=1)
        return jnp.concatenate([top, middle, bottom], axis=0)

    return Format(init, read)
