"""What the programs of the cells are made of, beside the library's own parts.

The formats and operators here exist for one reason: every learnable cell of a model
gets the same number of learnable numbers, at every site and with every operator.
"""

from collections.abc import Callable
from math import prod, sqrt
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import zeros
from jaxtyping import Array, Float, Int

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    PyTree,
    Scope,
    Tokens,
    bare,
    on_value,
    tokens,
)
from reprojax.operators import network

# -- learnable


def coarse(numbers: int, of: int | None = None) -> Format:
    """A prompt [H W C], interpolated from about `numbers` learned ones, at first zero.

    The learned grid [h w C] has the prompt's channels and about its aspect. Where there
    are no more numbers in the prompt than that, all of them are learned.

    Args:
        of: how many numbers all the prompts have that share `numbers`, such as the four
            strips of a border; by default as many as this prompt has.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        height, wide, channels = shape
        share = min(numbers / (of or prod(shape)), 1.0)
        rows = max(1, round(sqrt(share) * height))
        columns = min(max(1, round(share * height * wide / rows)), wide)
        spread = {"rows": _linear(rows, height), "columns": _linear(columns, wide)}
        return Params(zeros(key, (rows, columns, channels), jnp.float32), spread)

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "H W C"]:
        rows, columns = params.fixed["rows"], params.fixed["columns"]
        return jnp.einsum("Hh,hwc,Ww->HWc", rows, params.learnable, columns)

    return Format(init, read)


def _linear(few: int, many: int) -> Float[Array, "many few"]:
    return jax.image.resize(jnp.eye(few), (many, few), "linear", antialias=False)


class _Bottleneck(nn.Module):
    width: int
    window: int

    @nn.compact
    def __call__(self, v: Array, train: bool) -> Array:
        # A convolution of one place is a product, which XLA computes faster under vmap.
        conv = lambda width, **own: nn.Conv(width, (self.window,) * (v.ndim - 2), **own)
        layer: Any = nn.Dense if self.window == 1 else conv
        few = nn.silu(layer(self.width, name="into")(v))
        out = layer(v.shape[-1], use_bias=False, kernel_init=zeros, name="out")
        return v + out(few).astype(v.dtype)


def bottleneck(width: int, window: int = 1) -> Manipulation:
    """value + W silu(V value + b), at each place of [B *place D] or of Tokens.

    W starts at zero, where it is the bare model. A window above 1 makes convolutions of
    V and W.
    """
    net = network(_Bottleneck(width, window))

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return net.init(key, bare(value), scope)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        return on_value(lambda a: net.apply(params, a, scope), value)

    return Manipulation(init, apply)


# -- fixed


def constant(numbers: PyTree, function: Callable[[PyTree, Any], Any]) -> Manipulation:
    """function(numbers, value), whose numbers stay as they are: a fixed transform."""

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return Params(fixed=jax.tree.map(jnp.asarray, numbers))

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        return function(params.fixed, value)

    return Manipulation(init, apply)


def affine(scale: Array, shift: Array) -> Manipulation:
    """scale * value + shift by channel [D]."""

    def moved(own: PyTree, value: PyTree) -> PyTree:
        return on_value(
            lambda a: (own["scale"] * a + own["shift"]).astype(a.dtype), value
        )

    return constant({"scale": scale, "shift": shift}, moved)


def mixed(matrix: Float[Array, "D D"], shift: Float[Array, "D"]) -> Manipulation:
    """value @ matrix + shift: channels mixed, at each place alike."""

    def mix(own: PyTree, value: PyTree) -> PyTree:
        mixing = lambda a: (a @ own["matrix"] + own["shift"]).astype(a.dtype)
        return on_value(mixing, value)

    return constant({"matrix": matrix, "shift": shift}, mix)


def filtered(kernel: Float[Array, "k k"]) -> Manipulation:
    """Each channel of [B H W C] by one filter, of odd size; edges go on outside."""

    def convolved(kernel: Array, v: Float[Array, "B H W C"]) -> Array:
        side, channels = kernel.shape[0] // 2, v.shape[-1]
        wide = jnp.pad(v, ((0, 0), (side, side), (side, side), (0, 0)), "edge")
        each = jnp.tile(kernel.astype(v.dtype)[..., None, None], (1, 1, 1, channels))
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            wide,
            each,
            (1, 1),
            "VALID",
            dimension_numbers=layout,
            feature_group_count=channels,
        )

    return constant(kernel, convolved)


def substituted(table: Int[Array, "V"], kept: Float[Array, "V"]) -> Manipulation:
    """Another id for each id, by a table; those that are not kept (0) become padding.

    Positions count what is kept, so a text is read as if nothing had stood between.
    """

    def rewritten(own: PyTree, x: Tokens) -> Tokens:
        return tokens(own["table"][x.value], x.weight * own["kept"][x.value])

    return constant({"table": table, "kept": kept}, rewritten)


# -- what examples show


class Values(NamedTuple):
    """What stood at a site for some examples."""

    value: Float[Array, "N P D"]
    """P places: pixels, patches or tokens."""
    weight: Float[Array, "N P"]
    """0: padding."""

    @property
    def mean(self) -> Float[Array, "D"]:
        """Of each channel, over examples and places."""
        return self._average(self.value)

    @property
    def deviation(self) -> Float[Array, "D"]:
        """Of each channel, and at least a thousandth of the largest."""
        found = jnp.sqrt(self._average((self.value - self.mean) ** 2))
        return jnp.maximum(found, 1e-3 * found.max())

    def _average(self, value: Array) -> Array:
        return jnp.einsum("np,npd->d", self.weight, value) / self.weight.sum()

    def of(self, rows: Any) -> "Values":
        return Values(self.value[rows], self.weight[rows])


def values(value: Any) -> Values:
    """Of an array [N *place D] or Tokens of [N L D], in float32."""
    inner = jnp.asarray(bare(value), jnp.float32)
    inner = inner.reshape(len(inner), -1, inner.shape[-1])
    ones = jnp.ones(inner.shape[:2])
    return Values(inner, value.weight if isinstance(value, Tokens) else ones)


def transforms(own: Values, source: Values | None) -> dict[str, Manipulation]:
    """Fixed transforms of channels, from the moments of a task's examples.

    Args:
        source: what the model's own kind of examples shows at the same site.
    """
    mean, cov = own.mean, _covariance(own)
    axes = jnp.linalg.eigh(cov)[1][:, -max(1, len(mean) // 2) :]
    plane = axes @ axes.T
    found = {
        "contrast": affine(jnp.full(mean.shape, 1.5), -0.5 * mean),
        "principal half": mixed(plane, mean - mean @ plane),
    }
    if source is not None:
        scale = source.deviation / own.deviation
        found["moments moved to the source's"] = affine(
            scale, source.mean - scale * mean
        )
    return found


def _covariance(own: Values) -> Float[Array, "D D"]:
    off = own.value - own.mean
    return jnp.einsum("np,npd,npe->de", own.weight, off, off) / own.weight.sum()
