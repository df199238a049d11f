"""Calibrations of in-context programs: the bias of prompt and labels taken off."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reprojax.core import Params, Program
from reprojax.text import Language, estimate, looked, realigned
from reprojax.text.procedure import Row

CONTENT_FREE = ("N/A", "", "[MASK]")


def contextual_calibration(
    program: Program,
    params: Params,
    language: Language,
    *,
    field: str = "text",
    inputs: Sequence[str] = CONTENT_FREE,
    row: Row | None = None,
    contexts: Sequence[Any] | None = None,
) -> Params:
    """The params, calibrated on inputs without content (arXiv 2102.09690).

    Source: Zhao et al. The demonstrations are the program's own. No label and no query
    is used.

    Args:
        field: what the inputs are put into.
        row: a query's other fields, where the template has any.
        contexts: demonstrations of each input, where each query brings its own.
    """
    xs = [{**(row or {}), field: text} for text in inputs]
    _, seen = looked(program, params, language, xs, contexts)
    return estimate(program, params, seen)


def domain_context_calibration(
    program: Program,
    params: Params,
    language: Language,
    texts: Sequence[str],
    *,
    field: str = "text",
    times: int = 20,
    length: int | None = None,
    seed: int = 0,
    row: Row | None = None,
    contexts: Sequence[Any] | None = None,
) -> Params:
    """The same on random words of the task's inputs (Fei et al., arXiv 2305.19148).

    Args:
        texts: unlabelled inputs, whose words are drawn.
        times: how many such inputs.
        length: words in each; by default the mean of the texts'.
    """
    pool = [word for text in texts for word in text.split()]
    if not pool:
        raise ValueError("texts hold no word, expected some of the task's own inputs")
    n = round(len(pool) / len(texts)) if length is None else length
    draws = np.random.default_rng(seed).integers(len(pool), size=(times, max(n, 1)))
    inputs = [" ".join(pool[i] for i in own) for own in draws]
    return contextual_calibration(
        program,
        params,
        language,
        field=field,
        inputs=inputs,
        row=row,
        contexts=contexts,
    )


def batch_calibration(
    program: Program,
    params: Params,
    language: Language,
    xs: Sequence[Row],
    contexts: Sequence[Any] | None = None,
) -> tuple[list, Params]:
    """The answers to a batch, calibrated on itself (Zhou et al., arXiv 2309.17249).

    Each query is asked once. An answer hangs on the other queries of the batch, not on
    any label: the params that come back answer single queries as this batch would have.
    """
    _, seen = looked(program, params, language, xs, contexts)
    params = estimate(program, params, seen)
    return realigned(program, params, seen), params
