"""describe_texts(program, params, language, xs): the coordinates of text programs.

As for arrays, nothing is declared: the program runs on one row with a free stand-in for
the language, and each manipulation's effect on its text is observed.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from reprojax.core import Params, Program, part
from reprojax.taxonomy.programs import Description, Row
from reprojax.text import Completion, Language, Reply, Scored, record_texts


def describe_texts(
    program: Program,
    params: Params,
    language: Language,
    xs: Sequence[Any],
    contexts: Sequence[Any] | None = None,
) -> Description:
    """The coordinates of a program over texts, observed on the first row.

    Texts enter a language model at its input. A prompt before or after the whole text
    is concatenative, any other parametric. An alignment is statistical once estimated;
    before that its numbers are 0 and it is a rule.
    """
    sites = [site for (site,), _ in program.at]
    look = [name for site in sites for name in (f"{site}/raw", site)]
    contexts = None if contexts is None else contexts[:1]
    run = record_texts(program.apply, look)
    _, (seen,) = run(params, _free(language), xs[:1], contexts)
    rows = tuple(_row(site, part(params, site), seen) for site in sites)
    omega = [row.operator for row in rows if row.location == "output"]
    return Description(rows, omega[0] if omega else "identity")


def _free(language: Language) -> Language:
    """The language's tokens and limits, with constant answers that cost nothing."""
    return language._replace(
        complete=lambda asked: [Reply((Completion("1"),) * r.samples) for r in asked],
        score=lambda items: [Scored(-1.0) for _ in items],
    )


def _row(site: str, params: Params, seen: dict[str, Any]) -> Row:
    before, after = seen[f"{site}/raw"], seen[site]
    learnable, fixed = (_numbers(tree) for tree in params)
    if site == "output":
        changed = after is not before
        tau = _alignment(learnable, fixed, changed)
    else:
        tau = _operator(before, after)
    lam = "learnable" if jax.tree.leaves(params.learnable) else "fixed"
    numbers = [sum(a.size for a in part) for part in (learnable, fixed)]
    return Row(
        site,
        "" if tau in ("", "identity", "rule") else lam,
        "output" if site == "output" else "input",
        tau,
        tuple(a.shape for a in learnable or fixed),
        numbers[0],
        numbers[0],
        numbers[1],
    )


def _numbers(tree: Any) -> list[np.ndarray]:
    """The arrays among the leaves; other leaves are texts."""
    return [np.asarray(a) for a in jax.tree.leaves(tree) if not isinstance(a, str)]


def _operator(before: Any, after: Any) -> str:
    if before == after:
        return ""
    both = isinstance(before, str) and isinstance(after, str)
    return "concatenative" if both and before in after else "parametric"


def _alignment(learnable: list, fixed: list, changed: bool) -> str:
    if learnable:
        return "linear"
    if any(a.any() for a in fixed):
        return "statistical"
    return "rule" if changed else "identity"
