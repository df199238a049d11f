"""Tip-Adapter: a cache of few images beside a pair's answer (arXiv 2111.03930)."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from reprojax.alignments import voting
from reprojax.alignments.voting import chosen, filled
from reprojax.core import (
    Edit,
    Forward,
    Given,
    Manipulation,
    Params,
    Program,
    PyTree,
    part,
    passthrough,
    put,
    record,
    reprogram,
)
from reprojax.data import Split
from reprojax.models import Model, Pixels, role
from reprojax.operators import resize
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import check_classes
from reprojax.recipes.queries import queries
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adamw_cosine


@needs(Pixels, "text_embedding", "features", access="activations")
def tip_adapter(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    examples: int = 160,
    learned: bool = False,
) -> Program:
    """Labelled images vote beside a pair's zero-shot answer (arXiv 2111.03930).

    Nothing is trained: `with_examples(params, features, labels)` writes the images into
    the params, and `tuned` chooses two numbers on validation images.

    Args:
        align: by default `voting(number of classes, examples)`.
        examples: N, images of all classes together; 16 a class in the paper.
        learned: train the cache's keys from there (Tip-Adapter-F).
    """
    check_classes(model, targets)
    if align is None:
        align = voting(len(model.classes), examples, learned=learned)
    (features,) = role(model, "features")
    at = {"input": resize(model.input.size)}
    return reprogram(beside(model.forward, features), at, align)


@needs(Pixels, "text_embedding", "features", access="activations")
def tip_adapter_f(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    examples: int = 160,
) -> Program:
    """Tip-Adapter whose keys are trained (arXiv 2111.03930).

    Training begins at `first_params`, the method's `start`: without images in the cache
    there is nothing to learn.
    """
    return tip_adapter(model, align, targets=targets, examples=examples, learned=True)


def beside(forward: Forward, site: str) -> Forward:
    """The forward whose answer is a pair: its own, and the value at a site
    (Tip-Adapter, arXiv 2111.03930)."""

    def both(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        def inner(name: str, value: PyTree) -> PyTree:
            return value if name in ("output", "output/raw") else edit(name, value)

        y, seen = record(forward, [site])(frozen, x, edit=inner)
        return edit("output", (y, seen[site]))

    return both


def with_examples(
    params: Params, features: Float[Given, "N J"], labels: Int[Given, "N"]
) -> Params:
    """A program's params with the images' features and labels in its cache
    (Tip-Adapter, arXiv 2111.03930).

    The features are those of `image_text.image_features(pair, images)`; the published
    code averages those of ten random crops of each image.
    """
    return put(params, "output", filled(part(params, "output"), features, labels))


def tuned(
    params: Params,
    logits: Float[Given, "B T"],
    features: Float[Given, "B J"],
    labels: Int[Given, "B"],
    **grid: Any,
) -> Params:
    """A program's params with the strength and the sharpness that are best on
    validation images, of which the pair's own logits and features are given
    (Tip-Adapter, arXiv 2111.03930)."""
    own = chosen(part(params, "output"), logits, features, labels, **grid)
    return put(params, "output", own)


def first_params(
    program: Program, model: Model[Pixels], train: Split, seed: int = 0
) -> Params:
    """The program's first params, with all training images in its cache (Tip-Adapter,
    arXiv 2111.03930).

    The program needs as many `examples` as there are images.
    """
    params = program.init(jax.random.key(seed), model.frozen, train.x[:2])
    return with_examples(params, queries(model, train), np.asarray(train.y))


_SAID = (
    "arXiv 2111.03930 and gaopengcuhk/Tip-Adapter: strength 1.17 and sharpness 1 are "
    "its start for ImageNet; from it both are searched on validation images (`tuned`). "
    "What differs: its logits are 100 cos, here exp(scale) cos with the pair's scale."
)
METHOD = Method("tip-adapter", tip_adapter, _SAID, "nowhere", start=first_params)
register(METHOD)
LEARNED = Method(
    "tip-adapter-f",
    tip_adapter_f,
    preset=Preset(adamw_cosine, 0.001, epochs=20, batch=256),
    enters="nowhere",
    start=first_params,
    source=f"{_SAID} Images are not cropped at random; and validation chooses the "
    "epoch, not the test images.",
)
register(LEARNED)
