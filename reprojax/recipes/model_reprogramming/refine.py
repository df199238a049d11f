"""REFINE: an image network and displaced classes (Chen et al., arXiv 2502.18508)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.alignments import of_probabilities
from reprojax.alignments.named import displaced
from reprojax.core import Manipulation, Program, chain, reprogram, stateless
from reprojax.core.vectors import unit
from reprojax.models import Model, Pixels
from reprojax.models.vision.unet import UNet
from reprojax.operators import network, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.losses import Loss, Seen
from reprojax.training.optimizers import sgd_in_steps


@needs(Pixels)
def refine(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    width: int = 32,
) -> Program:
    """A learned network makes each image anew, and no class keeps its number (arXiv
    2502.18508).

    A defence against backdoors: what triggers them does not survive. The U-Net's images
    are clipped to [0, 1] and enter before normalisation. The answers are
    log-probabilities over all the model's classes.

    Args:
        align: by default the model's first classes in another order, in which none
            stands at its own place.
        width: channels of the network's first layer; 32 have 4,320,675 numbers. The
            published code has 32 for images of 224 and 64 for those of 32 pixels.
    """
    clipped = stateless(lambda x: jnp.clip(x, 0, 1))
    size = model.input.size
    place = chain(resize=resize(size), network=network(UNet(width)), clip=clipped)
    align = of_probabilities(aligned(align, targets, displaced))
    return reprogram(model.forward, {"input": place}, align)


def apart_and_right(weight: float = 0.1, temperature: float = 0.07) -> Loss:
    """Binary cross entropy of each class's probability, the mean over the classes, plus
    `weight` times a supervised contrast of the network's images (REFINE, arXiv
    2502.18508; the contrast is that of arXiv 2004.11362).

    It reads the site "input".
    """

    def loss(seen: Seen) -> Float[Array, "B"]:
        log = jnp.asarray(seen.output, jnp.float32)
        right = jax.nn.one_hot(seen.labels, log.shape[-1])
        # Logarithms are bounded, as PyTorch has it at -100; 1 - p at 2^-23, as p = 1
        # has no finite slope.
        wrong = jnp.log1p(-jnp.minimum(jnp.exp(log), 1 - 2.0**-23))
        both = right * jnp.maximum(log, -100) + (1 - right) * wrong
        pulled = _contrast(seen.recorded["input"], seen.labels, temperature)
        return -both.mean(-1) + weight * pulled

    return loss


def _contrast(
    images: Float[Array, "B H W C"], labels: Int[Array, "B"], temperature: float
) -> Float[Array, "B"]:
    """Each image twice, as two equal views: minus the mean log share of its own class
    in the exponentials of cosines / temperature, without itself."""
    rows = unit(images.reshape(len(images), -1).astype(jnp.float32))
    near = rows @ rows.T / temperature
    real, own = labels >= 0, jnp.diagonal(near)
    same = (labels[:, None] == labels) & real
    top = jnp.where(real, near, -jnp.inf).max(1)
    # 2 sum_j e^(near_ij) - e^(near_ii): both views of all, less the anchor itself
    twice = jnp.where(real, 2.0, 0.0) - jnp.eye(len(rows))
    total = (twice * jnp.exp(near - top[:, None])).sum(1)
    positive = (2 * jnp.where(same, near, 0).sum(1) - own) / (2 * same.sum(1) - 1)
    found = top + jnp.log(jnp.maximum(total, 1e-30)) - positive
    return jnp.where(real, found, 0)


METHOD = Method(
    "refine",
    refine,
    preset=Preset(
        sgd_in_steps, 0.01, 150, 256, loss=apart_and_right(), sites=("input",)
    ),
    alignment="displaced",
    enters="before normalisation",
    probable=True,
    source="arXiv 2502.18508. WhitolfChen/REFINE: SGD at .01, momentum .9, decay 5e-4, "
    "times .8 at epochs 100 and 130 of 150, batches of 256, .1 of a contrast at "
    "temperature .07. What differs: the labels are the task's; there they are the "
    "model's own answers to the plain images, which need no labels: give those as y.",
)
register(METHOD)
