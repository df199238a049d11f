"""What a compiled program holds and costs: copies of frozen leaves, operations."""

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import Params, Program, PyTree, spec_of


def operations(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of a function (jitted or not), compiled for args."""
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    return jitted.lower(*args).compile().cost_analysis()["flops"]


def bare_step(
    forward: Callable[..., Any], program: Program, params: Params, *given: PyTree
) -> tuple[Callable[..., Any], PyTree]:
    """The bare model and its gradient at what a program hands on: what a step is for.

    Args:
        given: frozen, x and context, as of program.apply.

    Returns:
        A function of (free, frozen, x), and the shapes of free. At the input and at all
        sites of the program the value is cut and padded to the shape that the program
        hands on there (longer by a prompt, say), at no cost in operations.
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
    """A value cut and padded to a shape, plus free numbers of that shape."""
    cut = value[tuple(slice(size) for size in free.shape)]
    sides = [(0, size - old) for size, old in zip(free.shape, cut.shape, strict=True)]
    full = jnp.pad(cut.astype(free.dtype), sides)
    return full + free if _is_float(free) else full


def copies(
    programs: int, text: str, program: Program, params: Params, *given: PyTree
) -> list[tuple[int, ...]]:
    """Shapes of frozen leaves of which a compiled vmap over K programs holds K copies.

    A shape that other values have too tells nothing, and is left out.

    Args:
        text: of the compiled program.
        params: of one program; given: frozen, x and context.
    """
    held = _outside_fusions(text)
    shown = {
        shape: ",".join(map(str, (programs, *shape)))
        for shape in _only_frozen(program.apply, params, *given)
    }
    return sorted(shape for shape, sizes in shown.items() if f"[{sizes}]" in held)


def _outside_fusions(text: str) -> str:
    """The lines whose values have memory: what is inside a fusion is never stored."""
    fused = set(re.findall(r"calls=%?([\w.-]+)", text))
    lines, inside = [], False
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            inside = head[1] in fused
        if not inside:
            lines.append(line)
    return "\n".join(lines)


def _only_frozen(apply: Callable[..., Any], *args: PyTree) -> Collection[tuple]:
    """Shapes of frozen leaves that nothing has which hangs on params, x or context."""
    jaxpr = jax.make_jaxpr(apply)(*args).jaxpr
    start, size = (len(jax.tree.leaves(tree)) for tree in args[:2])
    moving = {*jaxpr.invars[:start], *jaxpr.invars[start + size :]}
    shapes = {tuple(a.shape) for a in jax.tree.leaves(args[1])}
    return {s for s in shapes if len(s) > 1 and np.prod(s) > 8} - _reach(jaxpr, moving)


def _reach(jaxpr: Any, moving: set) -> set[tuple[int, ...]]:
    """Shapes of all that hangs on the moving variables."""
    shapes = {tuple(v.aval.shape) for v in moving}
    for eqn in jaxpr.eqns:
        if moving.intersection(v for v in eqn.invars if not hasattr(v, "val")):
            moving.update(eqn.outvars)
            shapes |= {tuple(v.aval.shape) for v in eqn.outvars}
            for inner in jax.tree.leaves(list(eqn.params.values())):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    shapes |= _reach(inner, {*inner.invars})
    return shapes
