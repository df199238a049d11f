"""Estimation of procedures' alignments from recorded answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from reprojax.core import Params, Scope, part
from reprojax.core.estimation import estimated, observe, raw_sites, refresh
from reprojax.text.language import Language
from reprojax.text.procedure import Procedure, Row, record_texts

Seen = Sequence[Mapping[str, Any]]
"""{site: value} of each query, as `record_texts` gives them."""


def answer_and_record(
    procedure: Procedure,
    params: Params,
    language: Language,
    xs: Sequence[Row],
    contexts: Sequence[Any] | None = None,
) -> tuple[list, Seen]:
    """(answers, the raw values of estimated sites) of each query."""
    _check_estimated(procedure)
    return record_texts(procedure.apply, raw_sites(procedure))(
        params, language, xs, contexts
    )


def estimate_texts(procedure: Procedure, params: Params, seen: Seen) -> Params:
    """The params with statistics estimated from what `answer_and_record` saw.

    No label is used. These queries' statistics replace earlier ones.
    """
    _check_estimated(procedure)
    if not len(seen):
        raise ValueError("got no records, expected the answers to at least one query")
    stacked = {
        site: jnp.stack([own[site] for own in seen]) for site in raw_sites(procedure)
    }
    sums = observe(procedure, params, stacked, jnp.zeros(len(seen), int))
    return refresh(procedure, params, sums)


def realigned(procedure: Procedure, params: Params, seen: Seen) -> list:
    """The answers to the same queries under other params of "output", without asking.

    The params of all other sites must be unchanged.
    """
    align = dict(procedure.at)[("output",)]
    own, scope = part(params, "output"), Scope("output")
    return [align.apply(own, one["output/raw"], scope) for one in seen]


def _check_estimated(procedure: Procedure) -> None:
    if not estimated(procedure):
        raise ValueError(
            "the procedure has nothing to estimate, expected an alignment such "
            "as calibrated(targets) at 'output'"
        )
