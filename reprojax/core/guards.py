"""What the core refuses at its border, in words: a site, an edit, a row, a params tree.

Each guard raises `ValueError`, or hands on what it was given.
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
    """How an error names alternatives: "; did you mean ..."."""
    close = difflib.get_close_matches(name, sorted(names), 3, 0.5)
    return f"; did you mean {' or '.join(map(repr, close))}" if close else ""


def check_sites(
    wanted: Iterable[str],
    reached: Iterable[str],
    how: str = "sites(forward, frozen, x) lists them",
) -> None:
    """Raise if the model never came to one of the wanted sites."""
    reached = set(reached)
    if missing := sorted(set(wanted) - reached):
        near = nearest(missing[0], reached)
        raise ValueError(
            f"no such site: {missing}, expected the model's own{near}; {how}"
        )


def check_frozen(frozen: PyTree) -> None:
    """Raise at a leaf of the frozen tree that jit cannot take, by its path.

    Arrays of numbers, PRNG keys and floats are taken; None is no leaf. An int or a bool
    among a module's leaves is a size or a flag, which a traced number cannot be.
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
    """Note a site in {site: trace}; raise if the same trace came to it before.

    Another trace of the same body is no second visit: scan may trace its body twice.
    """
    now = get_opaque_trace_state()
    if reached.get(site) == now and not site.endswith("/raw"):
        raise ValueError(
            f"the model came to {site!r} twice, expected a name of its own for each "
            f"place: one edit, or one recorded value, would serve both; call "
            f'edit("{site}#2", value) at the second, and shared(...) at the tuple of '
            "both for one prompt"
        )
    reached[site] = now


def handed_on(site: str, before: PyTree, after: PyTree) -> PyTree:
    """The value with which the model goes on; raise if an edit forgot to return it."""
    if after is None and before is not None:
        raise ValueError(
            f"the edit of {site!r} returned None, expected the value with which the "
            "model goes on; return the value, changed or not"
        )
    return after


def check_alignment(at: Mapping[Any, Any]) -> None:
    """Raise if "output" has an alignment, and another one came."""
    if any("output" in ((key,) if isinstance(key, str) else key) for key in at):
        raise ValueError(
            'reprogram got an alignment twice, by align= and at "output", expected '
            "one; leave out one of them, or call chain(a=..., b=...)"
        )


def check_once(by_sites: Mapping[Sites, Any]) -> None:
    """Raise if a site came twice."""
    every = [site for sites in by_sites for site in sites]
    if len(set(every)) < len(every):
        raise ValueError(
            f"a site came twice in {sorted(every)}; expected one manipulation each; "
            "call chain(a=..., b=...)"
        )


@contextmanager
def longer(inner: Iterable[str]) -> Iterator[None]:
    """Says why a batch of another size was traced, if the model takes none."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{sorted(inner)} lie inside a transform of jax, where a batch twice as "
            "long shows whether a value has a row for each of the batch, and the model "
            f"failed on it ({error}); expected a model that takes any number of rows; "
            "edit a site outside"
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
    """Raise if a value inside a transform has no row for each of the batch.

    Operators take the first axis for the batch's. A module of one example under vmap,
    lax.map or scan has none, and a prompt would lose an axis of its own. Sizes alone do
    not tell (16 tokens of each of 16 images), so a batch twice as long is compared. One
    row is a batch of one.

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
    """Of the first array; a value without arrays (flags) counts as one row."""
    return next((a.shape for a in jax.tree.leaves(spec) if hasattr(a, "shape")), (1,))


def check_sizes(who: str, least: int = 1, **sizes: int | None) -> None:
    """Raise at a size below the least; None is no size."""
    for name, size in sizes.items():
        if size is not None and size < least:
            raise ValueError(
                f"{who} got {name}={size}, expected at least {least}; give another "
                f"{name}"
            )


def find(kind: str, name: str, table: Mapping[str, T], do: str = "") -> T:
    """What a table has under a name, or an error with the nearest names.

    Args:
        do: what the error says besides.
    """
    if not isinstance(name, str) or name not in table:
        near = nearest(str(name), table)
        raise ValueError(
            f"no {kind} {name!r}{near}; expected one of {', '.join(table)}{do}"
        )
    return table[name]
