"""Layers that flax.linen lacks: frozen batch norm, patches, fast convolutions."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jaxtyping import Float


class BatchNorm(nn.Module):
    """Batch norm in evaluation mode; its statistics are frozen params like the others.

    It computes in float32 and keeps the value's dtype.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Float[Array, "B *place D"]) -> Float[Array, "B *place D"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        mean = self.param("mean", nn.initializers.zeros, width)
        var = self.param("var", nn.initializers.ones, width)
        slope = scale * lax.rsqrt(var.astype(jnp.float32) + self.epsilon)
        return (x * slope + (bias - mean * slope)).astype(x.dtype)


class Patches(nn.Module):
    """Square patches to tokens: a convolution whose stride equals its size.

    Written as a matrix product, it is over ten times faster on a CPU. Rows and columns
    that fill no patch are cut off. With `grid` the tokens stay in their places, [B h w
    D].
    """

    patch: int
    width: int
    bias: bool = True
    grid: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B *place D"]:
        batch, height, wide, channels = x.shape
        p, rows, columns = self.patch, height // self.patch, wide // self.patch
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (p, p, channels, self.width)
        )
        x = x[:, : rows * p, : columns * p]
        x = x.reshape(batch, rows, p, columns, p, channels)
        tokens = jnp.einsum("bhiwjc,ijcd->bhwd", x, kernel)
        if self.bias:
            zeros = nn.initializers.zeros
            tokens = tokens + self.param("bias", zeros, (self.width,))
        if self.grid:
            return tokens
        return tokens.reshape(batch, rows * columns, self.width)


class Pointwise(nn.Module):
    """A 1x1 convolution; with a stride, at every stride-th place.

    Written as a matrix product, forward and input gradient take half the time on a CPU.
    """

    width: int
    stride: int = 1
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        shape = (1, 1, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x, kernel = promote_dtype(x[:, :: self.stride, :: self.stride], kernel)
        x = x @ kernel[0, 0]
        if self.bias:
            x = x + self.param("bias", nn.initializers.zeros, (self.width,))
        return x


class Stem(nn.Module):
    """A 7x7 convolution at stride 2, padded by three on all sides; no bias.

    Computed as a 4x4 convolution over squares of 2 x 2 pixels, forward and input
    gradient take half the time on a CPU.
    """

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        channels = x.shape[-1]
        shape = (7, 7, channels, self.width)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        x, kernel = promote_dtype(x, kernel)
        x = jnp.pad(x, ((0, 0), *((0, n % 2) for n in x.shape[1:3]), (0, 0)))
        batch, rows, columns = x.shape[0], x.shape[1] // 2, x.shape[2] // 2
        squares = x.reshape(batch, rows, 2, columns, 2, channels)
        squares = squares.transpose(0, 1, 3, 2, 4, 5)
        # windows start at odd pixels; zeros in front align them to squares
        kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
        kernel = kernel.reshape(4, 2, 4, 2, channels, self.width)
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
        return lax.conv_general_dilated(
            squares.reshape(batch, rows, columns, 4 * channels),
            kernel.reshape(4, 4, 4 * channels, self.width),
            (1, 1),
            ((2, 1), (2, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )


class Depthwise(nn.Module):
    """A square filter for each channel, SAME padding (the odd row at bottom and right),
    or other `padding` of both axes, before and after.

    Computed as shifted products, a 3x3 filter is 4 to 20 times faster on a CPU, a 7x7
    one 2.5 times.
    """

    stride: int = 1
    side: int = 3
    padding: tuple[int, int] | None = None
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        channels, step, side = x.shape[-1], self.stride, self.side
        init = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=(0, 1), out_axis=3, batch_axis=2
        )
        kernel = self.param("kernel", init, (side, side, 1, channels))
        pads = [
            max((-(-old // step) - 1) * step + side - old, 0) for old in x.shape[1:3]
        ]
        pads = [self.padding or (pad // 2, pad - pad // 2) for pad in pads]
        x = filtered(jnp.pad(x, ((0, 0), *pads, (0, 0))), kernel, step)
        if self.bias:
            x = x + self.param("bias", nn.initializers.zeros, (channels,))
        return x


@functools.partial(jax.jit, static_argnums=2)  # outside of a program: one compilation
def filtered(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], stride: int
) -> Float[Array, "B h w C"]:
    """The sum of shifted products, at each place where the filter fits."""
    side = len(kernel)
    rows, columns = (old - side + 1 for old in x.shape[1:3])
    products = (
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
        for i in range(side)
        for j in range(side)
    )
    return functools.reduce(jnp.add, products)


def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """The exact GELU, by erf."""
    return x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5)))


class LayerScale(nn.Module):
    """A learned factor for each channel (CaiT, arXiv 2103.17239)."""

    @nn.compact
    def __call__(self, x: Float[Array, "B *place D"]) -> Float[Array, "B *place D"]:
        return x * self.param("gamma", nn.initializers.ones, x.shape[-1:])


class Identity(nn.Module):
    """The head of a model without one, so that the site "head:in" exists."""

    def __call__(self, x: Array) -> Array:
        return x


def head(classes: int) -> nn.Module:
    """A linear classifier called "head"; for 0 classes the identity."""
    return nn.Dense(classes, name="head") if classes else Identity(name="head")
