"""Adversarial reprogramming (Elsayed et al., arXiv 1806.11146)."""

import jax.numpy as jnp
from jax.nn.initializers import normal

from reprojax.alignments import of_probabilities
from reprojax.alignments.named import first
from reprojax.core import Manipulation, Program, chain, reprogram, stateless
from reprojax.formats import learnable, through
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import border_around, scaled
from reprojax.operators import pad, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.losses import likelihood, with_norm
from reprojax.training.optimizers import adam_decayed


@needs(Pixels)
def adversarial_reprogramming(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
    deviation: float = 1.0,
) -> Program:
    """The image in a learned frame, read as the first classes (arXiv 1806.11146).

    X = image + tanh(W) around it, in the paper's units: its networks take [-1, 1]. Here
    the frame enters before normalisation, in [0, 1], as (1 + tanh(W)) / 2, so W = 0 is
    grey. The answers are log-probabilities over all S source classes; train them with
    `losses.likelihood`, the paper's -log P(label). Cross entropy over the T answers
    alone would not lower the probability of the other S - T classes.

    Args:
        align: maps the log-probabilities [B S].
        inner: side of the image in pixels; by default 28 in 224, MNIST's own size.
        deviation: W starts at N(0, deviation^2); the re-implementation has 1.
    """
    inner = scaled(28, model) if inner is None else inner
    squash = stateless(lambda w: (1 + jnp.tanh(w)) / 2)
    frame = through(learnable(normal(deviation)), squash)
    place = chain(
        resize=resize(inner), program=pad(frame, *border_around(inner, model))
    )
    align = of_probabilities(aligned(align, targets, first))
    return reprogram(model.forward, {"input": place}, align)


METHOD = Method(
    "ar",
    adversarial_reprogramming,
    preset=Preset(
        adam_decayed(b1=0.5),
        0.05,
        epochs=30,
        batch=30,
        loss=with_norm(5e-7, likelihood),
    ),
    alignment="first",
    enters="before normalisation",
    source="arXiv 1806.11146. Rate .05 and .96 every two epochs: the paper's. The "
    "start N(0, 1), Adam's beta_1 .5, 5e-7 |W|^2 (the paper's weight, .05, does not "
    "say how it sums), 30 epochs and batches of 30: "
    "Prinsphield/Adversarial_Reprogramming. That code takes a sigmoid over the whole "
    "canvas and a binary cross entropy; tanh around the image and -log P(label) here "
    "are the paper's.",
    probable=True,
)
register(METHOD)
