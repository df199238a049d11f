"""(IA)^3 (Liu et al., arXiv 2205.05638), learned on several labels at once."""

import jax.numpy as jnp
import optax

from reprojax import Manipulation, Params, reprogram
from reprojax.alignments import linear
from reprojax.models import role
from reprojax.recipes import Method, Preset
from reprojax.training.losses import binary_cross_entropy


def scaled():
    """A value [... D] times a vector that begins at ones."""
    init = lambda key, value, scope: Params(jnp.ones(value.shape[-1]))
    return Manipulation(init, lambda params, value, scope: params.learnable * value)


def ia3(model, align=None, *, targets=None):
    """Of a model whose card names its inner activations."""
    at = {site: scaled() for site in role(model, "inner")}
    return reprogram(model.forward, at, align or linear(targets, standardised=True))


def adam(rate, steps, epochs):
    return optax.adam(rate)


METHOD = Method(
    "ia3",
    ia3,
    source="arXiv 2205.05638",
    enters="on inner activations",
    preset=Preset(adam, 0.003, epochs=10, batch=128, loss=binary_cross_entropy),
)
