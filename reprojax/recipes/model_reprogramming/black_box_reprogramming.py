"""Black-box adversarial reprogramming, BAR (Tsai et al., arXiv 2007.08714)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.alignments import count, one_to_one_map
from reprojax.core import Key, Manipulation, Params, Program, PyTree, Scope
from reprojax.losses import Loss
from reprojax.models import Backbone
from reprojax.recipes.method import Method, Preset, adam_decayed
from reprojax.recipes.model_reprogramming.adversarial_reprogramming import (
    adversarial_reprogramming,
)
from reprojax.searches import Search, sphere, zeroth_order


def black_box_reprogramming(
    backbone: Backbone,
    targets: int,
    align: Manipulation | None = None,
    *,
    inner: int | None = None,
) -> Program:
    """The image in a learned frame, several classes a target (arXiv 2007.08714).

    The frame is that of adversarial reprogramming, the answer log probabilities.

    Args:
        inner: side of the image in pixels; by default 28 in 224.
    """
    align = mean_probability(targets) if align is None else align
    return adversarial_reprogramming(backbone, targets, align, inner=inner)


def mean_probability(targets: int, several: int = 6) -> Manipulation:
    """log of the mean probability of each target's source classes (arXiv 2007.08714).

    They are found by frequency, `several` a target or as many as there are.
    """

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        if y.shape[-1] < targets:
            raise ValueError(
                f"mean_probability maps {targets} target classes, and the model has "
                f"{y.shape[-1]}; expected at least as many; take bayesian(...)"
            )
        return Params(fixed=jnp.eye(y.shape[-1], targets))

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        mean = jax.nn.softmax(y) @ params.fixed.astype(y.dtype)
        return jnp.log(jnp.maximum(mean, 1e-30))

    def observe(params: Params, y: Array, labels: Array) -> Array:
        return count(y, labels, targets)

    def refresh(params: Params, sums: Array) -> Params:
        most = min(several, len(sums) // targets)
        return params._replace(fixed=one_to_one_map(sums, most))

    return Manipulation(init, apply, observe, refresh)


def focal(power: float = 2.0) -> Loss:
    """-(1 - h)^power log h of each row (arXiv 2007.08714).

    h is the probability of the right class, exp(output). The published h are means of
    source probabilities and do not sum to one over the targets; they are not made to.
    """

    def loss(
        seen: Mapping[str, Any], labels: jax.Array, learnable: PyTree
    ) -> jax.Array:
        right = jnp.maximum(labels, 0)[:, None]
        log = jnp.take_along_axis(seen["output"].astype(jnp.float32), right, 1)[:, 0]
        return -((1 - jnp.exp(log)) ** power) * log

    return loss


def one_sided(learning_rate: float = 0.05, steps: int = 100) -> Search:
    """BAR's estimator over 25 directions on the sphere, with Adam (arXiv 2007.08714).

    b is the number of learnable numbers, which makes the mean the gradient. (The
    published code estimates so, and then descends along the true gradient.)

    Args:
        steps: an epoch's; after every two epochs the rate is multiplied by .96.
    """
    optimizer = adam_decayed(learning_rate, steps, 1)
    return zeroth_order(optimizer, sphere(), count=25, radius=0.1, sides=1)


METHOD = Method(
    black_box_reprogramming,
    Preset(adam_decayed, 0.05, epochs=300, batch=50, loss=focal()),
    alignment="bar",
    enters="before normalisation",
)
