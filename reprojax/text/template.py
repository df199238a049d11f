"""Templates with named fields."""

import math
import string
from collections.abc import Mapping
from functools import lru_cache
from numbers import Real
from typing import Any

from reprojax.core.guards import nearest


@lru_cache(maxsize=256)
def _pieces(template: str) -> tuple[tuple[str, str | None], ...]:
    """(text, the field that follows it, or None), ..."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"the template {template!r} cannot be read ({error}), expected fields such "
            "as {text}; write {{ and }} for braces"
        ) from None
    for _, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise ValueError(
                f"the template {template!r} has a field {name!r}, expected plain names "
                "such as {text}; write {{ and }} for braces"
            )
    return tuple((text, name) for text, name, _, _ in parsed)


def fields(template: str) -> tuple[str, ...]:
    """A template's field names, in order, without repeats."""
    return tuple(dict.fromkeys(name for _, name in _pieces(template) if name))


def fill(template: str, row: Mapping[str, Any]) -> str:
    """The template with a row's values. Braces inside values are kept."""
    if missing := [name for name in fields(template) if name not in row]:
        raise ValueError(
            f"the template has the fields {list(fields(template))} and the row "
            f"{sorted(row)}; {missing} are missing{nearest(missing[0], row)}; rename "
            "them, or change the template"
        )
    return "".join(
        text + ("" if name is None else _cell(name, row[name]))
        for text, name in _pieces(template)
    )


def _cell(name: str, value: Any) -> str:
    """A text or finite number as text; raise at other types, whose repr is no text."""
    number = isinstance(value, Real) and math.isfinite(value)
    if not isinstance(value, str) and not number:
        raise ValueError(
            f"got {str(value)[:40]!r} ({type(value).__name__}) as the field {name!r}, "
            "expected a text or a finite number; leave rows without it out, or write "
            "it as a text"
        )
    return str(value)


def ending(template: str) -> str:
    """The text after the last field, with which all filled templates end."""
    text, name = _pieces(template)[-1]
    return text if name is None else ""


def asked(template: str) -> tuple[str, str, str]:
    """(the question's template, the gap, the answer's field) of a template.

    A template ends with the field that the model writes, so that questions and
    demonstrations have the same form. The blanks before it, the gap, belong to the
    answer, because tokens begin with their space.
    """
    pieces = _pieces(template)
    if not pieces or pieces[-1][1] is None or len(fields(template)) < 2:
        raise ValueError(
            f"got the template {template!r}, expected one with a field for the "
            "question that ends with the answer's, such as "
            "'Review: {text}\\nSentiment: {label}'"
        )
    name = str(pieces[-1][1])
    whole = template[: -len(name) - 2]
    question = whole.rstrip()
    if name in fields(whole):
        raise ValueError(
            f"the template {template!r} has its answer {name!r} in the question, "
            "expected it only at the end"
        )
    return question, whole[len(question) :], name
