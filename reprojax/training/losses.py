"""Losses: plain functions of a batch's `Seen` that give a value for each row."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from reprojax.core import Key, PyTree
from reprojax.core.estimation import real
from reprojax.core.program import fold
from reprojax.data.order import Outline


class Seen(NamedTuple):
    """What a loss can read of a batch. Unread fields cost nothing."""

    recorded: Mapping[str, Any]
    """{site: value}: "output", and the sites in `record_sites`."""
    labels: jax.Array
    """In the form of the task's answers: [B], [B T], [B R] or [B L]. Where there is no
    example, -1, or 0 for a number."""
    learnable: PyTree = ()
    x: PyTree = None
    """The program's input."""
    context: PyTree = None
    key: Key | None = None
    """The loss's own key for this step; None where nothing may be random."""
    step: jax.Array | int = 0
    """Number of earlier steps, through all epochs."""
    real: jax.Array | None = None
    """Mask of the real examples, of the labels' shape. None in a Seen made by hand."""

    @property
    def output(self) -> Any:
        """The program's answer."""
        return self.recorded["output"]


class Rows(NamedTuple):
    """A loss whose rows have different weights, such as class weights."""

    value: jax.Array
    """[B], or [B L] where words are the labels."""
    weight: jax.Array
    """Of the same shape, at least 0; no gradient passes through it."""


@runtime_checkable
class Loss(Protocol):
    """(a batch's Seen) -> a value for each label.

    A label of -1, or NaN, marks a row without an example. The loop ignores its value
    and computes sum(value * weight) / sum(weight) over the real rows of all parts and
    devices. A single number is allowed if no label can be -1 and the batch is not cut.
    """

    def __call__(self, seen: Seen, /) -> "jax.Array | Rows": ...


def judge(
    loss: Loss,
    recorded: Mapping[str, Any],
    labels: Any,
    learnable: PyTree,
    x: PyTree,
    context: PyTree,
    key: Key | None,
    step: Any,
) -> "jax.Array | Rows":
    """A loss's value for a batch; the loss gets its own key, folded from `key`."""
    own = fold(key, "loss")
    return loss(look(recorded, labels, learnable, x, context, own, step))


def look(
    recorded: Mapping[str, Any],
    labels: Any,
    learnable: PyTree,
    x: PyTree,
    context: PyTree,
    key: Key | None,
    step: Any,
) -> Seen:
    """The Seen of a batch, from the task's labels."""
    known = real(labels) if hasattr(labels, "dtype") else None  # the contract's laws
    if known is not None and jnp.issubdtype(labels.dtype, jnp.floating):
        # NaN would enter the gradient even where the value is left out (0 * NaN).
        labels = jnp.where(known, labels, 0)
    return Seen(recorded, labels, learnable, x, context, key, step, known)


def cross_entropy(seen: Seen) -> jax.Array:
    """Cross entropy of each row, or word; logits are "output" [B T], or [B L V]."""
    logits = seen.output.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(seen.labels, 0)
    )


def likelihood(seen: Seen) -> jax.Array:
    """-output[label] of each row; "output" are log-probabilities [B T].

    Unlike `cross_entropy`, it does not normalise over the task's classes.
    """
    return -picked(seen.output, seen.labels)


def binary_cross_entropy(seen: Seen) -> jax.Array:
    """Of each of several labels a row [B T], with the logits "output" [B T]."""
    logits = seen.output.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(seen.labels, 0))


def squared_error(seen: Seen) -> jax.Array:
    """(output - number)^2 of each number [B R]."""
    return jnp.square(seen.output.astype(jnp.float32) - seen.labels)


def absolute_error(seen: Seen) -> jax.Array:
    """|output - number| of each number [B R]."""
    return jnp.abs(seen.output.astype(jnp.float32) - seen.labels)


def picked(output: jax.Array, labels: jax.Array) -> Float[Array, "B"]:
    """The output [B T] at each row's label; for filler rows, at class 0."""
    right = jnp.maximum(labels, 0)[:, None]
    return jnp.take_along_axis(output.astype(jnp.float32), right, 1)[:, 0]


def with_norm(weight: float, loss: Loss = cross_entropy) -> Loss:
    """A loss + weight * the squared norm of all learnable params."""

    def penalised(seen: Seen) -> jax.Array | Rows:
        norm = optax.tree.norm(seen.learnable, squared=True)
        found = loss(seen)
        if isinstance(found, Rows):
            return found._replace(value=found.value + weight * norm)
        return found + weight * norm

    return penalised


def fitting(task: Outline) -> Loss:
    """The default loss of a task."""
    if task.answers == "none":
        raise ValueError(
            f"{task.name} has no labels, expected a loss that needs none; give loss=..."
        )
    losses = {"labels": binary_cross_entropy, "numbers": squared_error}
    return losses.get(task.answers, cross_entropy)


def summed(found: jax.Array | Rows, labels: Any) -> tuple[jax.Array, jax.Array]:
    """(sum of the real rows' weighted values, sum of their weights).

    Both add up over the parts of a batch and over devices. A single number, or a loss
    without labels, counts as one row.
    """
    value, weight = found if isinstance(found, Rows) else (found, None)
    value = jnp.asarray(value)
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    if value.ndim == 0:
        return value, jnp.ones_like(value)
    weight = jnp.ones_like(value) if weight is None else weight.astype(value.dtype)
    known = real(labels)
    # Negative weights can cancel, so there is no mean: NaN, which every run refuses.
    weight = jnp.where(weight < 0, jnp.nan, weight)
    # Weights are data: a loss may compute them, but is not minimised through them.
    weight = jax.lax.stop_gradient(jnp.where(known, weight, 0))
    # Mask the value, too: zero times a value that is not finite would be NaN.
    return (jnp.where(known, value, 0) * weight).sum(), weight.sum()


def divided(total: jax.Array, weight: jax.Array) -> jax.Array:
    """A sum over its weight, in the sum's dtype; the sum itself if the weight is 0."""
    return (total / jnp.where(weight == 0, 1, weight)).astype(total.dtype)


def mean_loss(found: jax.Array | Rows, labels: Any) -> jax.Array:
    """The weighted mean over the real rows; zero if there are none."""
    return divided(*summed(found, labels))


def focal(power: float = 2.0, weights: tuple[float, ...] | None = None) -> Loss:
    """-w (1 - h)^power log h of each row (arXiv 2007.08714).

    h is the probability of the right class, exp(output). As in the paper, h are means
    of source probabilities and are not normalised over the targets. The power of 2 is
    the paper's. Its code uses 4 and two sigmoid-like terms weighted .8 and .2, which
    fits two classes only.

    Args:
        weights: w of each target class, by default 1; see `balance`.
    """

    def loss(seen: Seen) -> jax.Array:
        log = picked(seen.output, seen.labels)
        each = -((1 - jnp.exp(log)) ** power) * log
        # A factor: the weights of `Rows` would be divided out by their sum.
        right = jnp.maximum(seen.labels, 0)
        w = 1.0 if weights is None else jnp.asarray(weights)[right]
        return w * each

    return loss


def balance(labels: Int[np.ndarray, "N"], targets: int) -> tuple[float, ...]:
    """N / (T n_t) for the n_t labels of each class; 0 for a class without labels.

    This is the paper's 1 / n_t (arXiv 2007.08714), scaled to 1 for balanced classes."""
    found = np.bincount(labels, minlength=targets)
    weights = len(labels) / (targets * np.maximum(found, 1)) * (found > 0)
    return tuple(weights.tolist())


def hinge(margin: float = 2.0) -> Loss:
    """sum_c max(0, margin + y_c - y_right) over the wrong classes c, for each row
    (arXiv 2201.03514)."""

    def loss(seen: Seen) -> jax.Array:
        y = seen.output.astype(jnp.float32)
        right = jnp.maximum(seen.labels, 0)[:, None]
        above = margin + y - jnp.take_along_axis(y, right, 1)
        wrong = jnp.arange(y.shape[1]) != right
        return (jnp.maximum(above, 0) * wrong).sum(1)

    return loss
