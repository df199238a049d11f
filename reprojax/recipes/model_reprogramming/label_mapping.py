"""Padding and watermark prompts, for any label map.

Padding follows the papers of the one-to-one maps (Chen et al., arXiv 2211.11635) and of
the Bayesian maps (Cai et al., arXiv 2410.24018); watermark follows the second.
"""

import jax
from jax.nn.initializers import zeros

from reprojax import operators
from reprojax.alignments import bayesian
from reprojax.core import Manipulation, Program, chain, reprogram, stateless
from reprojax.formats import learnable, through
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import border_around, scaled
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam_in_steps


@needs(Pixels)
def padding(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
) -> Program:
    """The image, made smaller, inside a learned border (arXiv 2211.11635).

    The border enters before normalisation, and starts at grey, sigmoid(0), not at zero.

    Args:
        inner: side of the image in pixels; by default 128 in 224 (32 x 32 sets: 32).
    """
    inner = scaled(128, model) if inner is None else inner
    frame = through(learnable(zeros), stateless(jax.nn.sigmoid))
    place = operators.pad(frame, *border_around(inner, model))
    at = {"input": chain(resize=operators.resize(inner), border=place)}
    align = aligned(align, targets, bayesian)
    return reprogram(model.forward, at, align)


@needs(Pixels)
def watermark(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    augment: bool = False,
) -> Program:
    """A learned image, at first zero, added to the whole image (arXiv 2410.24018).

    It enters after normalisation.

    Args:
        augment: in training, a random crop of 224 in 228 and a mirror, as published.
            Off by default, because a mirrored digit or letter may mean another class.
    """
    size = model.input.size
    whole = operators.resize(size)
    if augment:
        whole = operators.augmented(size, scaled(228, model))
    at = {"input": whole, "normalized": operators.add(learnable(zeros))}
    align = aligned(align, targets, bayesian)
    return reprogram(model.forward, at, align)


PADDING = Method(
    "padding",
    padding,
    preset=Preset(adam_in_steps, 0.01, epochs=200, batch=256),
    alignment="blm",
    enters="before normalisation",
    source="arXiv 2211.11635, 2410.24018. tmlr-group/BayesianLM: Adam at .01, times "
    ".1 at 50 % and 72 % of 200 epochs, batches of 256 (64 for DTD and OxfordPets; "
    "OPTML-Group/ILM-VP: 128). Here a map is estimated from the epoch's own steps; "
    "that code's is from a pass of its "
    'own, which refresh="exact" asks for.',
)
register(PADDING)
WATERMARK = Method(
    "watermark",
    watermark,
    preset=Preset(adam_in_steps, 0.01, epochs=200, batch=256),
    alignment="blm",
    enters="after normalisation",
    source="arXiv 2410.24018. tmlr-group/BayesianLM: as padding; its crop and mirror "
    "are `augment`.",
)
register(WATERMARK)
