"""What a published method is besides its program: the settings of its own training."""

from collections.abc import Callable
from typing import NamedTuple

import optax

from reprojax.core import Manipulation, Program
from reprojax.losses import Loss, cross_entropy
from reprojax.statistics import Refresh


class Preset(NamedTuple):
    """The paper's own training settings, as far as they could be read."""

    optimizer: Callable[[float, int, int], optax.GradientTransformation]
    """(learning rate, steps an epoch, epochs) -> optimiser with its schedule."""
    learning_rate: float
    epochs: int
    batch: int
    loss: Loss = cross_entropy


class Method(NamedTuple):
    """A recipe with its preset, under the name that the command line uses."""

    build: Callable[..., Program]
    """(backbone, targets, align=None, **sizes) -> program"""
    preset: Preset
    alignment: str | None
    """The paper's own alignment; None: the recipe brings one that cannot be changed."""
    enters: str
    """Where the prompt enters: "before normalisation", "after normalisation", ..."""


class Alignment(NamedTuple):
    """An alignment, and when its map is estimated."""

    build: Callable[[int], Manipulation]
    """number of target classes -> manipulation of "output" """
    refresh: Refresh


def adam_in_steps(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam, its rate times .1 after 50 % and again after 72 % of the epochs.

    The schedule of iterative label mapping (arXiv 2211.11635).
    """
    at = {int(0.5 * epochs) * steps: 0.1, int(0.72 * epochs) * steps: 0.1}
    return optax.adam(optax.piecewise_constant_schedule(learning_rate, at))


def adam_decayed(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam, its rate times .96 every two epochs.

    The schedule of adversarial reprogramming (arXiv 1806.11146).
    """
    schedule = optax.exponential_decay(learning_rate, 2 * steps, 0.96, staircase=True)
    return optax.adam(schedule)


def sgd_cosine(
    warmup: int, clip: float | None = None
) -> Callable[..., optax.GradientTransformation]:
    """SGD, momentum .9, a cosine to zero behind `warmup` percent of the steps.

    The schedule of visual prompting (arXiv 2203.17274), of VPT (arXiv 2203.12119) with
    another warm-up and a clip.

    Args:
        clip: the largest norm of a gradient.
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        total = steps * epochs
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, total * warmup // 100, total
        )
        sgd = optax.sgd(schedule, momentum=0.9)
        return optax.chain(optax.clip_by_global_norm(clip), sgd) if clip else sgd

    return optimizer
