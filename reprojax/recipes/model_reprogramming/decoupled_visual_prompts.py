"""A prompt for each kind of descriptions, DVP (Cai et al., arXiv 2506.01000)."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros

from reprojax import operators
from reprojax.alignments import reweighted
from reprojax.core import (
    Edit,
    Forward,
    Manipulation,
    Program,
    PyTree,
    chain,
    passthrough,
    reprogram,
    stateless,
)
from reprojax.core.trees import tiled
from reprojax.formats import learnable, of_each, through
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import border_around, scaled
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels, "text_embedding")
def decoupled_visual_prompts(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int,
    prompts: int = 3,
    inner: int | None = None,
    nearest: int = 3,
) -> Program:
    """The image inside several learned borders, each compared with descriptions of its
    own kind (arXiv 2506.01000).

    The model is `image_text.of_descriptions(pair, classes, *kinds)`, a kind for each
    border: what an LLM names as causes, or one's own clusters. A class's answer is a
    weighted sum over its descriptions of all kinds; the weights are estimated from how
    often each is among the nearest. The image tower runs once for each border.

    Args:
        prompts: K, the kinds.
        inner: side of the image in pixels; by default 192 in 224.
        nearest: how many descriptions of its class count for an image.
    """
    inner = scaled(192, model) if inner is None else inner
    sigmoid = through(learnable(zeros), stateless(jax.nn.sigmoid))
    border = operators.pad(of_each(sigmoid, prompts), *border_around(inner, model))
    at = {"input": chain(resize=operators.resize(inner), border=border)}
    own = partial(reweighted, count=nearest)
    forward = decoupled(model, prompts, targets)
    align = own(targets) if align is None else align
    return reprogram(forward, at, align)


def decoupled(model: Model[Pixels], prompts: int, targets: int) -> Forward:
    """The model on each image K times, each with texts of its own kind: class by class
    the logits of its texts of all kinds, [B T K m] in a row (DVP, arXiv 2506.01000)."""
    texts = len(model.frozen["texts"].features)
    if prompts < 1 or texts % (prompts * targets):
        raise ValueError(
            f"got {texts} texts for {prompts} kinds of {targets} classes, expected as "
            "many for each class and kind; take image_text.of_descriptions(pair, "
            "classes, *kinds), and as many prompts as kinds"
        )

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        def inside(site: str, value: PyTree) -> PyTree:
            return value if site == "output" else edit(site, value)

        y = model.forward(frozen, tiled(x, prompts), edit=inside)
        y = y.reshape(prompts, len(x), prompts, targets, -1)
        own = jnp.einsum("kbktm->btkm", y)
        return edit("output", own.reshape(len(x), -1))

    return forward


METHOD = Method(
    "dvp",
    decoupled_visual_prompts,
    preset=Preset(sgd_cosine(warmup=0), 40.0, epochs=200, batch=64),
    enters="before normalisation",
    template="",
    source="arXiv 2506.01000. tmlr-group/DecoupledVP, its script of causes and its "
    "settings: 3 borders of SGD, momentum .9, rate 40, no decay, a cosine by steps, "
    "200 epochs of batches of 64, 20 descriptions of each cause, three of which count; "
    "the weights are estimated before the first step and from each epoch's own steps. "
    "Their estimate is written from the paper, and clusters are the caller's. There "
    "images are resized by cubics, cropped at random and mirrored.",
)
register(METHOD)
