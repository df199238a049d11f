"""What a published method is besides its program: the settings of its own training."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Manipulation, Program
from reprojax.core.estimation import Refresh
from reprojax.searches import Search
from reprojax.training.losses import Loss, cross_entropy


class Preset(NamedTuple):
    """The paper's own training settings, as far as they could be read."""

    optimizer: Callable[[float, int, int], optax.GradientTransformation]
    """(learning rate, steps an epoch, epochs) -> optimiser with its schedule."""
    learning_rate: float
    epochs: int
    batch: int
    loss: Loss = cross_entropy


class BlackBox(NamedTuple):
    """The paper's own search, where the model only answers and a budget ends it."""

    search: Callable[[float, int], Search]
    """(learning rate, steps an epoch) -> search"""
    learning_rate: float
    batch: int
    loss: Callable[[np.ndarray, int], Loss]
    """(training labels, number of target classes) -> loss"""


class Method(NamedTuple):
    """A recipe with its preset, under the name that the command line uses."""

    build: Callable[..., Program]
    """(backbone, targets, align=None, **sizes) -> program"""
    preset: Preset | BlackBox
    alignment: str | None
    """The paper's own alignment; None: the recipe brings one that cannot be changed."""
    enters: str
    """Where the prompt enters: "before normalisation", "after normalisation", ..."""
    source: str
    """Where the preset is from, and what differs from it."""
    probable: bool = False
    """Whether its loss is of log probabilities, which not every alignment gives."""


class Alignment(NamedTuple):
    """An alignment, and when its map is estimated."""

    build: Callable[[int], Manipulation]
    """number of target classes -> manipulation of "output" """
    refresh: Refresh
    probable: bool = True
    """Of log probabilities it makes log probabilities, or weighted means of them."""


def adam_in_steps(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam, its rate times .1 after 50 % and again after 72 % of the epochs.

    The schedule of iterative label mapping (arXiv 2211.11635).
    """
    at = {int(0.5 * epochs) * steps: 0.1, int(0.72 * epochs) * steps: 0.1}
    return optax.adam(optax.piecewise_constant_schedule(learning_rate, at))


def adam_decayed(b1: float = 0.9) -> Callable[..., optax.GradientTransformation]:
    """Adam, its rate times .96 every two epochs.

    The schedule of adversarial reprogramming (arXiv 1806.11146).
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        rate = optax.exponential_decay(learning_rate, 2 * steps, 0.96, staircase=True)
        return optax.adam(rate, b1=b1)

    return optimizer


def sgd_cosine(
    warmup: int | float, clip: float | None = None
) -> Callable[..., optax.GradientTransformation]:
    """SGD, momentum .9, a warm-up and a cosine to zero.

    The schedule of visual prompting (arXiv 2203.17274), of VPT (arXiv 2203.12119) with
    another warm-up and a clip. Step k of a warm-up of n has (k + 1) / n of the rate.

    Args:
        warmup: its steps, but a tenth of the run at most (1000, as published, would be
            all of a short run, which never came to its rate); or, below 1, its share.
        clip: the largest norm of a gradient.
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        total = steps * epochs
        warm = int(total * warmup) if warmup < 1 else min(warmup, total // 10)

        def schedule(step: Any) -> Any:
            part = (step - warm) / max(total - warm, 1)
            down = (1 + jnp.cos(jnp.pi * part)) / 2
            up = (step + 1) / max(warm, 1)
            return learning_rate * jnp.where(step < warm, up, down)

        sgd = optax.sgd(schedule, momentum=0.9)
        return optax.chain(optax.clip_by_global_norm(clip), sgd) if clip else sgd

    return optimizer
