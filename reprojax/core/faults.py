"""Errors in a user's own parts, raised again with the site and the part's name.

A part is a plain function, so its mistakes surface as Python or JAX errors deep inside
a trace. Here each becomes a ValueError that names the part and its site, chained to the
original error. All checks run at trace time; the compiled program contains none.
"""

import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.core.guards import nearest
from reprojax.core.names import name_of
from reprojax.core.slips import array_text, shown
from reprojax.core.vocabulary import Format, Key, Params, PyTree, Scope

MISTAKES = (AttributeError, LookupError, NameError, TypeError, ValueError)
"""Errors that mean a mistake in a function. Others (memory, a service) pass through."""
OURS = str(Path(__file__).parents[1])
CALLS = {
    "init": "(key, spec, scope) -> Params",
    "apply": "(params, value, scope) -> value",
    "read": "(params, value, scope) -> prompt",
    "observe": "(params, value, labels) -> sums",
    "refresh": "(params, sums) -> Params",
}


class PartError(ValueError):
    """A part's mistake and where the part stands, outermost first."""

    def __init__(self, what: str, where: tuple[str, ...] = ()) -> None:
        super().__init__(", ".join(where) + ": " + what if where else what)
        self.what, self.where = what, where


@contextmanager
def part_at(
    where: str, part: Any, call: str, params: Any = None, value: Any = None
) -> Iterator[None]:
    """Add the part's name to an error that one of its functions raises.

    Args:
        where: such as "the manipulation of 'hidden'".
        call: which of its functions runs: a key of `CALLS`.
        params, value: that function's arguments, if it takes them.
    """
    try:
        yield
    except PartError as error:
        where = f"{where} ({name_of(part)})"
        raise PartError(error.what, (where, *error.where)) from error.__cause__
    except MISTAKES as error:
        what = _in_words(error, call, params, value)
        raise PartError(what, (f"{where} ({name_of(part)})",)) from error


def at_sites(sites: tuple[str, ...]) -> str:
    """What error messages call the manipulation of one or several sites."""
    return f"the manipulation of {' and '.join(map(repr, sites))}"


def _in_words(error: Exception, call: str, params: Any, value: Any) -> str:
    if _is_ours(error):
        return str(error)
    got = "" if value is None else f" on {value_text(value)}"
    expected, do = f"expected {call}{CALLS[call]}", _advice(error, call, params)
    return f"{call}{got} raised {told(error)}, {expected}; {do}"


def told(error: Exception) -> str:
    """An error's type, its first line, and the line of user code that raised it."""
    lines = str(error).strip().splitlines() or ["nothing"]
    return f"{type(error).__name__}: {lines[0].rstrip('.:')[:300]}{_place(error)}"


def _is_ours(error: Exception) -> bool:
    """Whether the library raised it, so that its message needs no explanation."""
    frames = list(traceback.walk_tb(error.__traceback__))
    raised = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and raised.startswith("reprojax.")


def _place(error: Exception) -> str:
    """(file.py, line 12): the innermost frame outside the library and packages."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        file = frame.f_code.co_filename
        if file.startswith(OURS) or "site-packages" in file or "/lib/python" in file:
            continue
        return f" ({Path(file).name}, line {line})"
    return ""


def _advice(error: Exception, call: str, params: Any) -> str:
    if isinstance(error, KeyError) and isinstance(params, Params):
        held = {field: _keys(tree) for field, tree in params._asdict().items()}
        names = [key for keys in held.values() for key in keys]
        near = nearest(str(error.args[0]), names) if error.args else ""
        return (
            f"its params hold learnable {held['learnable']} and fixed {held['fixed']}"
            f"{near}; let init give what apply reads"
        )
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError):
        return (
            "its numbers are not known while a program is traced: replace if by "
            "jnp.where or jax.lax.cond, and NumPy's functions by jnp's"
        )
    given = CALLS[call].split(" ->")[0].replace("scope", "Scope()")
    return f"to debug, call it alone: its own {call}{given}"


def _keys(tree: PyTree) -> list[str]:
    return sorted(map(str, tree)) if isinstance(tree, Mapping) else []


def init_prompt(fmt: Format, key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
    """Call a format's init; an error in it names the format."""
    with part_at("its format", fmt, "init"):
        return given_params(fmt.init(key, shape, scope))


def read_prompt(fmt: Format, params: Params, value: PyTree, scope: Scope) -> Any:
    """Call a format's read (an array or Tokens); an error in it names the format."""
    with part_at("its format", fmt, "read", params, value):
        prompt = fmt.read(params, value, scope)
        if hasattr(prompt, "shape") or hasattr(prompt, "position"):
            return prompt
        raise PartError(
            f"read gave {shown(prompt)}, expected an array of the prompt's shape, or "
            "one for each row; return the array"
        )


@contextmanager
def one_array(sites: tuple[str, ...], spec: PyTree) -> Iterator[None]:
    """Explain a spec that is not one array, if an init fails with it."""
    try:
        yield
    except (AttributeError, PartError) as error:
        first = error.__cause__ if isinstance(error, PartError) else error
        plain = type(spec) in (tuple, list, dict)
        if not plain or not isinstance(first, AttributeError):
            raise
        found = f"a {type(spec).__name__} of {len(spec)} parts"
        do = "choose a site with one array, or an init and apply that take the parts"
        if len(sites) > 1:
            found, do = "{site: spec} of several sites", "call shared(manipulation)"
        raise PartError(
            f"it got {found}, where its init expected one array ({first}); {do}"
        ) from first


@contextmanager
def loops(inner: Collection[str]) -> Iterator[None]:
    """Explain which sites lie in a loop, if an edit changed the loop's carry."""
    try:
        yield
    except (TypeError, PartError) as error:
        if not inner or "carry" not in str(error):
            raise
        first = error.__cause__ or error
        raise ValueError(
            f"an edit changed the value that a loop carries from layer to layer: "
            f"{sorted(inner)} lie inside scan, where one site serves all layers; "
            "expected edits that keep its shape and type (add or replace, no insert); "
            "call the layers in a Python loop, so that each has a site. JAX says: "
            f"{first}"
        ) from first


# -- what a part returned


def value_text(value: PyTree) -> str:
    """float32[4,7]; of a tree its class and leaves."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return array_text(value)
    leaves = [a for a in jax.tree.leaves(value) if hasattr(a, "shape")]
    kind = "None" if value is None else f"a {type(value).__name__}"
    return f"{kind} of {', '.join(map(array_text, leaves[:3]))}" if leaves else kind


def given_params(found: Any, call: str = "init") -> Params:
    """Raise unless an init or a refresh gave Params."""
    if not isinstance(found, Params):
        raise PartError(
            f"{call} gave {shown(found)} for params, expected Params; return "
            "Params(learnable), or Params(learnable, fixed), each any tree of arrays"
        )
    return found


def check_arrays(params: Params) -> Params:
    """Raise if params hold a leaf that a compiled program cannot take."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float):
            raise PartError(
                f"its params hold {shown(leaf)} at {jax.tree_util.keystr(path)}, "
                "expected arrays; keep texts, functions and settings in the closure"
            )
    return params


def given_value(found: PyTree) -> PyTree:
    """Raise if an apply gave None."""
    if found is None:
        raise PartError(
            "apply returned None, expected the value with which the model goes on; "
            "return the value, changed or not"
        )
    return found


def check_kept(site: str, before: PyTree, after: PyTree) -> None:
    """Raise if the model cannot continue with what an inner manipulation returned.

    A wrong number of rows would broadcast, and the model would answer other rows.
    """
    if site in ("input", "output"):  # these two may change shape and type freely
        return
    came = f"it made {value_text(after)} out of {value_text(before)}"
    if hasattr(before, "dtype") != hasattr(after, "dtype"):
        raise PartError(f"{came}, expected an array; return the value itself")
    if (
        hasattr(before, "dtype")
        and jnp.issubdtype(before.dtype, jnp.floating)
        and not jnp.issubdtype(after.dtype, jnp.floating)
    ):
        raise PartError(f"{came}, expected floats; cast it: value.astype(dtype)")
    if _rows(before) != _rows(after):
        raise PartError(
            f"{came}, expected the same first axis; return a row for each of the batch"
        )


def _rows(value: PyTree) -> tuple[Any, ...]:
    """The first axis, a number or a symbol of jax.export; a value without arrays
    (flags) counts as one row."""
    shapes = (a.shape[:1] for a in jax.tree.leaves(value) if hasattr(a, "shape"))
    return next(shapes, (1,))


def check_fixed(before: PyTree, after: PyTree, who: str) -> PyTree:
    """Raise unless new statistics have the tree, shapes and types of the old ones."""
    old, new = (jax.tree.map(value_text, tree) for tree in (before, after))
    if jax.tree.structure(before) != jax.tree.structure(after) or old != new:
        raise PartError(
            f"{who} gave {_short(after)} for fixed, expected the tree, the shapes and "
            f"the types that init gave, {_short(before)}; keep them when training "
            "updates the values"
        )
    return after


def check_sums(sums: PyTree) -> PyTree:
    """Raise unless an observe gave arrays."""
    leaves = jax.tree.leaves(sums)
    if not leaves or not all(hasattr(a, "dtype") for a in leaves):
        raise PartError(
            f"observe gave {value_text(sums)}, expected arrays that add up over "
            "batches; return the sums of this batch"
        )
    return sums


def _short(tree: PyTree) -> str:
    return str(jax.tree.map(value_text, tree)).replace("'", "")[:120]


# -- the model


class Passage:
    """How far a forward got: its last site, the edit's argument and result there."""

    def __init__(self) -> None:
        self.site, self.given, self.got = "", None, None

    def note(self, site: str, given: PyTree, got: PyTree) -> None:
        self.site, self.given, self.got = site, given, got


@contextmanager
def editing(site: str, edit: Any) -> Iterator[None]:
    """Name the outer edit that failed."""
    try:
        yield
    except MISTAKES as error:
        if isinstance(error, PartError) or _is_ours(error):
            raise
        raise PartError(
            f"it raised {told(error)}, expected (site, value) -> value",
            (f"the edit of {site!r} ({name_of(edit)})",),
        ) from error


@contextmanager
def running(
    forward: Callable[..., Any], frozen: PyTree, passage: Passage
) -> Iterator[None]:
    """Say how far a forward got before it failed."""
    try:
        yield
    except MISTAKES as error:
        if isinstance(error, PartError) or _is_ours(error):
            raise
        where = "before its first site"
        if passage.site:
            where = f"after the site {passage.site!r} ({value_text(passage.got)})"
        do = "sites(forward, frozen, x) shows what the model itself has at each site"
        if isinstance(error, KeyError) and _keys(frozen):
            do = f"the frozen tree holds {_keys(frozen)[:8]}; {do}"
        raise PartError(
            f"raised {told(error)}, expected values of the shapes and types that the "
            f"model takes at this place; {do}",
            (f"the forward ({name_of(forward)}) {where}",),
        ) from error
    finally:  # an adapter may keep the edit, which would keep a traced value alive
        passage.note("", None, None)


def check_answer(
    forward: Callable[..., Any], y: PyTree, reached: Collection[str], passage: Passage
) -> None:
    """Raise if a forward skipped "input" or "output", or returned no edited answer."""
    who = (f"the forward ({name_of(forward)})",)
    if y is None:
        raise PartError(
            "it returned None, expected its answer; end it with return "
            'edit("output", y)',
            who,
        )
    if missing := [end for end in ("input", "output") if end not in reached]:
        raise PartError(
            f"it called edit at {[*reached]}, expected {missing} too; begin it with "
            'x = edit("input", x), and end it with return edit("output", y)',
            who,
        )
    if passage.site == "output" and y is passage.given and y is not passage.got:
        raise PartError(
            "it returned what it had before the edit of 'output', expected what the "
            'edit gave; end it with return edit("output", y)',
            who,
        )
