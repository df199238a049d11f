"""Descriptions weighed within classes, and classes corrected by each other (RVP)."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from reprojax.alignments import related_classes
from reprojax.core import Manipulation, Program, PyTree
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import scaled
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.model_reprogramming.label_mapping import padding
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels, "text_embedding")
def rvp(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
) -> Program:
    """The image inside a learned border; learned weights of descriptions, and a learned
    matrix between the classes (RVP: Li et al., "Reprogramming Vision-Language Models
    via Structured Prompt Reparameterization", of which we know the paper alone).

    The model is `image_text.of_descriptions(pair, classes, texts)`, of one kind. The
    border is that of `padding`. After training `recipes.folding` makes one linear head
    of texts, weights and matrix.

    Args:
        inner: side of the image in pixels; by default 192 in 224.
    """
    inner = scaled(192, model) if inner is None else inner
    return padding(model, aligned(align, targets, related_classes), inner=inner)


def slower_answers(ratio: float) -> Callable[..., optax.GradientTransformation]:
    """SGD with momentum and a cosine; at "output" the rate is `ratio` times smaller
    (RVP, Li et al.)."""
    falling = sgd_cosine(warmup=0)

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        own: dict[Any, Any] = {
            "border": falling(learning_rate, steps, epochs),
            "answers": falling(learning_rate / ratio, steps, epochs),
        }

        def groups(learnable: PyTree) -> PyTree:
            kinds = {s: "answers" if s == "output" else "border" for s in learnable}
            name = lambda s: jax.tree.map(lambda _: kinds[s], learnable[s])
            return {site: name(site) for site in learnable}

        return optax.partition(own, groups)

    return optimizer


METHOD = Method(
    "rvp",
    rvp,
    preset=Preset(slower_answers(40_000), 40.0, epochs=200, batch=64),
    enters="before normalisation",
    template="",
    source="Li et al., Reprogramming Vision-Language Models via Structured Prompt "
    "Reparameterization, its paper alone: the border by SGD, momentum .9, rate 40, a "
    "cosine, 200 epochs of batches of 64; weights and matrix at rate .001, 20 "
    "descriptions a class. It does not say how these two are optimised, and here they "
    "are as the border; nor where the weights start, and here they are equal.",
)
register(METHOD)
