"""Losses: plain functions of what a program's call recorded, a value for each row."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from reprojax.core import PyTree


class Rows(NamedTuple):
    """A loss whose rows do not weigh the same, such as one with class weights."""

    value: jax.Array
    """[B], or [B L] where words are the labels."""
    weight: jax.Array
    """Of the same shape, from 0; no gradient passes through it."""


Loss = Callable[[Mapping[str, Any], jax.Array, PyTree], "jax.Array | Rows"]
"""(recorded values, labels [B] or [B L], learnable) -> a value for each label.

A label of -1 is no example. The loop leaves its value out, whatever it is, and divides
once: sum(value * weight) / sum(weight) over the real rows, of all parts and devices. A
single number is allowed where no label can be -1 and no batch is cut into parts.
"""


def cross_entropy(
    seen: Mapping[str, Any], labels: jax.Array, learnable: PyTree
) -> jax.Array:
    """Of each row, or word, from the task's logits "output" [B T], or [B L V]."""
    logits = seen["output"].astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(labels, 0)
    )


def likelihood(
    seen: Mapping[str, Any], labels: jax.Array, learnable: PyTree
) -> jax.Array:
    """-output[label] of each row, from the task's log probabilities "output" [B T].

    Unlike `cross_entropy` it does not make them sum to one over the task's classes.
    """
    return -picked(seen["output"], labels)


def picked(output: jax.Array, labels: jax.Array) -> Float[Array, "B"]:
    """The output [B T] of each row's label; of a row that only fills, of class 0."""
    right = jnp.maximum(labels, 0)[:, None]
    return jnp.take_along_axis(output.astype(jnp.float32), right, 1)[:, 0]


def with_norm(weight: float, loss: Loss = cross_entropy) -> Loss:
    """A loss + weight * the squared norm of all learnable numbers."""

    def penalised(
        seen: Mapping[str, Any], labels: jax.Array, learnable: PyTree
    ) -> jax.Array | Rows:
        norm = optax.tree.norm(learnable, squared=True)
        found = loss(seen, labels, learnable)
        if isinstance(found, Rows):
            return found._replace(value=found.value + weight * norm)
        return found + weight * norm

    return penalised


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
    real = labels >= 0
    # A negative weight has no mean: NaN, which every run refuses.
    weight = jnp.where(weight < 0, jnp.nan, weight)
    weight = jax.lax.stop_gradient(jnp.where(real, weight, 0))
    # The value too: zero times what is not finite would be NaN.
    return (jnp.where(real, value, 0) * weight).sum(), weight.sum()


def divided(total: jax.Array, weight: jax.Array) -> jax.Array:
    """A sum over its weight, in the sum's own type; the sum where nothing weighs."""
    return (total / jnp.where(weight == 0, 1, weight)).astype(total.dtype)


def mean_loss(found: jax.Array | Rows, labels: Any) -> jax.Array:
    """The weighted mean over the real rows; zero where there are none."""
    return divided(*summed(found, labels))
