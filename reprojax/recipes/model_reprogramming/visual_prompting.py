"""Visual prompting (Bahng et al., arXiv 2203.17274)."""

from jax.nn.initializers import normal

from reprojax.alignments.named import first
from reprojax.core import Manipulation, Program, reprogram
from reprojax.formats import border, learnable
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import scaled
from reprojax.operators import add, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels)
def visual_prompting(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    width: int | None = None,
) -> Program:
    """Four learned strips over the edges of the image (arXiv 2203.17274).

    They enter after normalisation.

    Args:
        width: of the strips in pixels; by default 30 in 224, which are 69,840 numbers.
    """
    width = scaled(30, model) if width is None else width
    strips = border(learnable(normal(1.0)), width)
    at = {"input": resize(model.input.size), "normalized": add(strips)}
    align = aligned(align, targets, first)
    return reprogram(model.forward, at, align)


METHOD = Method(
    "vp",
    visual_prompting,
    preset=Preset(sgd_cosine(warmup=1000), 40.0, epochs=1000, batch=128),
    alignment="first",
    enters="after normalisation",
    source="arXiv 2203.17274. hjbahng/visual_prompting: SGD, momentum .9, rate 40, no "
    "decay, 1000 steps of warm-up and a cosine, 1000 epochs, batches of 128 (its "
    "vision models'). Here the warm-up is a tenth of a run of less than 10,000 steps, "
    "and an image is resized whole; that code cuts 224 of 256 pixels.",
)
register(METHOD)
