"""Losses: plain functions of what a program's call recorded."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from reprojax.core import PyTree

Loss = Callable[[Mapping[str, Any], jax.Array, PyTree], jax.Array]
"""(recorded values, labels [B], learnable) -> a number; a label of -1 is no example."""


def cross_entropy(
    seen: Mapping[str, Any], labels: jax.Array, learnable: PyTree
) -> jax.Array:
    """The mean over a batch's real rows, from the task's logits "output" [B T]."""
    logits = seen["output"].astype(jnp.float32)
    each = optax.softmax_cross_entropy_with_integer_labels(
        logits, jnp.maximum(labels, 0)
    )
    real = labels >= 0
    return (each * real).sum() / jnp.maximum(real.sum(), 1)


def with_norm(weight: float) -> Loss:
    """Cross entropy + weight * the squared norm of all learnable numbers."""

    def loss(
        seen: Mapping[str, Any], labels: jax.Array, learnable: PyTree
    ) -> jax.Array:
        norm = optax.tree.norm(learnable, squared=True)
        return cross_entropy(seen, labels, learnable) + weight * norm

    return loss
