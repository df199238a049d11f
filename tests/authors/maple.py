"""Multi-modal prompts, MaPLe: those of the image tower are made of the text tower's.

Khattak et al., arXiv 2210.03117. The model is a pair of towers, whose card has roles
"text" and "image": the sites in front of the first layers of each.
"""

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import normal

from reprojax import Manipulation, Params, reprogram
from reprojax.recipes import Method, Preset, needs


def coupled(length, depth):
    """Prompts [J P D] of so many text layers, and of as many image layers by a linear
    map of each. They stand behind a text's first word, and behind an image's patches.

    Deeper ones stand in the place of what the layer before made of the last ones.
    """

    def init(key, specs, scope):
        text, image = (list(specs.values())[i].shape[-1] for i in (0, -1))
        prompts, *keys = jax.random.split(key, 3)
        even = lambda key, *shape: jax.random.uniform(key, shape, minval=-1) / text**0.5
        shapes = {"kernel": (depth, text, image), "bias": (depth, image)}
        linear = {
            n: even(k, *s) for k, (n, s) in zip(keys, shapes.items(), strict=True)
        }
        return Params({"text": normal(0.02)(prompts, (depth, length, text)), **linear})

    def apply(params, value, scope):
        own, layer = params.learnable, scope.index % depth
        prompt, is_text = own["text"][layer], scope.index < depth
        if not is_text:
            prompt = prompt @ own["kernel"][layer] + own["bias"][layer]
        old = 0 if layer == 0 else length
        at = 1 if is_text else value.shape[1] - old
        rows = jnp.broadcast_to(prompt, (len(value), *prompt.shape))
        return jnp.concatenate([value[:, :at], rows, value[:, at + old :]], 1)

    return Manipulation(init, apply)


@needs(object, "text", "image")
def maple(model, align=None, *, length=2, depth=9):
    """So many prompts in each of the first layers of both towers."""
    sites = (*model.roles["text"][:depth], *model.roles["image"][:depth])
    return reprogram(model.forward, {sites: coupled(length, depth)}, align)


def sgd(rate, steps, epochs):
    """A cosine, behind an epoch at a constant low rate."""
    down = optax.cosine_decay_schedule(rate, steps * max(epochs - 1, 1))
    rate = optax.join_schedules([optax.constant_schedule(1e-5), down], [steps])
    return optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(rate, 0.9))


METHOD = Method(
    "maple",
    maple,
    source="arXiv 2210.03117, muzairkhattak/multimodal-prompt-learning",
    enters="in the first layers of both towers",
    preset=Preset(sgd, 0.0035, epochs=5, batch=4),
)
