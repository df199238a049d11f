"""Explicit visual prompting (Liu et al., arXiv 2303.10883)."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from reprojax.alignments import linear
from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    fold,
    informed,
    record,
    reprogram,
    shared,
    until,
)
from reprojax.core.guards import check_sizes
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import patch, transformer_blocks
from reprojax.operators import add, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register


@needs(Pixels, "features", "blocks", "patches")
def explicit_visual_prompting(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    reduce: int = 32,
    share: float = 0.25,
) -> Program:
    """Prompts made of an image's own patches and high frequencies, added to the patches
    that enter each block of a frozen ViT (arXiv 2303.10883).

    The published head draws masks; here it is linear on the class token's feature.

    Args:
        reduce: the prompts are made in width D / reduce; published are 32 for a ViT,
            and 4 for a SegFormer.
        share: of the frequencies' square, how much is removed from its middle.
    """
    check_sizes("explicit_visual_prompting", reduce=reduce)
    if not 0 < share < 1:
        raise ValueError(f"got share={share}, expected a share above 0 and below 1")
    blocks, side = transformer_blocks(model), patch(model)
    width = max(1, model.width // reduce)
    fmt = _explicit(len(blocks), width, side)
    count = (model.input.size // side) ** 2
    to_size = resize(model.input.size)
    at: dict = {"input": to_size, blocks: shared(add(fmt, count, at=1))}
    cut = until(model.forward, model.roles["features"][0])
    program = reprogram(cut, at, aligned(align, targets, linear))
    return informed(program, _looking(model, to_size, share))


def _looking(model: Model[Pixels], to_size: Manipulation, share: float) -> Any:
    """(frozen, x) -> the high frequencies of normalised pixels, and the patches'
    vectors without positions."""
    site = model.roles["patches"][0]
    call = record(until(model.forward, site), ["normalized"])

    def look(frozen: PyTree, x: PyTree) -> dict[str, jax.Array]:
        patches, seen = call(frozen, to_size.apply(Params(), x, Scope()))
        pixels = seen["normalized"].astype(jnp.float32)
        high = high_frequencies(pixels, share)
        return {"frequencies": high, "patches": patches.astype(jnp.float32)}

    return look


def high_frequencies(
    pixels: Float[Array, "B H W C"], share: float
) -> Float[Array, "B H W C"]:
    """The absolute values of an image without its low frequencies: a square of that
    share of them, in their middle, is removed (arXiv 2303.10883)."""
    height, width = pixels.shape[1:3]
    half = int((height * width * share) ** 0.5 // 2)
    waves = jnp.fft.fftshift(jnp.fft.fft2(pixels, axes=(1, 2)), axes=(1, 2))
    i = jax.lax.broadcasted_iota(jnp.int32, (height, width, 1), 0) - height // 2
    j = jax.lax.broadcasted_iota(jnp.int32, (height, width, 1), 1) - width // 2
    low = (i >= -half) & (i < half) & (j >= -half) & (j < half)
    waves = jnp.fft.ifftshift(jnp.where(low, 0, waves), axes=(1, 2))
    return jnp.abs(jnp.fft.ifft2(waves, axes=(1, 2)).real)


def _explicit(blocks: int, width: int, side: int) -> Format:
    """One prompt for each row [B L D], of the context's frequencies and patches.

    A reduced vector of each patch and one of its high frequencies are added; a small
    layer of each block and a last layer of all blocks make the prompt.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        into, out = scope.context["patches"].shape[-1], shape[-1]
        channels = scope.context["frequencies"].shape[-1]
        wide = (2 / (side**2 * width)) ** 0.5
        sizes: dict[str, tuple[float, tuple[int, ...], tuple[int, ...]]] = {
            "patches": (0.02, (into, width), (width,)),
            "frequencies": (wide, (side, side, channels, width), (width,)),
            "blocks": (0.02, (blocks, width, width), (blocks, width)),
            "last": (0.02, (width, out), (out,)),
        }
        return Params(
            {
                name: {"kernel": normal(std)(fold(key, name), kernel, jnp.float32),
                       "bias": jnp.zeros(bias)}
                for name, (std, kernel, bias) in sizes.items()
            }
        )  # fmt: skip

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "B L D"]:
        own, high = params.learnable, scope.context["frequencies"]
        b, h, w, c = high.shape
        tiles = high.reshape(b, h // side, side, w // side, side, c)
        high = jnp.einsum("bipjqc,pqcr->bijr", tiles, own["frequencies"]["kernel"])
        high = high.reshape(b, -1, width) + own["frequencies"]["bias"]
        near = _dense(scope.context["patches"], own["patches"])
        block = jax.tree.map(lambda a: a[scope.index], own["blocks"])
        unit = jax.nn.gelu(_dense(high + near, block), approximate=False)
        return _dense(unit, own["last"])

    return Format(init, read)


def _dense(x: Float[Array, "*B D"], layer: PyTree) -> Float[Array, "*B E"]:
    return x @ layer["kernel"] + layer["bias"]


def _adamw(rate: float, steps: int, epochs: int) -> optax.GradientTransformation:
    """AdamW with decay .01; the rate falls by epochs as a cosine to 1e-6."""

    def schedule(step: Any) -> Any:
        part = (step // steps) / epochs
        return 1e-6 + (rate - 1e-6) * (1 + jnp.cos(math.pi * part)) / 2

    return optax.adamw(schedule, weight_decay=0.01)


METHOD = Method(
    "explicit-visual-prompting",
    explicit_visual_prompting,
    preset=Preset(_adamw, 2e-4, epochs=20, batch=4),
    enters="on the patches that enter each block",
    source="arXiv 2303.10883. NiFangBaAGe/Explicit-Visual-Prompt, its ViT (SETR) for "
    "camouflaged objects: AdamW at 2e-4, a cosine by epochs to 1e-6, 20 epochs, "
    "batches of 4. What differs: classes in place of masks, so a linear head and cross "
    "entropy.",
)
register(METHOD)
