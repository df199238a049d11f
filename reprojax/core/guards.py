"""Checks of arguments at the border of the core: sites, edits, rows, params trees.

Each raises `ValueError`, or returns its argument.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.extend.core import get_opaque_trace_state

PyTree = Any
Sites = tuple[str, ...]
T = TypeVar("T")


def nearest(name: str, names: Iterable[str]) -> str:
    """The suggestion at the end of an error: "; did you mean ..."."""
    close = difflib.get_close_matches(name, sorted(names), 3, 0.5)
    return f"; did you mean {' or '.join(map(repr, close))}" if close else ""


def check_sites(
    wanted: Iterable[str],
    reached: Iterable[str],
    how: str = "sites(forward, frozen, x) lists them",
) -> None:
    """Raise if the model did not reach one of the wanted sites."""
    reached = set(reached)
    if missing := sorted(set(wanted) - reached):
        near = nearest(missing[0], reached)
        raise ValueError(
            f"no such site: {missing}, expected the model's own{near}; {how}"
        )


def check_frozen(frozen: PyTree) -> None:
    """Raise at a leaf of the frozen tree that jit cannot take; the error has its path.

    Arrays of numbers, PRNG keys and floats pass; None is not a leaf. An int or a bool
    among a module's leaves is a size or a flag, which must stay static.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(frozen):
        array = (
            isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind not in "OUS"
        )
        taken = jax.Array | jax.ShapeDtypeStruct | float
        if not array and not isinstance(leaf, taken):
            raise ValueError(
                f"the frozen tree holds {leaf!r:.60} ({type(leaf).__name__}) at "
                f"{jax.tree_util.keystr(path) or 'its root'}, expected arrays; keep "
                "functions, flags and sizes in the forward, as "
                "locations.equinox(module) does, and give numbers as "
                "jnp.asarray(number)"
            )


def reach(reached: dict[str, Any], site: str) -> None:
    """Note a site in {site: trace}; raise if the same trace reached it before.

    The same site in another trace is not a second visit: scan may trace a body twice.
    """
    now = get_opaque_trace_state()
    if reached.get(site) == now and not site.endswith("/raw"):
        raise ValueError(
            f"the model came to {site!r} twice, expected a name of its own for each "
            f"place, because one edit or recorded value would serve both; call "
            f'edit("{site}#2", value) at the second, and shared(...) at the tuple of '
            "both for one prompt"
        )
    reached[site] = now


def handed_on(site: str, before: PyTree, after: PyTree) -> PyTree:
    """The edit's result, with which the model continues; raise if it is None."""
    if after is None and before is not None:
        raise ValueError(
            f"the edit of {site!r} returned None, expected the value with which the "
            "model goes on; return the value, changed or not"
        )
    return after


def check_alignment(at: Mapping[Any, Any]) -> None:
    """Raise if `at` has an alignment while align= gives one, too."""
    if any("output" in ((key,) if isinstance(key, str) else key) for key in at):
        raise ValueError(
            'reprogram got an alignment twice, by align= and at "output", expected '
            "one; leave out one of them, or call chain(a=..., b=...)"
        )


def check_once(by_sites: Mapping[Sites, Any]) -> None:
    """Raise if a site has two manipulations."""
    every = [site for sites in by_sites for site in sites]
    if len(set(every)) < len(every):
        raise ValueError(
            f"got a site twice in {sorted(every)}; expected one manipulation each; "
            "call chain(a=..., b=...)"
        )


@contextmanager
def longer(inner: Iterable[str]) -> Iterator[None]:
    """Explain the trace with twice as many rows, if the model fails on it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{sorted(inner)} lie inside a transform of jax. To see whether a value "
            "there has a row for each of the batch, a batch twice as long was traced, "
            f"and the model failed on it ({error}); expected a model that takes any "
            "number of rows; edit a site outside the transform"
        ) from error


def twice(given: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    """The specs of x and the context with twice as many rows."""
    rows = next((np.shape(a)[:1] for a in jax.tree.leaves(given[0])), ())

    def longer(a: Any) -> Any:
        if not rows or np.shape(a)[:1] != rows:
            return a
        return jax.ShapeDtypeStruct((2 * a.shape[0], *a.shape[1:]), a.dtype)

    return jax.tree.map(longer, given)


def check_rows(once: Mapping[str, PyTree], twice: Mapping[str, PyTree]) -> None:
    """Raise if a value inside a transform does not have a row for each of the batch.

    Operators take the first axis for the batch. A module under vmap, lax.map or scan
    sees one example, without that axis, and a prompt would lose an axis of its own.
    One size cannot show this (16 tokens of each of 16 images), so the sizes for a batch
    and for one twice as long are compared. A first axis of 1 is a batch of one.

    Args:
        once, twice: {site: spec} of a batch, and of one with twice as many rows.
    """
    for site, spec in once.items():
        before, after = _first_shape(spec), _first_shape(twice[site])
        if before[:1] != (1,) and after[:1] != tuple(2 * n for n in before[:1] or (1,)):
            raise ValueError(
                f"the value at {site!r} is {before} for a batch and {after} for one "
                "twice as long: the model is called for one example at a time (vmap, "
                "lax.map, scan), and a prompt would lose its first axis; expected a "
                "row for each of the batch; let the module take the whole batch, or "
                "show a batch of one in a forward of your own: "
                f"edit({site!r}, value[None])[0]"
            )


def _first_shape(spec: PyTree) -> tuple[int, ...]:
    """The first array's shape; a value without arrays (flags) counts as one row."""
    return next((a.shape for a in jax.tree.leaves(spec) if hasattr(a, "shape")), (1,))


def check_sizes(who: str, least: int = 1, **sizes: int | None) -> None:
    """Raise if a size is below the least allowed; None is allowed."""
    for name, size in sizes.items():
        if size is not None and size < least:
            raise ValueError(
                f"{who} got {name}={size}, expected at least {least}; give another "
                f"{name}"
            )


def find(kind: str, name: str, table: Mapping[str, T], do: str = "") -> T:
    """The table's entry of that name; raise with the nearest names if it has none.

    Args:
        do: text to append to the error.
    """
    if not isinstance(name, str) or name not in table:
        near = nearest(str(name), table)
        raise ValueError(
            f"no {kind} {name!r}{near}; expected one of {', '.join(table)}{do}"
        )
    return table[name]
