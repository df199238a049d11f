"""Conditional context optimisation, CoCoOp: the words in front of the names of classes
are moved by the image (Zhou et al., arXiv 2203.05557).

The model is a pair of towers that holds the names, whose card has a role "text".
"""

import jax
import optax
from jax.nn.initializers import lecun_normal, normal, zeros

from reprojax import Format, Params, informed, reprogram, until
from reprojax.core import passthrough
from reprojax.formats import learnable
from reprojax.operators import insert
from reprojax.recipes import Method, Preset, needs


def conditional(start):
    """A prompt [P D], and one vector a row that is added to each of its words.

    The vector is a net's with one hidden layer, a sixteenth as wide as the context
    [B F], which are features of the images.
    """

    def init(key, shape, scope):
        words, a, b = jax.random.split(key, 3)
        wide, draw = scope.context.shape[-1], lecun_normal()
        hidden = max(wide // 16, 1)
        net = {
            "in": {"kernel": draw(a, (wide, hidden)), "bias": zeros(a, hidden)},
            "out": {
                "kernel": draw(b, (hidden, shape[-1])),
                "bias": zeros(b, shape[-1]),
            },
        }
        return Params({"prompt": start.init(words, shape, scope).learnable, **net})

    def read(params, value, scope):
        linear = lambda name, x: x @ own[name]["kernel"] + own[name]["bias"]
        own = params.learnable
        moved = linear("out", jax.nn.relu(linear("in", scope.context)))
        return own["prompt"] + moved[0]

    return Format(init, read)


def image_by_image(program):
    """Each image alone, as the texts beside it are its own."""

    def apply(params, frozen, x, context=None, *, edit=passthrough, **kw):
        def one(*row):
            row = jax.tree.map(lambda a: a[None], row)
            return program.apply(params, frozen, *row, **kw)[0]

        return edit("output", jax.vmap(one)(edit("input", x), context))

    return program._replace(apply=apply)


@needs(object, "text", "features")
def cocoop(model, align=None, *, length=4, initial=None):
    """Behind a name's first word; `initial` is a format, as of "a photo of a"."""
    prompt = conditional(initial or learnable(normal(0.02)))
    at = {model.roles["text"][0]: insert(prompt, length, at=1)}
    look = until(model.forward, model.roles["features"][0])
    return informed(image_by_image(reprogram(model.forward, at, align)), look)


METHOD = Method(
    "cocoop",
    cocoop,
    source="arXiv 2203.05557, KaiyangZhou/CoOp",
    enters="in front of the names of classes",
    preset=Preset(lambda rate, steps, epochs: optax.sgd(rate, 0.9), 0.002, 10, 1),
)
