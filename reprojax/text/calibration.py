"""Calibration of in-context programs: removes the bias of the prompt and the labels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import Params
from reprojax.text import Language, answer_and_record, estimate_texts, realigned
from reprojax.text.estimation import Seen
from reprojax.text.procedure import Procedure, Row

CONTENT_FREE = ("N/A", "", "[MASK]")


def contextual_calibration(
    program: Procedure,
    params: Params,
    language: Language,
    *,
    field: str = "text",
    inputs: Sequence[str] = CONTENT_FREE,
    row: Row | None = None,
    contexts: Sequence[Any] | None = None,
) -> Params:
    """Params calibrated on inputs without content (Zhao et al., arXiv 2102.09690).

    As in their code, the labels' probabilities are averaged over the inputs before they
    are normalised, so an input after which all labels are unlikely has less weight. The
    demonstrations are the program's own. No label and no query is used.

    Args:
        field: the template's field for the inputs.
        row: values for a query's other fields, if the template has any.
        contexts: demonstrations for each input, if each query brings its own.
    """
    xs = [{**(row or {}), field: text} for text in inputs]
    _, seen = answer_and_record(program, params, language, xs, contexts)
    return estimate_texts(program, params, [_pooled(seen)] if seen else [])


def _pooled(seen: Seen) -> dict[str, jax.Array]:
    """One row of log-probabilities for several: the log of the sum."""
    rows = {site: jnp.stack([own[site] for own in seen]) for site in seen[0]}
    return {site: jax.nn.logsumexp(logp, axis=0) for site, logp in rows.items()}


def domain_context_calibration(
    program: Procedure,
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
    """Params calibrated on random words of the task's inputs (arXiv 2305.19148).

    Source: Fei et al. The mean is taken as for inputs without content.

    Args:
        texts: unlabelled inputs, from which words are drawn.
        times: number of such inputs.
        length: words in each; by default the texts' mean length.
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
    program: Procedure,
    params: Params,
    language: Language,
    xs: Sequence[Row],
    contexts: Sequence[Any] | None = None,
) -> tuple[list, Params]:
    """The answers to a batch, calibrated on itself (Zhou et al., arXiv 2309.17249).

    Each query is asked once. An answer depends on the other queries of the batch, but
    on no label; the returned params answer single queries as this batch did. Each
    query's label probabilities are normalised, so queries have equal weight.
    """
    _, seen = answer_and_record(program, params, language, xs, contexts)
    params = estimate_texts(program, params, seen)
    return realigned(program, params, seen), params
