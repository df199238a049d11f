"""A run: what stays fixed from its first step to its last, and its identity."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import optax
from jax.sharding import Mesh

from reprojax.core import Program, PyTree
from reprojax.core.estimation import Refresh
from reprojax.data.order import Outline
from reprojax.saving.identity import of_run
from reprojax.training.losses import Loss, judge
from reprojax.training.metrics import Metric, accuracy, observed

Evaluated = Callable[[optax.OptState, PyTree], PyTree]
"""(optimiser state, learnable) -> the learnable params to evaluate."""


class Run(NamedTuple):
    """All of a run except its rows and its seed."""

    program: Program
    optimizer: optax.GradientTransformation
    loss: Loss
    sites: tuple[str, ...]
    """Further sites to record."""
    frozen: PyTree
    rows: Outline
    metric: Metric = accuracy
    """Selects by validation."""
    metrics: tuple[Metric, ...] = ()
    """Further metrics on the test split."""
    evaluated: Evaluated | None = None
    refresh: Refresh = "epoch"
    mesh: Mesh | None = None
    accumulate: int = 1


def ingredients(run: Run, own: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run's numbers depend on; `own` is the caller's part (see `identity`)."""
    metric, rows, judged = run.metric, run.rows, partial(judge, run.loss)
    what = run.program, run.optimizer, run.evaluated, judged
    measured = partial(observed, metric), metric.score
    given = run.sites, run.frozen, rows.x, rows.y, rows.context
    found = of_run(*what, *measured, *given, own)
    found["metric"] = f"{metric.name}, {metric.better}, {found['metric']}"
    return {"refresh": run.refresh} | found
