"""Run K sets of params of one program in one call, and interpolate between two.

>>> a, b = (load(path, card).params_for(program, card.frozen, x) for path in paths)
>>> both = stacked(card.forward, program, 2)
>>> y = both.apply(stack_params([a, b]), card.frozen, x, jnp.array([0, 1, 1, 0]))
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from reprojax.core.program import reprogram
from reprojax.core.trees import below, differences, specs
from reprojax.core.vocabulary import (
    Forward,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
)


def stack(manipulation: Manipulation, size: int) -> Manipulation:
    """One manipulation with K = `size` sets of params, chosen for each row.

    The context is an index [B]: row b uses set number index[b]. The params are those of
    the manipulation with a leading axis K. Each row is computed as a batch of one. A
    wrong index raises ValueError; under jit, where its values are unknown, NaN.
    """

    def init(key: Key, spec: Any, scope: Scope) -> Params:
        each = lambda key: manipulation.init(key, spec, scope)
        return jax.vmap(each)(jax.random.split(key, size))

    def apply(params: Params, value: PyTree, scope: Scope) -> Any:
        if not jax.tree.leaves(params):  # without params, all K are the same
            return manipulation.apply(params, value, scope)
        _check_size(params, size)
        index = _checked(scope.context, jax.tree.leaves(value)[0].shape[0], size)
        own = jax.tree.map(lambda a: _rows_of(a, index), params)

        def one(own: Params, value: PyTree, x: PyTree) -> Any:
            value, x = jax.tree.map(lambda a: a[None], (value, x))
            alone = scope._replace(x=x, context=None)
            return jax.tree.map(lambda a: a[0], manipulation.apply(own, value, alone))

        return jax.vmap(one)(own, value, scope.x)

    return Manipulation(init, apply)


def stacked(forward: Forward, program: Program, size: int) -> Program:
    """K = `size` programs in one call: program number index[b] answers row b.

    Call `apply(params, frozen, x, index)`, with params from `stack_params`. Convert a
    prefix that an MLP makes by `without_mlp` first: otherwise the MLP runs once a row.
    Label maps keep their estimates.

    Args:
        forward: the program's own forward, such as `card.forward`.
    """
    return reprogram(forward, {sites: stack(m, size) for sites, m in program.at})


def stack_params(params: Sequence[Params]) -> Params:
    """The params of K programs, in this order, as the params of `stacked`."""
    if not params:
        raise ValueError("got no params, expected those of one program at least")
    for i, other in enumerate(params[1:], 1):
        _check_alike(other, params[0], f"params {i} and 0 are not of one program")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)


def _rows_of(a: Array, index: Int[Array, "B"]) -> Array:
    """Rows by index. An index out of range gives NaN, or an integer type's least."""
    return a.at[index].get(mode="fill", wrap_negative_indices=False)


def _check_size(params: Params, size: int) -> None:
    found = {a.shape[0] if a.ndim else None for a in jax.tree.leaves(params)}
    if found != {size}:
        raise ValueError(
            f"got params {sorted(specs(params).values())}, expected a first axis of "
            f"{size} in each; call stack_params on the params of each program"
        )


def _checked(index: Any, rows: int, size: int) -> Int[Array, "B"]:
    shape, dtype = getattr(index, "shape", None), getattr(index, "dtype", bool)
    if shape == (rows,) and jnp.issubdtype(dtype, jnp.integer):
        known = () if isinstance(index, Tracer) else np.asarray(index)
        if all(0 <= i < size for i in known):
            return jnp.asarray(index)
    raise ValueError(
        f"got the index {index}, expected an array [{rows}] of numbers from 0 to "
        f"{size - 1}: which of the {size} programs answers each row; give it as the "
        "context: apply(params, frozen, x, index)"
    )


def _check_alike(came: Params, expected: Params, what: str) -> None:
    lines = differences(specs(came), specs(expected))
    same = jax.tree.structure(came) == jax.tree.structure(expected)
    if lines or not same:
        raise ValueError(
            f"{what}:{below(lines)}\nexpected the same leaves in both; build the "
            "programs with the same sizes"
        )


def interpolate(
    a: Params, b: Params, t: float | Float[Array | np.ndarray, "*K"]
) -> Params:
    """(1 - t) a + t b of the learnable params; exactly a at t = 0 and b at t = 1.

    With t [K] the result is the params of `stacked(forward, program, K)`. If an MLP
    makes the prompt, interpolating its weights does not interpolate the prompt
    linearly; convert both by `without_mlp` first.

    Raises:
        ValueError: two programs, or fixed params (projections, label maps) that differ.
    """
    _check_alike(b, a, "the two params are not of one program")
    pairs = zip(jax.tree.leaves(a.fixed), jax.tree.leaves(b.fixed), strict=True)
    if not all(np.array_equal(x, y) for x, y in pairs):
        raise ValueError(
            "got two params whose fixed parts differ, expected the same in both, "
            "because projections and label maps are not interpolated; give both the "
            "fixed part of one: b._replace(fixed=a.fixed)"
        )
    t = jnp.asarray(t, jnp.float32)

    def between(x: Array, y: Array) -> Array:
        s = t.reshape(t.shape + (1,) * x.ndim).astype(x.dtype)
        return (1 - s) * x + s * y

    learnable = jax.tree.map(between, a.learnable, b.learnable)
    wide = lambda x: jnp.broadcast_to(x, t.shape + x.shape)
    return Params(learnable, jax.tree.map(wide, a.fixed))
