"""Averages of params over epochs, kept in the optimiser's state.

The optimiser is `averaged(sgd_by_epochs, gaussian_epochs(.75, .05))(rate, steps,
epochs)`, and `fit(..., evaluated=mean_of_epochs)` tests and keeps the averages.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import PyTree

Optimizer = Callable[[float, int, int], optax.GradientTransformation]


class Averaged(NamedTuple):
    """An optimiser's state, and the weighted sum of the params after past epochs."""

    inner: optax.OptState
    step: jax.Array
    weight: jax.Array
    total: PyTree


def averaged(
    optimizer: Optimizer, weigh: Callable[[int], Sequence[float] | np.ndarray]
) -> Optimizer:
    """The optimiser, which also adds up the params after each epoch.

    Args:
        weigh: epochs -> a weight for each.
    """

    def make(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        inner = optimizer(learning_rate, steps, epochs)
        weights = np.asarray(weigh(epochs), np.float32)

        def init(params: PyTree) -> Averaged:
            zeros = jax.tree.map(jnp.zeros_like, params)
            start = jnp.zeros((), jnp.int32), jnp.zeros(())
            return Averaged(inner.init(params), *start, zeros)

        def update(
            updates: PyTree, state: Any, params: PyTree = None
        ) -> tuple[PyTree, Any]:
            moved, own = inner.update(updates, state.inner, params)
            epoch = jnp.minimum(state.step // steps, epochs - 1)
            ends = (state.step + 1) % steps == 0
            weight = jnp.where(ends, jnp.asarray(weights)[epoch], 0)
            after = optax.apply_updates(params, moved)
            add = lambda total, a: (total + weight * a).astype(total.dtype)
            total = jax.tree.map(add, state.total, after)
            return moved, Averaged(own, state.step + 1, state.weight + weight, total)

        return optax.GradientTransformation(init, update)

    return make


def mean_of_epochs(state: Any, learnable: PyTree) -> PyTree:
    """The average of the params after the epochs so far; before the first, those
    given. For `fit(evaluated=...)`, of the state of an optimiser that is `averaged`."""
    some = state.weight > 0
    weight = jnp.where(some, state.weight, 1)
    mean = lambda total, a: jnp.where(some, (total / weight).astype(a.dtype), a)
    return jax.tree.map(mean, state.total, learnable)


def gaussian_epochs(mean: float, deviation: float) -> Callable[[int], np.ndarray]:
    """Weights of epochs 1 to N: a Gaussian, whose mean and deviation are shares of N
    (PromptSRC, arXiv 2307.06948). They sum to one."""

    def weigh(epochs: int) -> np.ndarray:
        apart = (np.arange(1, epochs + 1) - mean * epochs) / (deviation * epochs)
        # Relative to the nearest epoch, so that a short run has weights above zero.
        weights = np.exp(((apart**2).min() - apart**2) / 2)
        return weights / weights.sum()

    return weigh
