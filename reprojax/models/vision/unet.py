"""A U-Net from images to images (Ronneberger et al., arXiv 1505.04597)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core.initial import uniform


class UNet(nn.Module):
    """REFINE's network: each pixel of three colours anew (arXiv 2502.18508).

    Four times a 2 x 2 maximum and two 3 x 3 convolutions, then four times twice the
    size, with what stood there before beside it, and two convolutions. All but the last
    have batch norm and ReLU. Weights and biases start as PyTorch's.

    Args:
        width: channels of the first convolutions; 8 times as many are the deepest.
    """

    width: int = 32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool
    ) -> Float[Array, "B H W 3"]:
        w = self.width
        skips = [_twice(x, w, w, train)]
        for wide in (2 * w, 4 * w, 8 * w, 8 * w):
            small = nn.max_pool(skips[-1], (2, 2), (2, 2))
            skips.append(_twice(small, wide, wide, train))
        x = skips.pop()
        for wide in (4 * w, 2 * w, w, w):
            beside = skips.pop()
            both = jnp.concatenate([beside, _grown(x, beside.shape)], -1)
            x = _twice(both, both.shape[-1] // 2, wide, train)
        return _convolution(3, x.shape[-1], 1)(x)


def _twice(x: Array, middle: int, out: int, train: bool) -> Array:
    for wide in (middle, out):
        x = _convolution(wide, x.shape[-1], 3)(x)
        x = nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)(x))
    return x


def _convolution(width: int, before: int, side: int) -> nn.Conv:
    start: Any = uniform(side**2 * before)
    given: dict[str, Any] = {"kernel_init": start, "bias_init": start}
    return nn.Conv(width, (side, side), padding=side // 2, **given)


def _grown(x: Array, shape: tuple[int, ...]) -> Array:
    """Twice the size, corners on corners, then zeros around it up to the shape."""
    for axis in (1, 2):
        x = jnp.moveaxis(jnp.tensordot(_hats(x.shape[axis]), x, (1, axis)), 0, axis)
    room = [shape[axis] - x.shape[axis] for axis in (1, 2)]
    sides = [(n // 2, n - n // 2) for n in room]
    return jnp.pad(x, ((0, 0), *sides, (0, 0)))


def _hats(size: int) -> Float[Array, "new old"]:
    """How much each old row weighs in each of twice as many."""
    at = jnp.arange(2 * size) * (size - 1) / max(2 * size - 1, 1)
    return jnp.maximum(0, 1 - jnp.abs(at[:, None] - jnp.arange(size)))
