"""Visual prompt tuning, VPT (Jia et al., arXiv 2203.12119)."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from reprojax.alignments import linear
from reprojax.core import (
    Given,
    Manipulation,
    Params,
    Program,
    Scope,
    record,
    reprogram,
    until,
)
from reprojax.formats import learnable, projected
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import as_patches, transformer_blocks
from reprojax.operators import dropped, in_depth, insert, replace, resize
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
    drop: float = 0.0,
    project: int | None = None,
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
        drop: dropout rate on the tokens in training, other numbers for each image.
        project: learn vectors of this width instead, which one linear layer, shared by
            the blocks, makes tokens. The blocks' params are then under the first site.
    """
    blocks = transformer_blocks(model)[:depth]
    at: dict = {"input": resize(model.input.size)}
    if project is None:
        prompt = dropped(learnable(as_patches(model)), drop, by_row=True)
        at[blocks[0]] = insert(prompt, length, at=1)
        at |= {block: replace(prompt, length, at=1) for block in blocks[1:]}
    else:
        prompt = dropped(projected(project, as_patches(model)), drop, by_row=True)
        at[blocks] = in_depth(prompt, length, at=1)
    align = aligned(align, targets, head_at_rest)
    return reprogram(until(model.forward, model.roles["features"][0]), at, align)


def head_at_rest(targets: int) -> Manipulation:
    """A head whose T answers, read as sigmoids, start near probability .01 (VPT, arXiv
    2203.12119)."""
    start = normal((2 / targets) ** 0.5)
    return linear(targets, standardised=True, initial=start, initial_bias=-math.log(99))


@needs(Pixels, "features")
def vpt_shallow(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 5,
    drop: float = 0.0,
    project: int | None = None,
) -> Program:
    """Learned tokens in a ViT, at its first block alone (arXiv 2203.12119)."""
    return vpt_deep(
        model,
        align,
        targets=targets,
        length=length,
        depth=1,
        drop=drop,
        project=project,
    )


def from_patches(model: Model[Pixels], params: Params, images: Given) -> Params:
    """The params of VPT with tokens that start at mean patches of images [B h w C].

    The patches that enter a block of the model without prompts are averaged over the
    images, and over as many windows as the block has tokens. (In self-prompt tuning,
    arXiv 2402.02382, windows are pooled the same way, and tokens are then drawn from
    those of all images.)

    Raises:
        ValueError: the tokens are made by a projection, or outnumber the patches.
    """
    own = {n: a for n, a in params.learnable.items() if n in transformer_blocks(model)}
    if not all(hasattr(tokens, "shape") for tokens in own.values()):
        raise ValueError(
            "got params of VPT with a projection, expected tokens as wide as the "
            "patches; build the program with project=None"
        )
    call = record(model.forward, own)
    x = resize(model.input.size).apply(Params(), images, Scope())
    seen = jax.jit(lambda frozen, x: call(frozen, x)[1])(model.frozen, x)
    learnable = dict(params.learnable)
    for name, tokens in own.items():
        learnable[name] = _windows(seen[name][:, 1:].mean(0), len(tokens))
    return params._replace(learnable=learnable)


def _windows(patches: Float[Array, "L D"], count: int) -> Float[Array, "P D"]:
    """The means of P windows that are as long as can be, the first ones longer."""
    if count > len(patches):
        raise ValueError(
            f"got {count} tokens for {len(patches)} patches, expected at most as many "
            "tokens as patches; take fewer, or start at random"
        )
    return jnp.stack([w.mean(0) for w in jnp.array_split(patches, count)])


# Without the clip, rates of .025 and .125 diverged on a ViT-Ti: small tokens in front
# of a layer norm have large gradients.
def optimizer(decay: float) -> Callable[..., optax.GradientTransformation]:
    """That of the preset, with a weight decay that spares the head's bias (VPT, arXiv
    2203.12119)."""
    return sgd_cosine(warmup=0.1, clip=1.0, decay=decay, head_bias=False)


RATES = tuple(r / 2 for r in (50, 25, 10, 5, 2.5, 1, 0.5, 0.25, 0.1, 0.05))
"""The grid of the published search, for batches of 128: rates, each with all DECAYS.
Of equals on validation the smaller rate is taken."""
DECAYS = (0.01, 0.001, 0.0001, 0.0)

_PRESET = Preset(optimizer(0.0), 0.025, epochs=100, batch=128)
_WHAT: dict[str, Any] = {"preset": _PRESET, "enters": "behind the class token"}
_WHAT["source"] = (
    "arXiv 2203.12119: SGD, momentum .9, 100 epochs of batches of 128 (64 for large "
    "models), ten of warm-up and a cosine. Rate and decay are there from grids, RATES "
    "and DECAYS, by validation; here the smallest rate and no decay. Ours: the clip at "
    "norm 1, the standardised head, a rate that moves by steps; KMnP/vpt moves it by "
    "epochs, the first of which has rate 0."
)
SHALLOW = Method("vpt-shallow", vpt_shallow, **_WHAT)
register(SHALLOW)
DEEP = Method("vpt-deep", vpt_deep, **_WHAT)
register(DEEP)
