"""A bottleneck adapter (Houlsby et al., arXiv 1902.00751), learned on numbers."""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import normal

from reprojax import Manipulation, Params, reprogram
from reprojax.alignments import linear
from reprojax.models import role
from reprojax.recipes import Method, Preset
from reprojax.training.losses import squared_error


def bottleneck(width):
    """value [... D] + up(gelu(down(value))), which is nearly nothing at first."""

    def init(key, value, scope):
        keys, size, near = jax.random.split(key), value.shape[-1], normal(0.01)
        down = {"kernel": near(keys[0], (size, width)), "bias": jnp.zeros(width)}
        up = {"kernel": near(keys[1], (width, size)), "bias": jnp.zeros(size)}
        return Params({"down": down, "up": up})

    def apply(params, value, scope):
        dense = lambda x, own: x @ own["kernel"] + own["bias"]
        hidden = jax.nn.gelu(dense(value, params.learnable["down"]))
        return value + dense(hidden, params.learnable["up"])

    return Manipulation(init, apply)


def adapter(model, align=None, *, targets=None, width=64):
    """Of a model whose card names its inner activations."""
    at = {site: bottleneck(width) for site in role(model, "inner")}
    return reprogram(model.forward, at, align or linear(targets, standardised=True))


def adam(rate, steps, epochs):
    return optax.adam(rate)


METHOD = Method(
    "adapter",
    adapter,
    source="arXiv 1902.00751",
    enters="on inner activations",
    preset=Preset(adam, 0.003, epochs=60, batch=128, loss=squared_error),
)
