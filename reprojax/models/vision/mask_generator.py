"""The mask network of sample-specific masks (Cai et al., arXiv 2406.03150)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core.initial import uniform


class MaskGenerator(nn.Module):
    """The published mask network: 26,499 parameters for five layers, 102,339 for six.

    3 x 3 convolutions, all but the last with batch norm and ReLU, and a 2 x 2 maximum
    after the first `pools`; then every value fills a patch of 2^pools pixels. Weights
    and biases start as PyTorch's.

    Args:
        channels: of the masks. 1: the mean of the last convolution's input, for all
            three colours, without that convolution.
    """

    layers: int = 5
    pools: int = 3
    channels: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool
    ) -> Float[Array, "B H W 3"]:
        shape = x.shape
        for i in range(self.layers - 1):
            x = _convolution(8 * 2**i, x.shape[-1])(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)(x))
            if i < self.pools:
                x = nn.max_pool(x, (2, 2), (2, 2))
        if self.channels == 3:
            x = _convolution(3, x.shape[-1])(x)
        else:
            x = jnp.repeat(x.mean(-1, keepdims=True), 3, axis=-1)
        return _patches(x, 2**self.pools, shape)


def _convolution(width: int, before: int) -> nn.Conv:
    start: Any = uniform(9 * before)
    return nn.Conv(width, (3, 3), padding=1, kernel_init=start, bias_init=start)


def _patches(x: Array, side: int, shape: tuple[int, ...]) -> Array:
    """Each value repeated over its patch; zero outside the patches."""
    x = jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)
    rest = [(0, 0), *((0, shape[i] - x.shape[i]) for i in (1, 2)), (0, 0)]
    return jnp.pad(x, rest)
