"""Around a forward or a program alike, since both take `edit=`: look, replace, cut."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

from reprojax.core import Forward, Params, Program, PyTree, check_sites, passthrough


def record(
    apply: Callable[..., Any],
    sites: Iterable[str],
    also: Callable[[str], bool] = lambda site: False,
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """The same call, giving (y, {site: value}): values with which the model went on.

    "<site>/raw" is the value before the outermost program's manipulation of it, so
    "output/raw" are the source logits; "<site>/<name>" is a part's tap. `also` adds any
    other site by its name, if it comes.
    """
    sites = frozenset(sites)

    def run(*args: Any, edit: Callable = passthrough, **kw: Any) -> Any:
        seen, reached, here = {}, set(), get_opaque_trace_state()

        def spy(site: str, value: PyTree) -> PyTree:
            value = edit(site, value)
            reached.add(site)
            if site in sites or also(site):
                if get_opaque_trace_state() != here:
                    raise ValueError(
                        f"{site!r} lies inside remat, scan or vmap, or a jit within "
                        "the model, and its value cannot leave; expected a site "
                        "outside; record another one, or call the module without "
                        "remat (the same frozen tree fits)"
                    )
                seen[site] = value
            return value

        y = apply(*args, edit=spy, **kw)
        check_sites(sites, reached)
        return y, seen

    return run


def given(apply: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """The same call with the values of some sites replaced.

    XLA drops whatever only they needed. `given(apply, {"output/raw": logits})` fits a
    head or a label map on cached source logits, without the model.
    """

    def run(*args: Any, edit: Callable = passthrough, **kw: Any) -> Any:
        used = set()

        def put(site: str, value: PyTree) -> PyTree:
            used.add(site)
            return values[site] if site in values else edit(site, value)

        y = apply(*args, edit=put, **kw)
        check_sites(values, used)  # a misspelt cache would be recomputed in silence
        return y

    return run


def until(forward: Forward, site: str) -> Forward:
    """The model cut at `site`: the value there is its output; XLA drops the rest."""

    def cut(frozen: PyTree, x: PyTree, edit: Callable = passthrough) -> PyTree:
        def inner(name: str, value: PyTree) -> PyTree:
            beyond = name in ("output", "output/raw") and name != site
            return value if beyond else edit(name, value)

        _, seen = record(forward, [site])(frozen, x, edit=inner)
        return edit("output", seen[site])

    return cut


def sites(forward: Forward, frozen: PyTree, x: PyTree) -> dict[str, Any]:
    """{site: shapes} of a forward in the order of its calls, without running it."""
    seen = {}

    def spy(site: str, value: PyTree) -> PyTree:
        if not site.endswith(":call"):  # a module's arguments: any Python objects
            seen[site] = jax.tree.map(_shape, value)
        return value

    jax.eval_shape(lambda frozen, x: forward(frozen, x, edit=spy), frozen, x)
    return seen


def _shape(leaf: Any) -> Any:
    """Or the type of what is no array, such as another framework's answer."""
    return leaf.shape if hasattr(leaf, "shape") else type(leaf).__name__


def informed(program: Program, look: Callable[[PyTree, PyTree], PyTree]) -> Program:
    """Where no context is given, it is look(frozen, x): the model's own features."""

    def init(key: jax.Array, frozen: PyTree, x: PyTree, context: Any = None) -> Params:
        if context is None:
            context = jax.eval_shape(look, frozen, x)
        return program.init(key, frozen, x, context)

    def apply(
        params: Params, frozen: PyTree, x: PyTree, context: Any = None, **kw: Any
    ) -> PyTree:
        context = look(frozen, x) if context is None else context
        return program.apply(params, frozen, x, context, **kw)

    return program._replace(init=init, apply=apply)
