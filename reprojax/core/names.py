"""Names of parts and functions for errors and `repr`, read off their closures."""

import inspect
from types import UnionType
from typing import Any

from reprojax.core.vocabulary import Format, Manipulation


def name_of(part: Any) -> str:
    """A part is named after the function that made it; others have their own name."""
    if not isinstance(part, Format | Manipulation):
        return _of_function(part)
    functions = [f for f in part if f is not None]
    own, held = _of_function(functions[1]), [*_closure(functions[1]).values()]
    if own == "<lambda>":  # its init may have a name instead
        own = next((n for n in map(_of_function, functions) if n != own), own)
    if own.startswith("_") or own == "stateless":  # a helper: name the public caller
        every = [value for f in functions for value in _closure(f).values()]
        made = [_of_function(f) for f in every if callable(f)]
        own = next((name for name in made if not name.startswith("_")), own)
    names = []
    for value in held:
        if isinstance(value, Format | Manipulation):
            names.append(name_of(value))
        elif isinstance(value, dict):  # a chain's parts
            inner = {k: v for k, v in value.items() if isinstance(v, Manipulation)}
            names += [_named(k, name_of(m)) for k, m in inner.items()]
    return f"{own}({', '.join(dict.fromkeys(names))})" if names else own


def _named(key: str, name: str) -> str:
    return name if name.split("(")[0] == key else f"{key}={name}"


def _of_function(function: Any) -> str:
    """The function that made it; for a top-level function its own name."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    *makers, own = name.split(".<locals>.")
    plain = own not in ("apply", "read", "init", "<lambda>") and not is_ours(function)
    makers = [maker for maker in makers if maker != "<lambda>"]
    return own if plain or not makers else makers[-1]


def _closure(function: Any) -> dict[str, Any]:
    """What a function closes over, by name."""
    function = inspect.unwrap(function)
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = getattr(function, "__closure__", None) or ()
    held = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return held


def is_ours(came: Any) -> bool:
    """Whether it is one of the library's own functions, passed without being called."""
    return callable(came) and str(getattr(came, "__module__", "")).startswith(
        "reprojax."
    )


def kinds_text(kind: type | UnionType) -> str:
    """Names of a class, or of the classes of a union: "Pixels, or Series"."""
    each = kind.__args__ if isinstance(kind, UnionType) else (kind,)
    return ", or ".join(one.__name__ for one in each)
