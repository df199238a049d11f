"""Losses: plain functions of what is seen of a batch, a value for each row."""

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
from reprojax.data.task import Outline


class Seen(NamedTuple):
    """What a loss sees of a batch. What it does not read costs nothing."""

    recorded: Mapping[str, Any]
    """{site: value}: "output", and what `record_sites` names."""
    labels: jax.Array
    """As the task's answers are: [B], [B T], [B R] or [B L]. Where one is no example
    it is -1, and 0 in the place of a number."""
    learnable: PyTree = ()
    x: PyTree = None
    """The batch, as the program is given it."""
    context: PyTree = None
    key: Key | None = None
    """Of this step, and the loss's own; None where nothing may be random."""
    step: jax.Array | int = 0
    """Steps that came before, through all epochs."""
    real: jax.Array | None = None
    """Of the labels' shape: which are examples. None in one that was made by hand."""

    @property
    def output(self) -> Any:
        """The program's answer."""
        return self.recorded["output"]


class Rows(NamedTuple):
    """A loss whose rows do not weigh the same, such as one with class weights."""

    value: jax.Array
    """[B], or [B L] where words are the labels."""
    weight: jax.Array
    """Of the same shape, from 0; no gradient passes through it."""


@runtime_checkable
class Loss(Protocol):
    """What is seen of a batch -> a value for each label.

    A label of -1, or NaN, is no example. The loop leaves its value out, whatever it is,
    and divides once: sum(value * weight) / sum(weight) over the real rows, of all parts
    and devices. A single number is allowed where no label can be -1 and no batch is cut
    into parts.
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
    """What a loss gives for a batch; `key` is the call's, and the loss gets its own."""
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
    """What is seen of a batch, as its labels come from the task."""
    known = real(labels) if hasattr(labels, "dtype") else None  # the contract's laws
    if known is not None and jnp.issubdtype(labels.dtype, jnp.floating):
        # Not NaN, which would be in the gradient of a value that is left out.
        labels = jnp.where(known, labels, 0)
    return Seen(recorded, labels, learnable, x, context, key, step, known)


def cross_entropy(seen: Seen) -> jax.Array:
    """Of each row, or word, from the task's logits "output" [B T], or [B L V]."""
    logits = seen.output.astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(seen.labels, 0)
    )


def likelihood(seen: Seen) -> jax.Array:
    """-output[label] of each row, from the task's log probabilities "output" [B T].

    Unlike `cross_entropy` it does not make them sum to one over the task's classes.
    """
    return -picked(seen.output, seen.labels)


def binary_cross_entropy(seen: Seen) -> jax.Array:
    """Of each of several labels at once [B T], from their logits "output" [B T]."""
    logits = seen.output.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, jnp.maximum(seen.labels, 0))


def squared_error(seen: Seen) -> jax.Array:
    """(output - number)^2 of each number [B R]."""
    return jnp.square(seen.output.astype(jnp.float32) - seen.labels)


def absolute_error(seen: Seen) -> jax.Array:
    """|output - number| of each number [B R]."""
    return jnp.abs(seen.output.astype(jnp.float32) - seen.labels)


def picked(output: jax.Array, labels: jax.Array) -> Float[Array, "B"]:
    """The output [B T] of each row's label; of a row that only fills, of class 0."""
    right = jnp.maximum(labels, 0)[:, None]
    return jnp.take_along_axis(output.astype(jnp.float32), right, 1)[:, 0]


def with_norm(weight: float, loss: Loss = cross_entropy) -> Loss:
    """A loss + weight * the squared norm of all learnable numbers."""

    def penalised(seen: Seen) -> jax.Array | Rows:
        norm = optax.tree.norm(seen.learnable, squared=True)
        found = loss(seen)
        if isinstance(found, Rows):
            return found._replace(value=found.value + weight * norm)
        return found + weight * norm

    return penalised


def fitting(task: Outline) -> Loss:
    """The loss of a task whose user names none."""
    if task.answers == "none":
        raise ValueError(
            f"{task.name} has no labels, expected a loss that needs none; give loss=..."
        )
    losses = {"labels": binary_cross_entropy, "numbers": squared_error}
    return losses.get(task.answers, cross_entropy)


def summed(found: jax.Array | Rows, labels: Any) -> tuple[jax.Array, jax.Array]:
    """(sum of the real rows' weighted values, sum of their weights).

    Both add up over the parts of a batch and over devices. A single number, and a loss
    without labels, count as one row.
    """
    value, weight = found if isinstance(found, Rows) else (found, None)
    value = jnp.asarray(value)
    value = value.astype(jnp.promote_types(value.dtype, jnp.float32))
    if value.ndim == 0:
        return value, jnp.ones_like(value)
    weight = jnp.ones_like(value) if weight is None else weight.astype(value.dtype)
    known = real(labels)
    # A negative weight has no mean: NaN, which every run refuses.
    weight = jnp.where(weight < 0, jnp.nan, weight)
    weight = jax.lax.stop_gradient(jnp.where(known, weight, 0))
    # The value too: zero times what is not finite would be NaN.
    return (jnp.where(known, value, 0) * weight).sum(), weight.sum()


def divided(total: jax.Array, weight: jax.Array) -> jax.Array:
    """A sum over its weight, in the sum's own type; the sum where nothing weighs."""
    return (total / jnp.where(weight == 0, 1, weight)).astype(total.dtype)


def mean_loss(found: jax.Array | Rows, labels: Any) -> jax.Array:
    """The weighted mean over the real rows; zero where there are none."""
    return divided(*summed(found, labels))


def focal(power: float = 2.0, weights: tuple[float, ...] | None = None) -> Loss:
    """-w (1 - h)^power log h of each row (arXiv 2007.08714).

    h is the probability of the right class, exp(output). The published h are means of
    source probabilities and do not sum to one over the targets; they are not made to.
    The power of 2 is the paper's; its code has 4, and two sigmoid-like terms weighed .8
    and .2, which fits two classes alone.

    Args:
        weights: w of each target class; see `balance`. By default 1.
    """

    def loss(seen: Seen) -> jax.Array:
        log = picked(seen.output, seen.labels)
        each = -((1 - jnp.exp(log)) ** power) * log
        # A factor, not the weight of `Rows`, whose sum would divide it away.
        right = jnp.maximum(seen.labels, 0)
        w = 1.0 if weights is None else jnp.asarray(weights)[right]
        return w * each

    return loss


def balance(labels: Int[np.ndarray, "N"], targets: int) -> tuple[float, ...]:
    """N / (T n_t) for the n_t labels of each class: 1 / n_t, the paper's (arXiv
    2007.08714), in a scale that is 1 where all classes are as frequent. A class without
    labels has 0."""
    found = np.bincount(labels, minlength=targets)
    weights = len(labels) / (targets * np.maximum(found, 1)) * (found > 0)
    return tuple(weights.tolist())


def hinge(margin: float = 2.0) -> Loss:
    """sum_c max(0, margin + y_c - y_right) of each row, c the wrong classes
    (arXiv 2201.03514)."""

    def loss(seen: Seen) -> jax.Array:
        y = seen.output.astype(jnp.float32)
        right = jnp.maximum(seen.labels, 0)[:, None]
        above = margin + y - jnp.take_along_axis(y, right, 1)
        wrong = jnp.arange(y.shape[1]) != right
        return (jnp.maximum(above, 0) * wrong).sum(1)

    return loss
