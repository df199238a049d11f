"""Prompts on a part of an image: a learned patch, and a drawn circle."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reprojax.core import Format, Key, Manipulation, Params, PyTree, Scope
from reprojax.core.faults import init_prompt, read_prompt
from reprojax.core.guards import check_sizes
from reprojax.core.slips import check_format
from reprojax.operators.additive import cast_like, check_prompt


def add_patch(fmt: Format, side: int, moving: bool = False) -> Manipulation:
    """A prompt [side side C] added to the upper left corner of images [B H W C].

    Source: Bahng et al. (arXiv 2203.17274).

    Args:
        moving: in training, add it at a random place instead, one for the batch, as in
            the published code; in evaluation in the middle (there at a random place).
    """
    check_format("add_patch", fmt)
    check_sizes("add_patch", side=side)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        if side >= min(value.shape[1:3]):
            raise ValueError(
                f"add_patch got a side of {side} for images of {tuple(value.shape)}, "
                f"expected 1 to {min(value.shape[1:3]) - 1}; take a smaller side"
            )
        return init_prompt(fmt, key, (side, side, value.shape[-1]), scope)

    def apply(
        params: Params, value: Float[Array, "B H W C"], scope: Scope
    ) -> Float[Array, "B H W C"]:
        patch = read_prompt(fmt, params, value, scope)
        check_prompt(patch, (side, side, value.shape[-1]), value)
        room = jnp.array([n - side for n in value.shape[1:3]])
        corner = jnp.zeros(2, jnp.int32)
        if moving:
            corner = room // 2
        if moving and scope.key is not None:
            corner = jax.random.randint(scope.key, (2,), 0, room)
        blank = jnp.zeros((*patch.shape[:-3], *value.shape[1:]), patch.dtype)
        at = (*[0] * (patch.ndim - 3), corner[0], corner[1], 0)
        prompt = jax.lax.dynamic_update_slice(blank, patch, at)
        return value + cast_like(prompt, value)

    return Manipulation(init, apply)


def circle(
    middle: tuple[float, float] = (0.5, 0.5),
    radius: float = 0.25,
    width: float = 0.02,
    colour: tuple[float, float, float] = (1.0, 0.0, 0.0),
) -> Manipulation:
    """A ring drawn over images [B H W C] in [0, 1]: nothing is learned.

    The red circle of Shtedritski et al. (arXiv 2304.06712), which points a model at a
    part of the image. A context [B 4] places it in each image: the smallest ellipse of
    the box's shape around it, whose corners are (top, left, bottom, right).

    Args:
        middle, radius, width: in shares of the image's side, (from the top, from the
            left); a context takes the place of the first two.
    """
    numbers = (*middle, radius, width)
    if min(radius, width) <= 0 or not all(0 <= n <= 1 for n in (*numbers, *colour)):
        raise ValueError(
            f"circle got middle={middle}, radius={radius}, width={width} and "
            f"colour={colour}, expected shares of the image's side and colours, each "
            "in 0..1, radius and width above 0"
        )
    box = (middle[0] - radius, middle[1] - radius)
    box += (middle[0] + radius, middle[1] + radius)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return Params(fixed={"colour": jnp.array(colour)})

    def apply(
        params: Params, value: Float[Array, "B H W 3"], scope: Scope
    ) -> Float[Array, "B H W 3"]:
        boxes = jnp.asarray([box] if scope.context is None else scope.context)
        grown = boxes if scope.context is None else _around(boxes)
        ring = _ring(grown, (value.shape[1], value.shape[2]), width)[..., None]
        return jnp.where(ring, cast_like(params.fixed["colour"], value), value)

    return Manipulation(init, apply)


def _around(boxes: Float[Array, "B 4"]) -> Float[Array, "B 4"]:
    """The boxes of ellipses that go through the corners of the boxes."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return jnp.concatenate([middle - 2**0.5 * half, middle + 2**0.5 * half], 1)


def _ring(
    boxes: Float[Array, "B 4"], shape: tuple[int, int], width: float
) -> Bool[Array, "B H W"]:
    """Pixels between an ellipse and the one that is `width` smaller."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    grid = jnp.stack(
        jnp.meshgrid(*((jnp.arange(n) + 0.5) / n for n in shape), indexing="ij"), -1
    )
    apart = grid - middle[:, None, None]
    inside = lambda radii: ((apart / radii[:, None, None]) ** 2).sum(-1) <= 1
    return inside(half) & ~inside(jnp.maximum(half - width, 1e-6))
