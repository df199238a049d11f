"""Visual prompt tuning, VPT (Jia et al., arXiv 2203.12119)."""

import math
from typing import Any

from jax.nn.initializers import normal

from reprojax.alignments import linear
from reprojax.core import Manipulation, Program, reprogram, until
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import as_patches, transformer_blocks
from reprojax.operators import insert, replace, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels, "features")
def vpt_deep(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 5,
    depth: int | None = None,
) -> Program:
    """Learned tokens in a ViT, new ones at each block (arXiv 2203.12119).

    They stand after the class token and get no position. A later block's tokens
    *replace* the outputs of the earlier ones. The head is linear on the class token's
    feature [D] and starts as the published one, N(0, 2 / T) and bias -log 99. Its input
    is standardised (the paper's is not), so that one learning rate serves backbones
    whose features differ in scale.

    Args:
        length: P, tokens a block.
        depth: how many blocks have their own; by default all.
    """
    blocks = transformer_blocks(model)[:depth]
    prompt = learnable(as_patches(model))
    at: dict = {
        "input": resize(model.input.size),
        blocks[0]: insert(prompt, length, at=1),
    }
    at |= {block: replace(prompt, length, at=1) for block in blocks[1:]}
    align = aligned(align, targets, _head)
    return reprogram(until(model.forward, model.roles["features"][0]), at, align)


def _head(targets: int) -> Manipulation:
    """A head whose T answers, read as sigmoids, start near probability .01."""
    start = normal((2 / targets) ** 0.5)
    return linear(targets, standardised=True, initial=start, initial_bias=-math.log(99))


@needs(Pixels, "features")
def vpt_shallow(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 5,
) -> Program:
    """Learned tokens in a ViT, at its first block alone (arXiv 2203.12119)."""
    return vpt_deep(model, align, targets=targets, length=length, depth=1)


# Without the clip, rates of .025 and .125 diverged on a ViT-Ti: small tokens in front
# of a layer norm have large gradients.
_PRESET = Preset(sgd_cosine(warmup=0.1, clip=1.0), 0.025, epochs=100, batch=128)
_WHAT: dict[str, Any] = {"preset": _PRESET, "enters": "behind the class token"}
_WHAT["source"] = (
    "arXiv 2203.12119: SGD, momentum .9, 100 epochs of batches of 128 (64 for large "
    "models), ten of warm-up and a cosine. Rate and decay are there from grids, {.05 "
    "... 50} * batch / 256 and {0 ... .01}, by validation; here the smallest rate and "
    "no decay. Ours: the clip at norm 1, the standardised head, a rate that moves by "
    "steps; KMnP/vpt moves it by epochs, the first of which has rate 0."
)
SHALLOW = Method("vpt-shallow", vpt_shallow, **_WHAT)
register(SHALLOW)
DEEP = Method("vpt-deep", vpt_deep, **_WHAT)
register(DEEP)
