"""The type checker of the import hook: a whole number may stand for a float.

A function inside a function is made anew wherever the outer one is called. To write its
checks costs more than many a test, so equal ones are written once.
"""

import inspect
from typing import Any

import beartype

_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
_written = {}


def check(function):
    """The hook's stand-in of a function (its signature, no body), with checks."""
    types = function.__annotations__
    if types.get("return", Any) is not Any:  # the arguments were checked by another
        function.__annotations__ = types = {"return": types["return"]}
    parameters = inspect.signature(function).parameters.values()
    kinds = tuple((p.name, p.kind) for p in parameters)
    key = function.__module__, function.__qualname__, kinds
    defaults = [p.default for p in parameters]
    written, before, checked = _written.get(key, (None, (), None))
    equal = written == types and len(before) == len(defaults)
    if not equal or any(a is not b for a, b in zip(before, defaults, strict=True)):
        checked = _checked(function)
        _written[key] = dict(types), defaults, checked
    return checked
