"""AutoVP's resize and frame (Tsao et al., arXiv 2310.08381)."""

import jax
import jax.numpy as jnp
import optax

from reprojax import Manipulation, Params, chain, reprogram
from reprojax.alignments import linear
from reprojax.models import Pixels
from reprojax.operators import resize
from reprojax.recipes import Method, Preset, needs


def scaled_in_frame(size):
    """Images [B h w C] scaled about the middle of a canvas, the rest of it a prompt.

    The scale is learned, from 1 and within .1 and 5; the prompt's numbers are sigmoids.
    """

    def init(key, image, scope):
        prompt = jnp.zeros((size, size, image.shape[-1]))
        return Params({"prompt": prompt, "scale": jnp.ones(())})

    def apply(params, image, scope):
        scale, side = jnp.clip(params.learnable["scale"], 0.1, 5), image.shape[1]
        ahead = -(-(size - side) // 2)
        room = ((0, 0), (ahead, size - side - ahead), (ahead, size - side - ahead))
        canvas, middle = jnp.pad(image, (*room, (0, 0))), size / 2 * (1 - scale)
        move = canvas.shape, (1, 2), jnp.stack([scale] * 2), jnp.stack([middle] * 2)
        seen = jax.image.scale_and_translate(canvas, *move, "linear", antialias=False)
        covered, i = jnp.minimum(side * scale // 1, size), jnp.arange(size)
        inside = (i >= (size - covered) // 2) & (i < (size + covered) // 2)
        outside = ~(inside[:, None] & inside)[..., None]
        return seen + outside * jax.nn.sigmoid(params.learnable["prompt"])

    return Manipulation(init, apply)


@needs(Pixels)
def autovp(model, align=None, *, targets=None, side=128):
    """Images of so many pixels on the model's canvas; a learned map of its answers."""
    place = chain(resize=resize(side), frame=scaled_in_frame(model.input.size))
    return reprogram(model.forward, {"input": place}, align or linear(targets))


def adam(rate, steps, epochs):
    at = {int(share * epochs) * steps: 0.1 for share in (0.5, 0.72)}
    return optax.adam(optax.piecewise_constant_schedule(rate, at))


METHOD = Method(
    "autovp",
    autovp,
    source="arXiv 2310.08381, IBM/AutoVP",
    enters="before normalisation",
    preset=Preset(adam, 0.001, epochs=200, batch=64),
)
