"""Metrics: sums over batches, and a number computed from the total.

Sums add up over batches, members and devices, so a metric is that of the whole split,
not a mean of means. Labels without an example (-1, NaN) are left out.

Other libraries do not fit: metrax (on clu) has no missing labels, computes ROC-AUC from
probabilities at 200 thresholds and needs six more packages; `flax.nnx.metrics` has
averages only.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from reprojax.core import PyTree
from reprojax.data.order import Outline
from reprojax.training.losses import (
    Loss,
    Seen,
    absolute_error,
    cross_entropy,
    look,
    squared_error,
    summed,
)


class Metric(NamedTuple):
    """Two pure functions and a direction. Hashable, so it can be a static argument."""

    name: str
    observe: Callable[[Seen], PyTree]
    """(a batch's Seen) -> sums; called in evaluation, without a key."""
    score: Callable[[PyTree], Any]
    """The total of all sums, as NumPy arrays -> a number."""
    better: Literal["higher", "lower"] = "higher"

    @property
    def sign(self) -> int:
        """1 or -1; a score times this is better when higher."""
        return 1 if self.better == "higher" else -1


def observed(
    metric: Metric,
    recorded: Mapping[str, Any],
    labels: Any,
    learnable: PyTree,
    x: PyTree,
    context: PyTree,
) -> PyTree:
    """A batch's sums for a metric, from what evaluation records."""
    return metric.observe(look(recorded, labels, learnable, x, context, None, 0))


def chosen(y: jax.Array) -> jax.Array:
    """The best class of each row [... T] -> [...]; -2, no class, at NaN or overflow."""
    return jnp.where((y < jnp.inf).all(-1), y.argmax(-1), -2)


def _of_several(seen: Seen) -> bool:
    """Whether several labels [B T] may be right at once, each with its own logit."""
    return seen.labels.ndim == 2 and seen.output.ndim == 2


def fitting_metric(task: Outline, loss: Loss) -> Metric:
    """The default metric of a task; without labels, the loss."""
    metrics = {"labels": roc_auc, "numbers": mean_squared_error}
    metrics["none"] = of_loss(loss)
    return metrics.get(task.answers, accuracy)


# -- classes, and several labels at once


def _right(seen: Seen) -> tuple[jax.Array, jax.Array]:
    """(correct rows, rows); with several labels a row, labels are counted, not rows.

    If the labels are words [B L], a row is correct if all its words are, each predicted
    after the correct words before it. K answers [B K T] give K counts.
    """
    y, labels = seen.output, seen.labels
    real = labels >= 0
    if _of_several(seen):
        hit = _above(y) == labels
        return (hit & real).sum(), real.sum()
    answers = chosen(y)
    if labels.ndim == 2:
        hit = ((answers == labels) | ~real).all(1) & real.any(1)
        return hit.sum(), real.any(1).sum()
    column = labels.reshape(-1, *(1,) * (answers.ndim - 1))
    return (answers == column).sum(0), real.sum()


def _above(y: jax.Array) -> Int[Array, "B T"]:
    """1 where a logit says yes, 0 where no; -2, neither, for NaN or overflow."""
    return jnp.where(jnp.isfinite(y), y > 0, -2)


def _tables(seen: Seen) -> tuple[Bool[Array, "B T"], ...]:
    """For each class: the truth, the prediction, and whether the label is known."""
    y, labels = seen.output, seen.labels
    if _of_several(seen):
        return labels == 1, _above(y) == 1, labels >= 0
    classes = jnp.arange(y.shape[-1])
    right, said = labels[:, None] == classes, chosen(y)[:, None] == classes
    return right, said, jnp.broadcast_to((labels >= 0)[:, None], right.shape)


def _recalled(seen: Seen) -> tuple[jax.Array, jax.Array]:
    """(found, existing) rows of each class [T]; of several labels, yes and no [2 T]."""
    right, said, known = _tables(seen)
    yes = (right & said & known).sum(0), (right & known).sum(0)
    if not _of_several(seen):
        return yes
    no = _above(seen.output) == 0
    no = (~right & no & known).sum(0), (~right & known).sum(0)
    return jnp.stack([yes[0], no[0]]), jnp.stack([yes[1], no[1]])


def _balanced(sums: Any) -> float:
    found, there = map(np.asarray, sums)
    share = np.where(there > 0, found / np.maximum(there, 1), np.nan)
    return _mean(share.mean(0) if share.ndim == 2 else share)


def _mean(each: np.ndarray) -> float:
    """The mean of the entries that are not NaN; NaN if there are none."""
    real = each[~np.isnan(each)]
    return float(real.mean()) if real.size else float("nan")


def _agreed(seen: Seen) -> tuple[jax.Array, jax.Array]:
    right, said, known = _tables(seen)
    both = (right & said & known).sum(0)
    return both, (right & known).sum(0) + (said & known).sum(0)


def _f1(sums: Any) -> float:
    """The mean over the classes that occur as label or prediction."""
    both, either = map(np.asarray, sums)
    return _mean(np.where(either > 0, 2 * both / np.maximum(either, 1), np.nan))


BINS = 1 << 14
"""Of `roc_auc`. Logits in one bin count as equal; near zero they differ by less than
1.3e-4."""


def _ranked(seen: Seen) -> Int[Array, "2 T bins"]:
    """Histograms of each class's logit, for rows not of the class, and of it."""
    y = seen.output.astype(jnp.float32)
    right, _, known = _tables(seen)
    if not _of_several(seen):  # each class against the rest; for two, one is enough
        y = jax.nn.log_softmax(y)
        # log p - log(1 - p), the logit of one class against the rest.
        y = y - jnp.log1p(-jnp.minimum(jnp.exp(y), 1 - 1e-7))
        if y.shape[1] == 2:
            y, right, known = y[:, 1:], right[:, 1:], known[:, 1:]
    place = (0.5 + 0.5 * y / (1 + jnp.abs(y))) * BINS
    # NaN counts as the worst logit for either label.
    worst = jnp.where(right, 0.0, BINS - 1.0)
    place = jnp.where(jnp.isnan(place), worst, jnp.clip(place, 0, BINS - 1))
    shape = 2, right.shape[1], BINS
    at = right.astype(int), jnp.arange(shape[1]), place.astype(int)
    return jnp.zeros(shape, jnp.int32).at[at].add(known)


def _area(sums: Any) -> float:
    """The share of (positive, negative) pairs in the right order; ties count half."""
    wrong, right = np.asarray(sums, np.float64)
    below = wrong.cumsum(1) - wrong / 2
    pairs = wrong.sum(1) * right.sum(1)
    found = (right * below).sum(1) / np.maximum(pairs, 1)
    return _mean(np.where(pairs > 0, found, np.nan))


def _confident(seen: Seen) -> Float[Array, "3 bins"]:
    """For 15 bins of confidence: rows, total confidence, correct rows."""
    y, labels = seen.output.astype(jnp.float32), seen.labels
    if _of_several(seen):
        p = jax.nn.sigmoid(y)
        sure, hit, real = jnp.maximum(p, 1 - p), _above(y) == labels, labels >= 0
    else:
        sure, hit = jax.nn.softmax(y).max(-1), chosen(y) == labels
        real = labels >= 0
    place = jnp.clip((sure * 15).astype(int), 0, 14)  # NaN becomes 0, never correct
    rows = jnp.stack([real, real * sure, real & hit]).astype(jnp.float32)
    total = jnp.zeros((3, 15), jnp.float32)
    return total.at[:, place.ravel()].add(rows.reshape(3, -1))


def _gap(sums: Any) -> float:
    count, sure, right = np.asarray(sums, np.float64)
    return float(np.abs(sure - right).sum() / count.sum())


accuracy = Metric("accuracy", _right, lambda sums: sums[0] / sums[1])
balanced_accuracy = Metric("balanced accuracy", _recalled, _balanced)
f1 = Metric("F1", _agreed, _f1)
roc_auc = Metric("ROC-AUC", _ranked, _area)
calibration_error = Metric("calibration error", _confident, _gap, "lower")

# -- numbers, and any loss as a metric


@lru_cache  # equal losses give the same metric, which is compiled once
def of_loss(loss: Loss, name: str = "loss") -> Metric:
    """The mean of a loss over a split, weighted by its weights; lower is better."""
    observe = lambda seen: summed(loss(seen), _counted(seen))
    return Metric(name, observe, lambda sums: float(sums[0] / sums[1]), "lower")


def _counted(seen: Seen) -> jax.Array:
    """0 where a label is an example, -1 elsewhere."""
    real: Any = seen.real
    return jnp.where(real, 0, -1)


mean_squared_error = of_loss(squared_error, "mean squared error")
mean_absolute_error = of_loss(absolute_error, "mean absolute error")
perplexity = of_loss(cross_entropy)._replace(
    name="perplexity", score=lambda sums: float(np.exp(sums[0] / sums[1]))
)


def _moments(seen: Seen) -> Float[Array, "4 R"]:
    """For each number: count, sum, sum of squares, and sum of squared errors."""
    real: Any = seen.real
    y = seen.labels.astype(jnp.float32)
    error = seen.output.astype(jnp.float32) - y
    each = jnp.stack([jnp.ones_like(y), y, y**2, error**2])
    return jnp.where(real, each, 0).sum(1)


def _explained(sums: Any) -> float:
    count, total, squares, errors = np.asarray(sums, np.float64)
    spread = squares - total**2 / np.maximum(count, 1)
    share = errors / np.where(spread > 0, spread, 1)
    return _mean(np.where(spread > 0, 1 - share, np.nan))


r2 = Metric("R2", _moments, _explained)
