"""An image whose scale is learned, in a learned frame."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reprojax.core import Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes
from reprojax.operators.additive import cast_like

LIMITS = (0.1, 5.0)
"""Of a learned scale, as in AutoVP's code."""


def scaled_in_frame(
    size: int, scale: float = 1.0, trained: bool = True
) -> Manipulation:
    """Images [B h w C], scaled about the middle of a canvas [B size size C] in a frame.

    The frame's numbers are sigmoids, and start at grey. It lies around the image, and
    moves with the learned scale. The image is sampled bilinearly, so the scale has a
    gradient; the frame's inner edge, in whole pixels, has none (AutoVP, arXiv
    2310.08381).

    Args:
        scale: the initial one, or without training the only one.
        trained: whether the scale is learned, within .1 and 5.
    """
    check_sizes("scaled_in_frame", size=size)
    if not LIMITS[0] <= scale <= LIMITS[1]:
        raise ValueError(
            f"scaled_in_frame got scale={scale}, expected {LIMITS[0]} to {LIMITS[1]}"
        )

    def init(key: Key, image: PyTree, scope: Scope) -> Params:
        if max(image.shape[1:3]) > size or image.shape[1] != image.shape[2]:
            raise ValueError(
                f"scaled_in_frame({size}) got images of {tuple(image.shape)}, expected "
                f"squares of at most {size} x {size}; put a resize before it"
            )
        prompt = jnp.zeros((size, size, image.shape[-1]))
        own = {"prompt": prompt} | ({"scale": jnp.float32(scale)} if trained else {})
        return Params(own)

    def apply(
        params: Params, image: Float[Array, "B h w C"], scope: Scope
    ) -> Float[Array, "B H W C"]:
        own = params.learnable
        factor = jnp.clip(own["scale"], *LIMITS) if trained else jnp.float32(scale)
        seen = image if image.shape[1] == size else _on_canvas(image, size)
        if trained or scale != 1:
            seen = _scaled(seen, factor)
        frame = jax.nn.sigmoid(own["prompt"]) * _outside(image.shape[1], size, factor)
        return seen + cast_like(frame, seen)

    return Manipulation(init, apply)


def _on_canvas(image: Array, size: int) -> Array:
    """Zeros around it; if their number is odd, one more before it."""
    room = size - image.shape[1]
    sides = (room - room // 2, room // 2)
    return jnp.pad(image, ((0, 0), sides, sides, (0, 0)))


def _scaled(canvas: Array, scale: Float[Array, ""]) -> Array:
    size = canvas.shape[1]
    both, middle = jnp.stack([scale] * 2), size / 2 * (1 - scale)
    move = (canvas.shape, (1, 2), both, jnp.stack([middle] * 2))
    return jax.image.scale_and_translate(canvas, *move, "linear", antialias=False)


def _outside(side: int, size: int, scale: Float[Array, ""]) -> Bool[Array, "H W 1"]:
    """The pixels that an image of that side does not cover."""
    covered, i = jnp.minimum(side * scale // 1, size), jnp.arange(size)
    inside = (i >= (size - covered) // 2) & (i < (size + covered) // 2)
    return ~(inside[:, None] & inside)[..., None]
