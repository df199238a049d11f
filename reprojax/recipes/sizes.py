"""Sizes of papers, which are given for 224 pixels, on a backbone of another size."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.core import sites
from reprojax.models import Backbone


def scaled(pixels: int, backbone: Backbone) -> int:
    """That many pixels of 224, in the backbone's own."""
    return max(1, round(pixels * backbone.size / 224))


def border_around(
    inner: int, backbone: Backbone
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(before, after) of both axes around an image of `inner` pixels in the middle.

    Of an odd number of pixels the one more stands before the image, as in the published
    code of ILM-VP, of BayesianLM and of BAR.
    """
    room = backbone.size - inner
    if not 0 < inner < backbone.size:
        raise ValueError(
            f"an image of {inner} pixels in a backbone of {backbone.size}, expected "
            f"0 < inner < {backbone.size}; pass a smaller inner="
        )
    sides = (room - room // 2, room // 2)
    return sides, sides


def uniform(fan: int) -> Any:
    """U(-b, b) with b = fan^-.5: PyTorch's start of a layer that sums `fan` numbers."""
    bound = fan**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def is_transformer(backbone: Backbone) -> bool:
    """Whether tokens [B L D] enter its blocks."""
    blocks = backbone.roles.get("blocks", ())
    return bool(backbone.roles.get("keys") or (blocks and _tokens(backbone, blocks[0])))


def transformer_blocks(backbone: Backbone) -> tuple[str, ...]:
    """The sites of a transformer's blocks, or an error for another architecture."""
    if not is_transformer(backbone):
        raise ValueError(
            f"{backbone.name} is no transformer, expected one: tokens [B L D] at its "
            "blocks; take a ViT, or a pixel prompt such as padding or watermark"
        )
    return backbone.roles.get("blocks", ())


def _tokens(backbone: Backbone, site: str) -> bool:
    return len(_shapes(backbone)[site]) == 3


def _shapes(backbone: Backbone) -> dict[str, Any]:
    x = jax.ShapeDtypeStruct((1, backbone.size, backbone.size, 3), "float32")
    return sites(backbone.forward, backbone.frozen, x)


def patch(backbone: Backbone) -> int:
    """The side of a vision transformer's patches in pixels, from its token count."""
    tokens = _shapes(backbone)[transformer_blocks(backbone)[0]]
    return backbone.size // math.isqrt(tokens[1] - 1)
