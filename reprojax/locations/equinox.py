"""Any equinox module as a forward over a plain tree of its arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.custom_batching import custom_vmap
from jax.extend.core import get_opaque_trace_state

from reprojax.core import Edit, Forward, PyTree, passthrough
from reprojax.locations.visits import (
    Visits,
    check_tree,
    plain,
    refuse,
    returned,
    tapped,
)

if TYPE_CHECKING:
    import equinox as eqx


def equinox(
    module: "eqx.Module",
    call: Callable[[Callable, PyTree], PyTree] = plain,
    *,
    state: Any = None,
    each: bool = True,
) -> tuple[Forward, PyTree]:
    """(forward, frozen) of a module in evaluation (`eqx.nn.inference_mode`).

    `frozen` is a dictionary of the module's arrays by attribute names (list indices as
    strings), and of the state's under "state". Sites are named as in `linen`. An
    equinox module takes one example. The forward maps it over the rows, but edits get
    whole batches [B L D], also where the module itself maps a layer over its tokens.
    Inside scan, jit or remat only one example is visible, so an edit there is refused.
    The module itself is not changed.

    Args:
        call: how to call the module on one example, such as
            lambda m, x: m(x.transpose(2, 0, 1))
        state: of `eqx.nn.make_with_state`, which batch norm needs; m(x) then means
            module(x, state)[0].
        each: False for a module that takes the whole batch; sites inside scan or remat
            then serve all layers, as in linen.
    """
    import equinox as eqx

    if not isinstance(module, eqx.Module):
        refuse("equinox", module, "an equinox.Module")
    kind = type(module).__name__
    tree = eqx.nn.inference_mode((module, state))
    flat, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [_name(path) for path, _ in flat]
    arrays = {n: a for n, (_, a) in zip(names, flat, strict=True) if _is_array(a)}
    rest = [None if _is_array(leaf) else leaf for _, leaf in flat]
    if len(set(names)) < len(names):
        raise ValueError(
            f"{kind} has a key both as a number and as a string, or an array named as "
            "the state's; expected names that differ as strings; rename one"
        )
    frozen, kind = unflatten_dict(arrays, sep="/"), type(module).__name__
    known = arrays.keys()
    del tree, flat, arrays, module, state

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        values = flatten_dict(frozen, sep="/")
        check_tree("equinox", kind, known, values)
        leaves = [values.get(n, leaf) for n, leaf in zip(names, rest, strict=True)]
        model, own = structure.unflatten(leaves)
        edit = returned(edit)
        here, x = get_opaque_trace_state(), edit("input", x)

        def run(x: PyTree, visits: Visits) -> PyTree:
            tapped = _tap(model, "", visits)
            if own is None:
                return call(tapped, x)
            return call(lambda *args, **kw: tapped(*args, own, **kw)[0], x)

        def one(x: PyTree, row: jax.Array) -> PyTree:
            rows = _Rows(edit, here, row)
            return run(x, Visits(rows, rows.trace))

        if not each:
            return edit("output", run(x, Visits(edit)))
        count = len(jax.tree.leaves(x)[0])
        return edit("output", jax.vmap(one)(x, jnp.arange(count)))

    return forward, frozen


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _name(path: tuple) -> str:
    """The path of a leaf of (module, state)."""
    name = jax.tree_util.keystr(path[1:], simple=True, separator="/")
    return f"state/{name}" if path[0].idx else name


class _Rows:
    """The edit of a whole batch, called for one example under the vmap over rows.

    custom_vmap takes a value out of every vmap around it. `row` is the example's index.
    Only the vmap over rows maps it, which tells that vmap from the module's own.
    """

    def __init__(self, edit: Edit, here: Any, row: jax.Array) -> None:
        self.edit, self.here, self.row = edit, here, row

    def trace(self) -> Any:
        """The trace outside the vmaps: the forward's own trace, unless the value lies
        inside a scan, jit or remat of the module."""
        found = []

        def rule(size: int, mapped: list, row: jax.Array) -> tuple[list, list]:
            found.append(get_opaque_trace_state())
            return [], []

        _lifted(rule)(self.row)
        return found[0] if found else get_opaque_trace_state()

    def __call__(self, site: str, value: PyTree) -> PyTree:
        if self.trace() == self.here:
            return self._lift(site, value)
        one = jax.tree.map(lambda a: a[None] if _is_array(a) else a, value)
        if self.edit(site, one) is not one:
            raise ValueError(
                f"{site!r} lies inside scan, jit or remat of a module that takes one "
                "example, expected a site outside, since an edit is of a whole batch; "
                "call the layers in a Python loop, without scan, jit and remat"
            )
        return value

    def _lift(self, site: str, value: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(value)
        places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
        found = []

        def rule(size: int, mapped: list, row: Any, *given: Any) -> tuple[list, list]:
            of_rows, *flags = mapped
            shown = list(given)
            if of_rows:  # broadcast values that are the same for all examples
                shown = [_rows(size, *pair) for pair in zip(given, flags, strict=True)]
            edit = self.edit if of_rows else self._lift
            old = structure.unflatten(_put(leaves, places, shown))
            new, tree = jax.tree.flatten(edit(site, old))
            if tree != structure:
                raise ValueError(
                    f"the edit of {site!r} returned {tree}, expected {structure}, "
                    "since vmap maps each of its arrays; return the same structure"
                )
            found[:] = new
            out = []
            for i, a, b, flag in zip(places, given, shown, flags, strict=True):
                kept = new[i] is b
                out.append((a if kept else new[i], flag or (of_rows and not kept)))
                if out[-1][1] and jnp.shape(out[-1][0])[:1] != (size,):
                    raise ValueError(
                        f"the edit of {site!r} made {jnp.shape(new[i])} of "
                        f"{jnp.shape(b)}, where the model maps over {size} (rows, or "
                        "tokens); expected the same size; edit a site outside of vmap"
                    )
            return [a for a, _ in out], [flag for _, flag in out]

        arrays = _lifted(rule)(self.row, *(leaves[i] for i in places))
        return structure.unflatten(_put(found, places, arrays))


def _lifted(rule: Callable) -> Callable:
    lift = custom_vmap(lambda row, *arrays: list(arrays))
    lift.def_vmap(rule)
    return lift


def _rows(size: int, a: Any, mapped: bool) -> Any:
    return a if mapped else jnp.broadcast_to(a, (size, *jnp.shape(a)))


def _put(leaves: list, places: list[int], arrays: Any) -> list:
    new = dict(zip(places, arrays, strict=True))
    return [new.get(i, leaf) for i, leaf in enumerate(leaves)]


@dataclass(frozen=True, eq=False)
class _Tap:
    """A static field equal to no other pass's tap: jit and scan key their traces by the
    static part, so they never reuse a trace with another pass's edits."""

    path: str
    visits: Visits


def _tap(module: Any, path: str, visits: Visits) -> Any:
    """The module with taps on all its submodules, and on itself if it has a path."""
    import equinox as eqx

    def inner(node: Any) -> bool:
        return isinstance(node, eqx.Module) and node is not module

    flat, structure = jax.tree_util.tree_flatten_with_path(module, is_leaf=inner)
    parts = []
    for keys, part in flat:
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        below = f"{path}/{name}" if path else name
        parts.append(_tap(part, below, visits) if inner(part) else part)
    new = structure.unflatten(parts)
    if path and callable(module):
        object.__setattr__(new, "__class__", _tapped(type(module)))
        object.__setattr__(new, "_reprojax_tap", _Tap(path, visits))
    return new


@cache  # one class for each kind, because jax keeps a registered class forever
def _tapped(kind: type) -> type:
    import equinox as eqx

    field = eqx.field(static=True, default=None)
    annotations = {"_reprojax_tap": Any}
    return tapped(kind, __annotations__=annotations, _reprojax_tap=field)
