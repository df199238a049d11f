"""Record, replace or cut at sites of a forward or a program: both take `edit=`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.extend.core import get_opaque_trace_state

from reprojax.core.guards import check_frozen, check_sites, handed_on, reach
from reprojax.core.vocabulary import (
    Edit,
    Editable,
    Forward,
    Params,
    Program,
    PyTree,
    Recorded,
    passthrough,
)


def record(
    apply: Editable,
    sites: Iterable[str],
    also: Callable[[str], bool] = lambda site: False,
) -> Recorded:
    """The same call, returning (y, {site: value}) with the values at these sites.

    A value is the one with which the model continues. "<site>/raw" is the value before
    the outermost program's manipulation of the site, so "output/raw" are the source
    logits; "<site>/<name>" is a part's tap, and "*/<name>" stands for the taps of that
    name at all sites, "*/<part>/<name>" for those of a part.

    Args:
        also: a predicate on names; other sites that fulfil it are recorded, too.
    """
    if isinstance(sites, str):
        raise ValueError(f"record got the text {sites!r}, expected a list; [{sites!r}]")
    sites = frozenset(sites)
    every = {site for site in sites if site.startswith("*/")}
    sites, ends = sites - every, tuple(site[1:] for site in every)

    def run(*args: Any, edit: Edit = passthrough, **kw: Any) -> Any:
        seen, here = {}, get_opaque_trace_state()
        reached: dict[str, Any] = {}

        def spy(site: str, value: PyTree) -> PyTree:
            value = handed_on(site, value, edit(site, value))
            if site in sites or site.endswith(ends) or also(site):
                reach(reached, site)
                if get_opaque_trace_state() != here:
                    raise ValueError(
                        f"{site!r} lies inside remat, scan or vmap, or a jit within "
                        "the model, and its value cannot leave it; expected a site "
                        "outside; record another one, or call the module without "
                        "remat (the same frozen tree fits)"
                    )
                seen[site] = value
            reached.setdefault(site)
            return value

        y = apply(*args, edit=spy, **kw)
        check_sites(sites, reached)
        shown = {f"*/{site.rpartition('/')[2]}" for site in reached if "/" in site}
        taken = {star for star in every if any(s.endswith(star[1:]) for s in reached)}
        check_sites(every, shown | taken)
        return y, seen

    return run


def given(apply: Editable, values: Mapping[str, Any]) -> Editable:
    """The same call with the values at some sites replaced.

    XLA removes what only the replaced values needed, so
    `given(apply, {"output/raw": logits})` trains a head or a label map on cached source
    logits without running the model.
    """

    def run(*args: Any, edit: Edit = passthrough, **kw: Any) -> Any:
        used: dict[str, Any] = {}

        def put(site: str, value: PyTree) -> PyTree:
            if site not in values:
                used.setdefault(site)
                return handed_on(site, value, edit(site, value))
            reach(used, site)
            _check_same(site, value, values[site])
            return values[site]

        y = apply(*args, edit=put, **kw)
        check_sites(values, used)  # a misspelt site would replace nothing
        return y

    return run


def _check_same(site: str, value: PyTree, new: PyTree) -> None:
    """Raise unless the new value has the structure, shapes and types of the old."""
    (old, old_tree), (found, tree) = (jax.tree.flatten(v) for v in (value, new))
    old, found = ([_kind(a) for a in leaves] for leaves in (old, found))
    if old != found or old_tree != tree:
        raise ValueError(
            f"given got {found or tree} for {site!r}, expected what the model has "
            f"there, {old or old_tree}, so that no other rows or types go on in "
            "silence; give values of the same batch, cast to its type"
        )


def _kind(a: Any) -> str:
    arrays = hasattr(a, "dtype") and hasattr(a, "shape")
    return jax.typeof(a).str_short() if arrays else repr(a)


def until(forward: Forward, site: str) -> Forward:
    """The model cut at `site`, whose value is its output; XLA removes the rest."""

    def cut(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        def inner(name: str, value: PyTree) -> PyTree:
            beyond = name in ("output", "output/raw") and name != site
            return value if beyond else edit(name, value)

        _, seen = record(forward, [site])(frozen, x, edit=inner)
        return edit("output", seen[site])

    return cut


def sites(forward: Forward, frozen: PyTree, x: PyTree) -> dict[str, Any]:
    """{site: shapes} of a forward in the order of its calls; traced, not run."""
    check_frozen(frozen)
    seen = {}

    def spy(site: str, value: PyTree) -> PyTree:
        if not site.endswith(":call"):  # a module's arguments may be any Python objects
            seen[site] = jax.tree.map(_shape, value, is_leaf=_is_custom)
        return value

    jax.eval_shape(lambda frozen, x: forward(frozen, x, edit=spy), frozen, x)
    return seen


def _is_custom(node: Any) -> bool:
    """Whether a node's class builds itself by own code, which fails on shapes."""
    plain = type(node) in (tuple, list, dict) or hasattr(node, "_fields")
    return node is not None and not plain


def _shape(leaf: Any) -> Any:
    """An array's shape; {path: shape} of a custom node; the type's name of a leaf that
    is not an array, such as another framework's output."""
    paths = jax.tree_util.tree_leaves_with_path(leaf)
    if not paths:  # a static node
        return leaf
    if paths[0][1] is leaf:
        return leaf.shape if hasattr(leaf, "shape") else type(leaf).__name__
    return {jax.tree_util.keystr(path): _shape(a) for path, a in paths}


CONTEXT = "scope/context"
"""The site of the context that `informed` makes, so `given` can replace it."""


def informed(program: Program, look: Callable[[PyTree, PyTree], PyTree]) -> Program:
    """The program with the context look(frozen, x), the model's own features, if its
    caller gives none.

    The context is the site "scope/context", reached before the program's own sites.
    """

    def init(key: jax.Array, frozen: PyTree, x: PyTree, context: Any = None) -> Params:
        if context is None:
            context = jax.eval_shape(look, frozen, x)
        return program.init(key, frozen, x, context)

    def apply(
        params: Params,
        frozen: PyTree,
        x: PyTree,
        context: Any = None,
        *,
        edit: Edit = passthrough,
        **kw: Any,
    ) -> PyTree:
        if context is None:
            made = look(frozen, x)
            context = handed_on(CONTEXT, made, edit(CONTEXT, made))
        return program.apply(params, frozen, x, context, edit=edit, **kw)

    return program._replace(init=init, apply=apply)
