"""BlackVIP (Oh et al., arXiv 2303.14773): a small network makes a prompt an image."""

from reprojax import models
from reprojax.alignments import bayesian
from reprojax.core import Manipulation, Program, reprogram
from reprojax.models import Model, Pixels
from reprojax.models.vision.coordinator import coordinator
from reprojax.operators import resize
from reprojax.recipes.method import BlackBox, Method, aligned, needs
from reprojax.recipes.registry import register
from reprojax.searches import spsa_gc
from reprojax.training.losses import cross_entropy


@needs(Pixels, access="answers")
def black_vip(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    encoder: Model[Pixels] | None = None,
) -> Program:
    """A prompt for each image from an encoder and a decoder (arXiv 2303.14773).

    It enters *after* normalisation, and the sum is clipped to valid pixels. Train it
    with `searches.spsa_gc`.

    Args:
        encoder: a frozen model of ours whose features the decoder reads; by default the
            embedded net. The paper uses a masked autoencoder, ViT-B.
    """
    encoder = models.load("glyphs") if encoder is None else encoder
    at = {
        "input": resize(model.input.size),
        "normalized": coordinator(model, encoder),
    }
    align = aligned(align, targets, bayesian)
    return reprogram(model.forward, at, align)


METHOD = Method(
    "blackvip",
    black_vip,
    preset=BlackBox(
        lambda rate, steps: spsa_gc(a=rate),
        0.01,
        batch=128,
        loss=lambda labels, targets: cross_entropy,
    ),
    alignment="blm",
    enters="after normalisation",
    source="arXiv 2303.14773. changdaeoh/BlackVIP, its configuration for all sets: "
    "SPSA-GC with a = c = .01, alpha .4, gamma .1, o = 1, momentum .9, five estimates "
    "a step, batches of 128, epsilon 1 (5,000 epochs of 16 images a class; by set, c, "
    "gamma, momentum and epsilon are tuned). Here a label map stands for CLIP's "
    "texts, the encoder is the embedded net, and images are neither cropped nor "
    "mirrored.",
)
register(METHOD)
