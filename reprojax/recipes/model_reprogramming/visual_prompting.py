"""Visual prompting (Bahng et al., arXiv 2203.17274)."""

from jax.nn.initializers import normal

from reprojax.alignments import columns
from reprojax.core import Manipulation, Program, reprogram
from reprojax.formats import border, learnable
from reprojax.models import Backbone
from reprojax.operators import add, resize
from reprojax.recipes.method import Method, Preset, sgd_cosine
from reprojax.recipes.sizes import scaled


def visual_prompting(
    backbone: Backbone,
    targets: int,
    align: Manipulation | None = None,
    *,
    width: int | None = None,
) -> Program:
    """Four learned strips on the edges, *after* normalisation (arXiv 2203.17274).

    Args:
        width: of the strips in pixels; by default 30 in 224, which are 69,840 numbers.
    """
    width = scaled(30, backbone) if width is None else width
    strips = border(learnable(normal(1.0)), width)
    at = {"input": resize(backbone.size), "normalized": add(strips)}
    align = columns(range(targets)) if align is None else align
    return reprogram(backbone.forward, at | {"output": align})


METHOD = Method(
    visual_prompting,
    Preset(sgd_cosine(warmup=1000), 40.0, epochs=1000, batch=128),
    alignment="first",
    enters="after normalisation",
    source="hjbahng/visual_prompting: SGD, momentum .9, rate 40, no decay, 1000 steps "
    "of warm-up and a cosine, 1000 epochs, batches of 128 (its vision models'). Here "
    "the warm-up is a tenth of a run of less than 10,000 steps, and an image is "
    "resized whole; that code cuts 224 of 256 pixels.",
)
