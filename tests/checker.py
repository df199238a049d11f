"""The type checker of the import hook: a whole number may stand for a float.

A function inside a function is made anew wherever the outer one is called. To write its
checks costs more than many a test, so equal ones are written once.
"""

import inspect

import beartype

_checked = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
_written = {}


def check(function):
    """The hook's stand-in of a function (its signature, no body), with checks."""
    parameters = inspect.signature(function).parameters.values()
    kinds = tuple((p.name, p.kind) for p in parameters)
    key = function.__module__, function.__qualname__, kinds
    defaults = [p.default for p in parameters]
    types, before, checked = _written.get(key, (None, (), None))
    equal = types == function.__annotations__ and len(before) == len(defaults)
    if not equal or any(a is not b for a, b in zip(before, defaults, strict=True)):
        checked = _checked(function)
        _written[key] = dict(function.__annotations__), defaults, checked
    return checked
