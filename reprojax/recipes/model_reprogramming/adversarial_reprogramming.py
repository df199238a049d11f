"""Adversarial reprogramming (Elsayed et al., arXiv 1806.11146)."""

import jax.numpy as jnp
from jax.nn.initializers import normal

from reprojax.alignments import columns
from reprojax.core import Manipulation, Program, chain, reprogram, stateless
from reprojax.formats import learnable, through
from reprojax.losses import with_norm
from reprojax.models import Backbone
from reprojax.operators import padding, resize
from reprojax.recipes.method import Method, Preset, adam_decayed
from reprojax.recipes.sizes import border, scaled


def adversarial_reprogramming(
    backbone: Backbone,
    targets: int,
    align: Manipulation | None = None,
    *,
    inner: int | None = None,
) -> Program:
    """The image in a learned frame, the first classes as answers (arXiv 1806.11146).

    X = image + tanh(W) around it, in the paper's units: its networks take [-1, 1]. Here
    it enters before normalisation, in [0, 1], as (1 + tanh(W)) / 2: W = 0 is grey.

    Args:
        inner: side of the image in pixels; by default 28 in 224, MNIST's own size.
    """
    inner = scaled(28, backbone) if inner is None else inner
    frame = through(learnable(normal()), stateless(lambda w: (1 + jnp.tanh(w)) / 2))
    place = chain(
        resize=resize(inner), program=padding(frame, *border(inner, backbone))
    )
    align = columns(range(targets)) if align is None else align
    return reprogram(backbone.forward, {"input": place, "output": align})


# The weight of |W|^2 depends on how a program sums it; 5e-7 on the plain sum is that of
# a public re-implementation (Prinsphield/Adversarial_Reprogramming), which also shows
# the rate .05 and its decay.
METHOD = Method(
    adversarial_reprogramming,
    Preset(adam_decayed, 0.05, epochs=300, batch=50, loss=with_norm(5e-7)),
    alignment="first",
    enters="before normalisation",
)
