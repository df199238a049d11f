"""Layers over `Tokens`: attention depends on position and weight, not on the index."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import PyTree, Tokens, on_value

ACTIVATIONS: dict[str, Callable] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
HIDDEN = -1e9  # not -inf: a row that attends to nothing stays finite


def attend(
    query: Float[Array, "B L H d"],
    kv: Tokens,
    position: Int[Array, "B L"],
    causal: bool = True,
    window: int | None = None,
) -> Float[Array, "B L H d"]:
    """Attention to keys and values [B M h d], where h divides H (grouped queries).

    The queries of a group form one matrix, and sums are in float32: on a CPU this takes
    half the time of `jax.nn.dot_product_attention`.

    Args:
        kv: a pair. A key of weight 0 is masked, one of weight w counts w times.
        position: of the queries; a causal query attends to keys up to its position.
        window: how many positions back a query attends to, itself included.
    """
    seen = (kv.weight > 0)[:, None, :]
    if causal:
        back = position[:, :, None] - kv.position[:, None, :]
        seen = seen & (back >= 0)
        if window is not None:
            seen = seen & (back < window)
    # Adding log w to a score multiplies its exponential by w.
    log = jnp.log(jnp.where(kv.weight > 0, kv.weight, 1.0))[:, None, :]
    bias = jnp.where(seen, log, HIDDEN)[:, None]
    rows, length, heads, size = query.shape
    many, groups = kv.value[0].shape[1:3]
    own = (rows, groups, heads // groups, length)  # spelt out: -1 fails for 0 tokens
    grouped = query.reshape(rows, length, *own[1:3], size).transpose(0, 2, 3, 1, 4)
    grouped = grouped.reshape(rows * groups, own[2] * length, size)
    key, value = (a.swapaxes(1, 2).reshape(rows * groups, many, size) for a in kv.value)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    product = partial(jnp.einsum, preferred_element_type=wide)
    score = product("nqd,nmd->nqm", grouped, key).reshape(rows, heads, length, many)
    share = jax.nn.softmax(score * size**-0.5 + bias).astype(value.dtype)
    share = share.reshape(*grouped.shape[:2], many)
    mixed = product("nqm,nmd->nqd", share, value).astype(query.dtype)
    return mixed.reshape(*own, size).transpose(0, 3, 1, 2, 4).reshape(query.shape)


def rotated(
    x: Float[Array, "B L H d"],
    position: Int[Array, "B L"],
    frequencies: tuple[float, ...],
) -> Float[Array, "B L H d"]:
    """Rotary embedding (arXiv 2104.09864) of the pairs (i, i + d / 2)."""
    angle = position[..., None, None] * jnp.asarray(frequencies, jnp.float32)
    cos, sin = (f(angle).astype(x.dtype) for f in (jnp.cos, jnp.sin))
    left, right = jnp.split(x, 2, axis=-1)
    turned = [left * cos - right * sin, right * cos + left * sin]
    return jnp.concatenate(turned, axis=-1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def halves(x: Array, kernel: Array, axis: int) -> Array:
    """x [*B K] times a bfloat16 kernel over one of its axes, summed in float32.

    On a CPU XLA casts both to float32 unless the float32 sum is requested: then the
    bfloat16 units (AMX) compute it, five times as fast. JAX would compute gradients in
    the type of the sum and lose this in the backward pass, hence the custom VJP. There
    are no forward-mode derivatives.
    """
    # one row is a slow loop on a CPU, two rows are a matrix product
    lone = x.size == x.shape[-1]
    rows = jnp.concatenate([x, x * 0]) if lone else x
    return _summed(rows, kernel, [x.ndim - 1], [axis])[: len(x)]


def _summed(a: Array, b: Array, left: Sequence[int], right: Sequence[int]) -> Array:
    axes = tuple(left), tuple(right)
    y = jnp.tensordot(a, b, axes, preferred_element_type=jnp.float32)
    return y.astype(jnp.bfloat16)


def _halves(x: Array, kernel: Array, axis: int) -> tuple[Array, tuple[Array, Array]]:
    return halves(x, kernel, axis), (x, kernel)


def _slopes(axis: int, kept: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = kept
    rows = range(x.ndim - 1)
    others = [i for i in range(kernel.ndim) if i != axis]
    by_x = _summed(g, kernel, range(len(rows), g.ndim), others)
    by_kernel = jnp.moveaxis(_summed(x, g, rows, rows), 0, axis)
    return by_x, by_kernel


halves.defvjp(_halves, _slopes)


def dot(
    x: Array, kernel: Array, dimensions: Any, precision: Any = None, **kw: Any
) -> Array:
    """`jax.lax.dot_general` for linen's dense layers; by `halves` for bfloat16."""
    ((_, (axis,)), _) = dimensions
    if x.dtype == kernel.dtype == jnp.bfloat16:
        return halves(x, kernel, axis)
    return jax.lax.dot_general(x, kernel, dimensions, precision, **kw)


Dense = partial(nn.Dense, dot_general=dot)


def by_table(x: Float[Array, "B L D"], table: Float[Array, "V D"]) -> Array:
    """Logits as products with the rows of an embedding."""
    return dot(x, table, (((2,), (1,)), ((), ())))


class Place(nn.Module):
    """The identity; it gives a value a site."""

    def __call__(self, x: Any) -> Any:
        return x


def rows_of(table: Float[Array, "N D"], ids: Int[Array, "B L"]) -> Array:
    """Rows of a table; NaN for ids outside it, including negative ones."""
    return table.at[ids].get(mode="fill", wrap_negative_indices=False)


def table_at(frozen: PyTree, site: str) -> Float[Array, "V D"]:
    """The table of the `Embed` whose output is the site, read where linen keeps it.

    For parts that act within the model's own call, from which it cannot be called.
    """
    path = ["params", *site.partition(":")[0].split("/"), "embedding"]
    found: Any = frozen
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    if getattr(found, "ndim", None) != 2:
        raise ValueError(
            f"the frozen tree has no table at {'/'.join(path)}, expected a vector for "
            "each word; make these with a flax.linen.Embed"
        )
    return found


class Embed(nn.Module):
    """Ids to vectors. An id outside the table gives NaN, not another row."""

    size: int
    width: int

    def setup(self):
        init = nn.initializers.normal(0.02)
        self.embedding = self.param("embedding", init, (self.size, self.width))

    def __call__(self, x: Tokens) -> Tokens:
        return on_value(lambda ids: rows_of(self.embedding, ids), x)


class Positions(nn.Module):
    """Adds a learned vector for each position; NaN outside the table, as in `Embed`."""

    size: int
    offset: int = 0

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        init = nn.initializers.normal(0.02)
        shape = (self.size + self.offset, x.value.shape[-1])
        table = self.param("embedding", init, shape)
        return on_value(lambda h: h + rows_of(table, x.position + self.offset), x)


class Heads(NamedTuple):
    """The settings of attention."""

    heads: int
    kv_heads: int
    """Fewer than `heads` if queries are grouped."""
    size: int
    bias: bool = True
    """Biases of queries, keys and values."""
    out_bias: bool = True
    causal: bool = True
    frequencies: tuple[float, ...] = ()
    """Of the rotation, in radians a position; () if positions are learned."""
    norm: float | None = None
    """The epsilon of an RMS norm of each query and key (Qwen3)."""
    window: int | None = None


class Attention(nn.Module):
    """Self-attention; the site "kv" has the keys and values.

    Keys pass "kv" after their rotation, so that a cache can store them unchanged.
    """

    of: Heads

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "B L D"]:
        of = self.of

        def heads(name: str, count: int) -> Array:
            shape = (count, of.size)
            dense = nn.DenseGeneral(shape, use_bias=of.bias, dot_general=dot, name=name)
            return dense(x.value)

        query = heads("query", of.heads)
        key, value = heads("key", of.kv_heads), heads("value", of.kv_heads)
        if of.norm is not None:
            query = nn.RMSNorm(of.norm, name="query_norm")(query)
            key = nn.RMSNorm(of.norm, name="key_norm")(key)
        if of.frequencies:
            query = rotated(query, x.position, of.frequencies)
            key = rotated(key, x.position, of.frequencies)
        kv = Place(name="kv")(x._replace(value=(key, value)))
        mixed = attend(query, kv, x.position, of.causal, of.window)
        out = Dense(x.value.shape[-1], use_bias=of.out_bias, name="out")
        return out(mixed.reshape(*x.value.shape[:2], of.heads * of.size))


class MLP(nn.Module):
    """Two dense layers around an activation."""

    hidden: int
    activation: str

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        up = ACTIVATIONS[self.activation](Dense(self.hidden, name="up")(x))
        return Dense(x.shape[-1], name="down")(up)


class Head(nn.Module):
    """Vectors to logits, by the embedding's table if one is given."""

    vocabulary: int

    @nn.compact
    def __call__(self, x: Tokens, table: Float[Array, "V D"] | None = None) -> Tokens:
        if table is not None:
            return on_value(lambda h: by_table(h, table), x)
        dense = Dense(self.vocabulary, use_bias=False, name="words")
        return on_value(dense, x)


def norm(epsilon: float, name: str) -> nn.LayerNorm:
    """Layer norm with the exact variance, because real activations have outliers."""
    return nn.LayerNorm(epsilon=epsilon, use_fast_variance=False, name=name)


def check_positions(x: Tokens, size: int) -> Tokens:
    """Raise if there are more tokens, padding included, than positions."""
    length = x.weight.shape[1]
    if length > size:
        raise ValueError(
            f"got {length} tokens for a model that has {size} positions, expected "
            "no more, prompts and padding included; shorten the text or the prompt, or "
            "pad less"
        )
    return x
