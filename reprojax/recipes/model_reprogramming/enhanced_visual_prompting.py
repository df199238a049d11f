"""EVP: a shrunken image in a border, with normalised gradients (arXiv 2212.10556)."""

import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jaxtyping import Array, Float

from reprojax.alignments import favourites
from reprojax.core import Manipulation, Program, chain, reprogram, stateless
from reprojax.formats import learnable, through
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import border_around, scaled
from reprojax.operators import flip, frame, pad, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import unit_cosine


@needs(Pixels)
def enhanced_visual_prompting(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
    augment: bool = False,
) -> Program:
    """The image, made smaller, in a border of free numbers (arXiv 2212.10556).

    The border enters before normalisation, and starts black. Its numbers may leave
    [0, 1]. Its gradient is divided by its norm, and as in the published code that is
    the norm over the whole canvas. So the prompt has the canvas's shape: the numbers
    behind the image take part in that norm, and have no effect.

    Args:
        inner: side of the image in pixels; by default 164 in 224, a border of 30.
        augment: in training, a mirror, as published; `watermark` says why it is off.
    """
    inner = scaled(164, model) if inner is None else inner
    sides = border_around(inner, model)
    border = frame(*sides)

    def outside(prompt: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        # Zero behind the image, with the gradient of an addition.
        nothing = prompt - jax.lax.stop_gradient(prompt)
        return jnp.where(border((1, *prompt.shape))[0], prompt, nothing)

    pattern = pad(through(learnable(zeros), stateless(outside)), *sides, overlap=True)
    mirror = {"flip": flip()} if augment else {}
    place = chain(resize=resize(inner, "cubic"), **mirror, border=pattern)
    align = aligned(align, targets, favourites)
    return reprogram(model.forward, {"input": place}, align)


METHOD = Method(
    "evp",
    enhanced_visual_prompting,
    preset=Preset(unit_cosine, 70.0, epochs=1000, batch=256),
    alignment="favourites",
    enters="before normalisation",
    source="arXiv 2212.10556. UCSC-VLAA/EVP: the gradient divided by its norm, rate "
    "70, no momentum, a cosine of 1000 epochs, batches of 256. Its mirror is `augment`."
    " What differs: that code chooses the source classes on images that are neither "
    "padded nor normalised; here on those that the network gets.",
)
register(METHOD)
