"""A run: what stays the same from its first step to its last, and which one it is."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from reprojax.core import Program, PyTree
from reprojax.core.estimation import Refresh
from reprojax.data.task import Outline
from reprojax.saving.identity import of_run
from reprojax.training.losses import Loss, judge
from reprojax.training.metrics import Metric, accuracy, observed

Evaluated = Callable[[optax.OptState, PyTree], PyTree]
"""(the optimiser's state, learnable) -> the learnable params that are evaluated."""


class Run(NamedTuple):
    """All of a run but its rows and its seed."""

    program: Program
    optimizer: optax.GradientTransformation
    loss: Loss
    sites: tuple[str, ...]
    """Which are recorded besides."""
    frozen: PyTree
    rows: Outline
    metric: Metric = accuracy
    """By which validation selects."""
    metrics: tuple[Metric, ...] = ()
    """Of the test split, besides."""
    evaluated: Evaluated | None = None
    refresh: Refresh = "epoch"
    mesh: Mesh | None = None
    accumulate: int = 1


def ingredients(run: Run, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """What its numbers depend on; `own` is what its caller adds (see `identity`)."""
    metric, rows, judged = run.metric, run.rows, partial(judge, run.loss)
    what = run.program, run.optimizer, run.evaluated, judged
    measured = partial(observed, metric), metric.score
    given = run.sites, run.frozen, rows.x, rows.y, rows.context
    found = of_run(*what, *measured, *given, own)
    found["metric"] = f"{metric.name}, {metric.better}, {found['metric']}"
    return {"refresh": run.refresh} | found
