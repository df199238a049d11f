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
    """An optimiser's state, and the weighted mean of the params after past epochs."""

    inner: optax.OptState
    step: jax.Array
    begun: jax.Array
    """Whether an epoch with a weight above zero has ended."""
    mean: PyTree
    """In float32 at least."""


def averaged(
    optimizer: Optimizer, weigh: Callable[[int], Sequence[float] | np.ndarray]
) -> Optimizer:
    """The optimiser, which also keeps a weighted mean of the params after each epoch.

    The mean moves by the epoch's share in the weights so far. A sum would lose the
    epochs whose weights are below float32, of which a Gaussian has many.

    Args:
        weigh: epochs -> a weight for each, at least 0.
    """

    def make(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        inner = optax.with_extra_args_support(optimizer(learning_rate, steps, epochs))
        shares = _shares(weigh(epochs), epochs)

        def init(params: PyTree) -> Averaged:
            wide = lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.float32))
            start = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
            return Averaged(inner.init(params), *start, jax.tree.map(wide, params))

        def update(
            updates: PyTree, state: Any, params: PyTree = None, **extra: Any
        ) -> tuple[PyTree, Any]:
            moved, own = inner.update(updates, state.inner, params, **extra)
            epoch = jnp.minimum(state.step // steps, epochs - 1)
            ends = (state.step + 1) % steps == 0
            share = jnp.where(ends, jnp.asarray(shares)[epoch], 0)
            after = optax.apply_updates(params, moved)
            mean = jax.tree.map(lambda m, a: m + share * (a - m), state.mean, after)
            return moved, Averaged(own, state.step + 1, state.begun | (share > 0), mean)

        return optax.GradientTransformationExtraArgs(init, update)

    return make


def _shares(weights: Sequence[float] | np.ndarray, epochs: int) -> np.ndarray:
    """Each epoch's weight as a share of the weights so far; 0 while these are 0."""
    found = np.asarray(weights, np.float64)
    some = found.shape == (epochs,) and 0 < found.sum() < np.inf
    if not some or (found < 0).any():
        raise ValueError(
            f"got the weights {found.tolist()} for {epochs} epochs, expected a number "
            "for each, none below 0, and one above"
        )
    so_far = np.cumsum(found)
    return (found / np.where(so_far > 0, so_far, 1)).astype(np.float32)


def mean_of_epochs(state: Any, learnable: PyTree) -> PyTree:
    """The average of the params after the epochs so far; before the first, those
    given. For `fit(evaluated=...)`, of the state of an optimiser that is `averaged`."""
    own = lambda mean, a: jnp.where(state.begun, mean.astype(a.dtype), a)
    return jax.tree.map(own, state.mean, learnable)


def gaussian_epochs(mean: float, deviation: float) -> Callable[[int], np.ndarray]:
    """Weights of epochs 1 to N: a Gaussian, whose mean and deviation are shares of N
    (PromptSRC, arXiv 2307.06948). They sum to one."""

    def weigh(epochs: int) -> np.ndarray:
        apart = (np.arange(1, epochs + 1) - mean * epochs) / (deviation * epochs)
        # Relative to the nearest epoch, so that a short run has weights above zero.
        weights = np.exp(((apart**2).min() - apart**2) / 2)
        return weights / weights.sum()

    return weigh
