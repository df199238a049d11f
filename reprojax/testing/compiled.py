"""Costs of a compiled program: operations, and copies of frozen leaves."""

import re
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.core import Forward, Params, Program, PyTree, spec_of


def operations(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of a function (jitted or not), compiled for args."""
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    return jitted.lower(*args).compile().cost_analysis()["flops"]


def bare_step(
    forward: Forward, program: Program, params: Params, *given: PyTree
) -> tuple[Callable[..., Any], PyTree]:
    """The bare model and its gradient at a program's sites: a step's necessary work.

    Args:
        given: frozen, x and context, as for program.apply.

    Returns:
        A function of (free, frozen, x), and the shapes of free. At the input and at all
        sites of the program the value is cut and padded to the shape that the program
        returns there (longer by a prompt, say), which costs no operations.
    """
    wanted = {"input", *(site for sites, _ in program.at for site in sites)} - {
        "output"
    }
    shapes = {}

    def spy(site: str, value: PyTree) -> PyTree:
        if site in wanted:
            shapes[site] = spec_of(value)
        return value

    def cost(free: PyTree, frozen: PyTree, x: PyTree) -> jax.Array:
        def edit(site: str, value: PyTree) -> PyTree:
            return jax.tree.map(_fit, value, free[site]) if site in free else value

        return _total(forward(frozen, x, edit=edit))

    jax.eval_shape(partial(program.apply, edit=spy), params, *given)
    return jax.value_and_grad(cost, allow_int=True), shapes


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(a.dtype, jnp.floating)


def _total(y: PyTree) -> jax.Array:
    return sum((a.sum() for a in jax.tree.leaves(y) if _is_float(a)), jnp.zeros(()))


def _fit(value: jax.Array, free: jax.Array) -> jax.Array:
    """The value cut and padded to a shape, plus free numbers of that shape."""
    cut = value[tuple(slice(size) for size in free.shape)]
    sides = [(0, size - old) for size, old in zip(free.shape, cut.shape, strict=True)]
    full = jnp.pad(cut.astype(free.dtype), sides)
    return full + free if _is_float(free) else full


def copies(
    text: str, program: Program, many: Params, frozen: PyTree, *given: PyTree
) -> list[str]:
    """The frozen leaves of which a compiled vmap over K programs holds K copies.

    A leaf is followed through operations that keep its numbers. If it becomes K times
    as large, and the compiled program stores a value of that size, there are K copies.

    Args:
        text: the compiled program's.
        many: the K params, stacked; given: x and context.
    """
    if not jax.tree.leaves(many):
        return []  # without params there is nothing to vmap over
    axes = (0, *(None for _ in (frozen, *given)))
    apply = jax.vmap(jax.jit(program.apply), axes)
    jaxpr = jax.make_jaxpr(apply)(many, frozen, *given).jaxpr
    start, programs = len(jax.tree.leaves(many)), jax.tree.leaves(many)[0].shape[0]
    leaves = jax.tree_util.tree_leaves_with_path(frozen)
    stored, found = _stored_sizes(text), []
    for (path, leaf), var in zip(leaves, jaxpr.invars[start:], strict=False):
        if leaf.ndim > 1 and _copy_sizes(jaxpr, {var}, leaf.size, programs) & stored:
            found.append(jax.tree_util.keystr(path))
    return found


def distinct(
    program: Program, params: Params, frozen: PyTree, *given: PyTree, programs: int
) -> int:
    """The smallest K >= `programs` for which copies are recognisable by size.

    A model itself may repeat a frozen leaf, such as a class token for each row, and the
    number of rows may equal K.
    """
    jaxpr = jax.make_jaxpr(jax.jit(program.apply))(params, frozen, *given).jaxpr
    variables = jaxpr.invars[len(jax.tree.leaves(params)) :]
    pairs = list(zip(jax.tree.leaves(frozen), variables, strict=False))
    while any(_copy_sizes(jaxpr, {v}, a.size, programs) for a, v in pairs):
        programs += 1
    return programs


def _stored_sizes(text: str) -> set[int]:
    """Sizes of stored values; values inside a fusion are never stored."""
    fused = set(re.findall(r"calls=%?([\w.-]+)", text))
    sizes, inside = set(), False
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            inside = head[1] in fused
        elif (value := re.search(r" = \w+\[([\d,]+)\]", line)) and not inside:
            sizes.add(prod(map(int, value[1].split(","))))
    return sizes


def _copy_sizes(jaxpr: Any, leaf: set, size: int, programs: int) -> set[int]:
    """Sizes of a leaf's descendants, if they become `programs` times as large.

    Args:
        leaf: the variables that hold the leaf's numbers; descendants are added.
    """
    found = set()
    for eqn in jaxpr.eqns:
        ours = [v for v in eqn.invars if not hasattr(v, "val") and v in leaf]
        inner = getattr(eqn.params.get("jaxpr"), "jaxpr", eqn.params.get("jaxpr"))
        if not ours or eqn.primitive.name in MIXING:
            continue
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            pairs = zip(eqn.invars, inner.invars, strict=True)
            within = {b for a, b in pairs if a in ours}
            found |= _copy_sizes(inner, within, size, programs)
            ends = zip(eqn.outvars, inner.outvars, strict=True)
            leaf |= {a for a, b in ends if not hasattr(b, "val") and b in within}
            continue
        for out in eqn.outvars:
            if eqn.primitive.name == "concatenate" and ours[0].aval.size > size:
                found.add(out.aval.size)
            elif out.aval.size in (size, programs * size):
                leaf.add(out)
                found |= {out.aval.size} - {size}
    return found


MIXING = {"dot_general", "conv_general_dilated", "gather", "dynamic_slice", "scatter"}
"""Operations whose results are no longer a leaf's own numbers."""
