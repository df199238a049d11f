"""Black-box adversarial reprogramming, BAR (Tsai et al., arXiv 2007.08714)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from reprojax.alignments import mean_probability
from reprojax.core import Manipulation, Program
from reprojax.models import Model, Pixels
from reprojax.recipes.method import BlackBox, Method, adam_decayed, aligned, needs
from reprojax.recipes.model_reprogramming.adversarial_reprogramming import (
    adversarial_reprogramming,
)
from reprojax.searches import Search, sphere, zeroth_order
from reprojax.training.losses import Loss, Seen, picked


@needs(Pixels, access="answers")
def black_box_reprogramming(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
) -> Program:
    """The image in a learned frame, several classes a target (arXiv 2007.08714).

    The frame is that of adversarial reprogramming, from near grey as in the published
    code (a standard deviation of .0047 there, .01 here); the answer log probabilities.

    Args:
        inner: side of the image in pixels; by default 28 in 224.
    """
    align = aligned(align, targets, mean_probability)
    return adversarial_reprogramming(model, align, inner=inner, deviation=0.01)


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


def _balanced(labels: Int[np.ndarray, "N"], targets: int) -> Loss:
    return focal(weights=balance(labels, targets))


def one_sided(learning_rate: float = 0.05, steps: int = 100) -> Search:
    """BAR's estimator over 25 directions on the sphere, with Adam (arXiv 2007.08714).

    b is the number of learnable numbers, which makes the mean the gradient. (The
    published code estimates so, and then descends along the true gradient.)

    Args:
        steps: an epoch's; after every two epochs the rate is multiplied by .96.
    """
    optimizer = adam_decayed()(learning_rate, steps, 1)
    return zeroth_order(optimizer, sphere(), count=25, radius=0.1, sides=1)


METHOD = Method(
    "bar",
    black_box_reprogramming,
    preset=BlackBox(one_sided, 0.05, batch=10, loss=_balanced),
    alignment="bar",
    enters="before normalisation",
    source="arXiv 2007.08714: the focal loss with weights of 1 / n_t and power 2. "
    "Radius .1, b = d, six classes a target and batches of 10: its code "
    "(yunyuntsai/Black-box-Adversarial-Reprogramming), which takes one direction a "
    "step; here 25. Rate .05 and its decay: adversarial reprogramming's; that code has "
    "Adam at .01, along the true gradient.",
    probable=True,
)
