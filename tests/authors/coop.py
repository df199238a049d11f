"""Context optimisation, CoOp: learned words in front of the names of classes.

Zhou et al., arXiv 2109.01134. The model is a pair of towers that holds the names, whose
card has a role "text": the sites of their vectors, and of the layers behind.
"""

import optax
from jax.nn.initializers import normal

from reprojax import Format, Params, reprogram
from reprojax.formats import learnable
from reprojax.operators import insert
from reprojax.recipes import Method, Preset, needs


def of_each(targets):
    """A prompt of its own for each class: [T P D]."""

    def init(key, shape, scope):
        return Params(normal(0.02)(key, (targets, *shape)))

    return Format(init, lambda params, value, scope: params.learnable)


@needs(object, "text")
def coop(model, align=None, *, targets, length=16, each=False):
    """Behind a name's first word, which begins any text; the name stands at the end.

    Args:
        each: a context of its own for each class, or one for all of them.
    """
    prompt = of_each(targets) if each else learnable(normal(0.02))
    site = model.roles["text"][0]
    return reprogram(model.forward, {site: insert(prompt, length, at=1)}, align)


def sgd(rate, steps, epochs):
    """A cosine, behind an epoch at a constant low rate."""
    down = optax.cosine_decay_schedule(rate, steps * max(epochs - 1, 1))
    rate = optax.join_schedules([optax.constant_schedule(1e-5), down], [steps])
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9))


METHOD = Method(
    "coop",
    coop,
    source="arXiv 2109.01134, KaiyangZhou/CoOp: 16 shots; no random crops here",
    enters="in front of the names of classes",
    preset=Preset(sgd, 0.002, epochs=200, batch=32),
)
