"""Pixels to attributes to classes: AttrVR (Cai et al., arXiv 2501.13982)."""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import zeros

from reprojax import Manipulation, Params, chain, reprogram, stateless, until
from reprojax.formats import learnable, through
from reprojax.models import Pixels
from reprojax.operators import pad, resize
from reprojax.recipes import Method, Preset, needs


def by_attributes(nearest=3, share=0.5, scale=100.0):
    """Features [B D] -> classes [B T], by cosines with the attributes of each class.

    The context holds their texts' features, "descriptive" and "distinctive" [T m D].
    """
    unit = lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True)

    def near(y, attributes):
        every = jnp.einsum("bd,tmd->btm", unit(y), unit(attributes))
        return jax.lax.top_k(every, nearest)[0].mean(-1)

    def apply(params, y, scope):
        one, other = scope.context["descriptive"], scope.context["distinctive"]
        return scale * (share * near(y, one) + (1 - share) * near(y, other))

    return Manipulation(lambda key, y, scope: Params(), apply)


@needs(Pixels, "features")
def attrvr(model, align=None, *, targets=None, frame=16, nearest=3):
    """The image inside a sigmoid border; the class of the nearest attributes."""
    border = pad(through(learnable(zeros), stateless(jax.nn.sigmoid)), frame)
    place = chain(resize=resize(model.input.size - 2 * frame), border=border)
    features = until(model.forward, model.roles["features"][0])
    return reprogram(features, {"input": place}, align or by_attributes(nearest))


def sgd(rate, steps, epochs):
    return optax.sgd(optax.cosine_decay_schedule(rate, steps * epochs), momentum=0.9)


METHOD = Method(
    "attrvr",
    attrvr,
    source="arXiv 2501.13982",
    enters="before normalisation",
    preset=Preset(sgd, 40.0, epochs=200, batch=64),
)
