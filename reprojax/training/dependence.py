"""Which inputs the values at a program's sites depend on, and which can be cached.

This is read off the program's jaxpr after dead-code elimination. The cache stores the
latest activation below the lowest edit from which the output can be computed without x.
For a prompt on a block's keys that is the block's input: the residual connection
bypasses the keys, so the keys alone are not enough.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jax.interpreters.partial_eval import dce_jaxpr

from reprojax.core import Program, PyTree, estimation, spec_of


def cache_site(program: Program, frozen: PyTree, x: Any, context: Any = None) -> str:
    """The site whose value can replace x; raise ValueError with the reason if none can.

    Args:
        x: a batch of inputs, or its shapes and types; likewise the context.
    """
    x = spec_of(x)
    seen = _trace(program, frozen, x, context)
    lowest = _lowest(program, seen)
    if lowest not in seen.top:
        raise ValueError(
            f"{lowest!r} lies inside remat or scan, where a value cannot be cached; "
            "expected a site outside; call the module without remat (the same frozen "
            "tree fits), or train without a cache"
        )
    below = seen.order[: seen.order.index(f"{lowest}/raw") + 1]
    weights, wanted = bool(jax.tree.leaves(frozen)), _wanted(program, seen)
    for site in reversed(below):
        inside = site in seen.top and _is_rows(seen.top[site], x)
        if inside and weights:
            inside = "frozen" in seen.reads(site)  # some of the model lies below
        elif site.startswith("input"):
            inside = False
        if inside and not any("x" in seen.reads(name, site) for name in wanted):
            return site
    raise ValueError(_why_not(program, x, lowest, seen))


class _Trace(NamedTuple):
    """A program's call in training, with a key."""

    order: list[str]
    """The sites in the order of the model's calls."""
    top: dict[str, Any]
    """{site: spec} of those outside remat and scan."""
    reads: Callable[..., set[str]]
    """(site, given="") -> what the value there depends on, other than through the value
    at `given`: "first" (the key of init), "learnable", "key", "frozen", "x"."""


def _trace(program: Program, frozen: PyTree, x: Any, context: Any) -> _Trace:
    order, top = [], {}

    def look(first: Any, learnable: Any, key: Any, *given: Any) -> Any:
        frozen, _, c = given
        params = program.init(first, frozen, spec, c)._replace(learnable=learnable)
        order.clear()
        here, seen = get_opaque_trace_state(), {}

        def spy(name: str, value: PyTree) -> PyTree:
            order.append(name)
            if get_opaque_trace_state() == here:
                top[name] = spec_of(value)
                # A barrier gives the site's value a variable of its own, apart from
                # other uses of the same array, which do not go through this site.
                value = jax.tree.map(_apart, value)
                seen[name] = [a for a in jax.tree.leaves(value) if hasattr(a, "dtype")]
            return value

        program.apply(params, *given, key=key, edit=spy)
        return seen

    spec, key = x, jax.eval_shape(jax.random.key, 0)
    learnable = jax.eval_shape(program.init, key, frozen, spec, context).learnable
    args = {"first": key, "learnable": learnable, "key": key}
    args |= {"frozen": spec_of(frozen), "x": x, "context": context}
    closed, out = jax.make_jaxpr(look, return_shape=True)(*args.values())
    whole = closed.jaxpr
    owners = [name for name, tree in args.items() for _ in jax.tree.leaves(tree)]
    names = [name for name in sorted(out) for _ in jax.tree.leaves(out[name])]

    def reads(name: str, given: str = "") -> set[str]:
        known = {v for v, n in zip(whole.outvars, names, strict=True) if n == given}
        left = [eqn for eqn in whole.eqns if known.isdisjoint(eqn.outvars)]
        jaxpr = whole.replace(eqns=left, constvars=[*whole.constvars, *known])
        used = dce_jaxpr(jaxpr, [name == other for other in names])[1]
        return {owner for owner, live in zip(owners, used, strict=True) if live}

    return _Trace(order, top, reads)


def _apart(a: Any) -> Any:
    array = isinstance(a, jax.Array | np.ndarray)
    return jax.lax.optimization_barrier(a) if array else a


def _lowest(program: Program, seen: _Trace) -> str:
    """The first site at which something is learned, estimated or random."""
    news = [name for name in seen.order if estimation.is_news(name)]
    manipulations = {site: m for sites, m in program.at for site in sites}

    def acts(site: str) -> bool:
        if manipulations[site].observe is not None or site not in seen.top:
            return True
        if any(name.startswith(f"{site}/") for name in news):
            return True
        return bool(seen.reads(site) & {"first", "learnable", "key"})

    places = (site for site in seen.order if site in manipulations)
    if (lowest := next(filter(acts, places), None)) is None:
        raise ValueError(
            "nothing in the program is learned, estimated or random; expected a "
            "program to train; call steps.evaluate to measure it"
        )
    return lowest


def _is_rows(value: Any, x: Any) -> bool:
    """Whether a value is arrays with a row for each of x, the first of floats."""
    leaves, count = jax.tree.leaves(value), jax.tree.leaves(x)[0].shape[:1]
    own = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]
    return (
        all(own)
        and all(leaf.shape[:1] == count for leaf in leaves)
        and bool(leaves)
        and jnp.issubdtype(leaves[0].dtype, jnp.floating)
    )


def _wanted(program: Program, seen: _Trace) -> list[str]:
    """The names that training records, as far as the program tells."""
    news = [name for name in seen.order if estimation.is_news(name)]
    return ["output", *estimation.raw_sites(program), *news]


def _why_not(program: Program, x: Any, lowest: str, seen: _Trace) -> str:
    start = "input/raw" if "input/raw" in seen.order else "input"
    places = {site for sites, _ in program.at for site in sites} & set(seen.top)
    readers = [s for s in seen.order if s in places and "x" in seen.reads(s, start)]
    spec = seen.top[f"{lowest}/raw"]
    if readers:
        found = (
            f"the manipulation of {readers[0]!r} reads the task's own input (scope.x, "
            "or a context made from it), which a cache does not keep; expected one "
            "that reads its value alone"
        )
    elif "key" in seen.reads(lowest):
        found = (
            f"the images are augmented: the value at {lowest!r} is random, so it "
            "differs in each epoch; expected constant values; augment once, beforehand"
        )
    elif not _is_rows(spec, x) and "frozen" in seen.reads(f"{lowest}/raw"):
        found = (
            f"the value at {lowest!r} is {spec}, expected floats with a row for each "
            "of the input"
        )
    else:
        found = (
            f"the lowest edit is at {lowest!r}, and no layer below it has a value that "
            "alone determines the answer, so there is nothing to cache; expected "
            'the edits at hidden sites or at "output" alone'
        )
    return f"{found}; or train without a cache"
