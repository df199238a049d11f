"""What a user's own part does wrong, raised with its site and its name.

A part is a plain function, and fails with Python's words or JAX's, deep inside a trace.
Here they become a ValueError that says which part of which site it was, and are chained
to it, so that nothing of theirs is lost. All of it happens while a program is traced:
the compiled program has none of it.
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
"""What is a mistake in a function; other errors (of memory, of a service) pass."""
OURS = str(Path(__file__).parents[1])
CALLS = {
    "init": "(key, spec, scope) -> Params",
    "apply": "(params, value, scope) -> value",
    "read": "(params, value, scope) -> prompt",
    "observe": "(params, value, labels) -> sums",
    "refresh": "(params, sums) -> Params",
}


class PartError(ValueError):
    """What a part did wrong, and where it stands: the outermost first."""

    def __init__(self, what: str, where: tuple[str, ...] = ()) -> None:
        super().__init__(", ".join(where) + ": " + what if where else what)
        self.what, self.where = what, where


@contextmanager
def part_at(
    where: str, part: Any, call: str, params: Any = None, value: Any = None
) -> Iterator[None]:
    """Says which part it was, if one of its functions fails.

    Args:
        where: such as "the manipulation of 'hidden'".
        call: which of its functions runs: a key of `CALLS`.
        params, value: what that function gets, where it gets them.
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
    """How an error names what stands at a site, or at several."""
    return f"the manipulation of {' and '.join(map(repr, sites))}"


def _in_words(error: Exception, call: str, params: Any, value: Any) -> str:
    if _is_ours(error):
        return str(error)
    got = "" if value is None else f" on {value_text(value)}"
    expected, do = f"expected {call}{CALLS[call]}", _advice(error, call, params)
    return f"{call}{got} raised {told(error)}, {expected}; {do}"


def told(error: Exception) -> str:
    """The type of an error, what it says first, and the user's line that it is from."""
    lines = str(error).strip().splitlines() or ["nothing"]
    return f"{type(error).__name__}: {lines[0].rstrip('.:')[:300]}{_place(error)}"


def _is_ours(error: Exception) -> bool:
    """Whether it says in the library's own words what is wrong."""
    frames = list(traceback.walk_tb(error.__traceback__))
    raised = frames[-1][0].f_globals.get("__name__", "") if frames else ""
    return isinstance(error, ValueError) and raised.startswith("reprojax.")


def _place(error: Exception) -> str:
    """(file.py, line 12), of the last function that is no library's."""
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
            "its numbers are not known while a program is traced: take jnp.where or "
            "jax.lax.cond for an if, and jnp for NumPy's functions"
        )
    given = CALLS[call].split(" ->")[0].replace("scope", "Scope()")
    return f"call it alone to look at it: its own {call}{given}"


def _keys(tree: PyTree) -> list[str]:
    return sorted(map(str, tree)) if isinstance(tree, Mapping) else []


def init_prompt(fmt: Format, key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
    """A format's init; what it does wrong is named as the format's."""
    with part_at("its format", fmt, "init"):
        return given_params(fmt.init(key, shape, scope))


def read_prompt(fmt: Format, params: Params, value: PyTree, scope: Scope) -> Any:
    """A format's read: an array, or Tokens; what it does wrong is named as its own."""
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
    """Says what was wrong with a spec that is no array, if an init fails on it."""
    try:
        yield
    except (AttributeError, PartError) as error:
        first = error.__cause__ if isinstance(error, PartError) else error
        plain = type(spec) in (tuple, list, dict)
        if not plain or not isinstance(first, AttributeError):
            raise
        found = f"a {type(spec).__name__} of {len(spec)} parts"
        do = "take a site with one array, or an init and apply that know the parts"
        if len(sites) > 1:
            found, do = "{site: spec} of several sites", "call shared(manipulation)"
        raise PartError(
            f"it got {found}, where its init expected one array ({first}); {do}"
        ) from first


@contextmanager
def loops(inner: Collection[str]) -> Iterator[None]:
    """Says which sites lie in a loop, if an edit changed what the loop carries."""
    try:
        yield
    except (TypeError, PartError) as error:
        if not inner or "carry" not in str(error):
            raise
        first = error.__cause__ or error
        raise ValueError(
            f"an edit changed what goes from layer to layer in a loop: {sorted(inner)} "
            "lie inside scan, where one site serves all layers; expected edits that "
            "keep its shape and type (add or replace, no insert); call the layers in a "
            f"Python loop, so that each has a site. JAX says: {first}"
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
    """What an init or a refresh gave, if it is Params."""
    if not isinstance(found, Params):
        raise PartError(
            f"{call} gave {shown(found)} for params, expected Params; return "
            "Params(learnable), or Params(learnable, fixed), each any tree of arrays"
        )
    return found


def check_arrays(params: Params) -> Params:
    """Raise at what no compiled program takes among params."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not hasattr(leaf, "dtype") and not isinstance(leaf, bool | int | float):
            raise PartError(
                f"its params hold {shown(leaf)} at {jax.tree_util.keystr(path)}, "
                "expected arrays; keep texts, functions and settings in the closure"
            )
    return params


def given_value(found: PyTree) -> PyTree:
    """What an apply gave, if it is anything."""
    if found is None:
        raise PartError(
            "apply returned None, expected the value with which the model goes on; "
            "return the value, changed or not"
        )
    return found


def check_kept(site: str, before: PyTree, after: PyTree) -> None:
    """Raise at what the model cannot go on with, for a manipulation inside of it.

    Of other rows it would go on by broadcasting, and answer for the wrong ones.
    """
    if site in ("input", "output"):  # which may make anything of anything
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


def _rows(value: PyTree) -> tuple[int, ...]:
    """The first axis; a value without arrays (flags) counts as one row."""
    shapes = (a.shape[:1] for a in jax.tree.leaves(value) if hasattr(a, "shape"))
    return next(shapes, (1,))


def check_fixed(before: PyTree, after: PyTree, who: str) -> PyTree:
    """New statistics, if they are the tree that they replace, of its shapes."""
    old, new = (jax.tree.map(value_text, tree) for tree in (before, after))
    if jax.tree.structure(before) != jax.tree.structure(after) or old != new:
        raise PartError(
            f"{who} gave {_short(after)} for fixed, expected the tree, the shapes and "
            f"the types that init gave, {_short(before)}; what training changes keeps "
            "its form"
        )
    return after


def check_sums(sums: PyTree) -> PyTree:
    """Raise unless an observe gave arrays, which add up."""
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
    """How far a forward came: the last site, what it gave there, what it got."""

    def __init__(self) -> None:
        self.site, self.given, self.got = "", None, None

    def note(self, site: str, given: PyTree, got: PyTree) -> None:
        self.site, self.given, self.got = site, given, got


@contextmanager
def editing(site: str, edit: Any) -> Iterator[None]:
    """Says which edit from outside it was, if one fails."""
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
    """Says where a forward was, if it fails."""
    try:
        yield
    except MISTAKES as error:
        if isinstance(error, PartError) or _is_ours(error):
            raise
        where = "before its first site"
        if passage.site:
            where = f"behind the site {passage.site!r} ({value_text(passage.got)})"
        do = "sites(forward, frozen, x) shows what the model itself has at each site"
        if isinstance(error, KeyError) and _keys(frozen):
            do = f"the frozen tree holds {_keys(frozen)[:8]}; {do}"
        raise PartError(
            f"raised {told(error)}, expected what stands before it to have the shapes "
            f"and types that the model takes; {do}",
            (f"the forward ({name_of(forward)}) {where}",),
        ) from error
    finally:  # an adapter may keep the edit, and with it a traced value
        passage.note("", None, None)


def check_answer(
    forward: Callable[..., Any], y: PyTree, reached: Collection[str], passage: Passage
) -> None:
    """Raise if a forward forgot an end, or its answer."""
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
