"""Convert papers' sizes, given for 224 pixels, to a model's size."""

import math
from typing import Any

import jax
from jaxtyping import Array, Float

from reprojax.core import Key, sites
from reprojax.models import Model, Pixels


def scaled(pixels: int, model: Model[Pixels]) -> int:
    """Pixels of 224, scaled to the model's size."""
    return max(1, round(pixels * model.input.size / 224))


def border_around(
    inner: int, model: Model[Pixels]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(before, after) for both axes of a border around an image of `inner` pixels.

    If the border is odd, the extra pixel is before the image, as in the published code
    of ILM-VP, of BayesianLM and of BAR.
    """
    room = model.input.size - inner
    if not 0 < inner < model.input.size:
        raise ValueError(
            f"an image of {inner} pixels in a model of {model.input.size}, expected "
            f"0 < inner < {model.input.size}; pass a smaller inner="
        )
    sides = (room - room // 2, room // 2)
    return sides, sides


def is_transformer(model: Model[Pixels]) -> bool:
    """Whether its blocks take tokens [B L D]."""
    blocks = model.roles.get("blocks", ())
    return bool(model.roles.get("keys") or (blocks and _tokens(model, blocks[0])))


def transformer_blocks(model: Model[Pixels]) -> tuple[str, ...]:
    """The sites of a transformer's blocks; raise for other architectures."""
    if not is_transformer(model):
        raise ValueError(
            f"{model.name} is no transformer with tokens [B L D] at its blocks, "
            "expected one (a Swin keeps a grid, into which no token can be put); take "
            "a ViT, or a pixel prompt such as padding or watermark"
        )
    return model.roles.get("blocks", ())


def _tokens(model: Model[Pixels], site: str) -> bool:
    return len(_shapes(model)[site]) == 3


def _shapes(model: Model[Pixels]) -> dict[str, Any]:
    x = jax.ShapeDtypeStruct((1, model.input.size, model.input.size, 3), "float32")
    return sites(model.forward, model.frozen, x)


def patch(model: Model[Pixels]) -> int:
    """The side of a vision transformer's patches in pixels, from its token count.

    Tokens beside the class token (registers, a distilled one) are fewer than 2 rows.
    """
    tokens = _shapes(model)[transformer_blocks(model)[0]]
    return model.input.size // math.isqrt(tokens[1] - 1)


def as_patches(model: Model[Pixels]) -> Any:
    """A start U(-v, v), v = sqrt(6 / (3 side^2 + D)): the patches' Xavier bound."""
    side = patch(model)

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "*P D"]:
        bound = (6 / (3 * side**2 + shape[-1])) ** 0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initial
