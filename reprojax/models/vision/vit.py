"""Vision transformers: ViT (arXiv 2010.11929), DeiT (arXiv 2012.12877), DINOv2 (arXiv
2304.07193) and its registers (arXiv 2309.16588)."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from reprojax.models.vision.layers import LayerScale, Patches, gelu, head


class Attention(nn.Module):
    """Self-attention; "query", "key" and "value" give [B L h d].

    A bias for pairs of tokens is added to the scores of each n rows of the batch.
    The softmax's sums divide after the product with the values, which saves a pass over
    [L L].
    """

    heads: int
    bias: bool = True
    key_bias: bool = True  # which changes nothing: a softmax does not see it

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], bias: Float[Array, "n h L L"] | None = None
    ) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        query, key, value = (
            nn.DenseGeneral(shape, use_bias=has_bias, name=name)(x)
            for name, has_bias in (
                ("query", self.bias),
                ("key", self.bias and self.key_bias),
                ("value", self.bias),
            )
        )
        return nn.Dense(width, name="out")(attended(query, key, value, bias))


def attended(
    query: Float[Array, "B L h d"],
    key: Float[Array, "B M h d"],
    value: Float[Array, "B M h d"],
    bias: Float[Array, "n h L L"] | None = None,
) -> Float[Array, "B L D"]:
    """The values mixed for each query, the heads side by side.

    Keys that a prompt puts in front have no bias. The softmax's sums divide after the
    product with the values, which saves a pass over [L M].
    """
    scores = jnp.einsum("blhd,bmhd->bhlm", query * query.shape[-1] ** -0.5, key)
    scores = scores.astype(jnp.float32)
    if bias is not None:
        more = key.shape[1] - query.shape[1]
        bias = jnp.pad(bias.astype(jnp.float32), (*[(0, 0)] * 3, (more, 0)))
        scores = (scores.reshape(-1, *bias.shape) + bias).reshape(scores.shape)
    # A softmax does not change with this shift, so it needs no gradient.
    top = lax.stop_gradient(scores.max(-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    mixed = jnp.einsum("bhlm,bmhd->bhld", weights.astype(value.dtype), value)
    mixed = (mixed / total).astype(query.dtype).transpose(0, 2, 1, 3)
    return mixed.reshape(*mixed.shape[:2], -1)


class MLP(nn.Module):
    """Two dense layers around the exact GELU."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B *place D"]) -> Float[Array, "B *place D"]:
        up = gelu(nn.Dense(self.hidden, name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(up)


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled if wanted, and added to its input."""

    attention: Callable[..., nn.Module]
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    layer_scale: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        parts = self.attention(name="attention"), self.mlp(name="mlp")
        for i, part in enumerate(parts, 1):
            y = part(self.norm(name=f"norm_{i}")(x))
            x = x + (LayerScale(name=f"scale_{i}")(y) if self.layer_scale else y)
        return x


class ViT(nn.Module):
    """Patches, a class token, `depth` blocks; the head reads the class token.

    With `with_mean` the head also reads the mean of the patch tokens, with `teacher`
    the distilled token; without a head, the latter gives the mean of the two tokens.
    Patches are the last tokens, so those that a prompt inserts after the class token
    change the place of none that is read. `registers` have no positions.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    classes: int
    epsilon: float = 1e-6
    layer_scale: bool = False
    with_mean: bool = False
    bias: bool = True
    registers: int = 0
    distilled: bool = False
    teacher: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = Patches(self.patch, self.width, name="patches")(x)
        patches = x.shape[1]
        x = self._with_tokens(x)
        attention = partial(Attention, self.heads, self.bias)
        mlp = partial(MLP, self.hidden)
        norm = partial(nn.LayerNorm, epsilon=self.epsilon)
        own = (attention, mlp, norm, self.layer_scale)
        for i in range(self.depth):
            x = Block(*own, name=f"block_{i}")(x)
        x = norm(name="norm")(x)
        features = x[:, 0]
        if self.with_mean:
            features = jnp.concatenate([features, x[:, -patches:].mean(1)], axis=-1)
        if self.teacher:
            other = x[:, -patches - 1]
            both = jnp.concatenate([features, other], axis=-1)
            features = both if self.classes else (features + other) / 2
        return head(self.classes)(features)

    def _with_tokens(self, x: Float[Array, "B L D"]) -> Float[Array, "B N D"]:
        """Class token, distilled token, registers, patches; positions are added."""
        batch, patches, width = x.shape
        normal = nn.initializers.normal(0.02)
        names = ["class_token", *["distilled_token"] * self.distilled]
        first = [self.param(name, normal, (1, 1, width)) for name in names]
        shape = (1, patches + len(first), width)
        positions = self.param("positions", normal, shape)
        first = jnp.concatenate(first, axis=1) + positions[:, : len(first)]
        if self.registers:
            shape = (1, self.registers, width)
            registers = self.param("registers", normal, shape)
            first = jnp.concatenate([first, registers], axis=1)
        first = jnp.broadcast_to(first, (batch, *first.shape[1:]))
        return jnp.concatenate([first, x + positions[:, -patches:]], axis=1)


def refuse_size(size: int, patch: int) -> None:
    """Raise unless patches fill an image."""
    if size % patch:
        raise ValueError(
            f"got size {size} for patches of {patch} pixels, expected a multiple; call "
            "load(..., size=...)"
        )


def roles(depth: int) -> dict[str, tuple[str, ...]]:
    """{role: sites} of a `ViT`."""
    each = lambda end: tuple(f"block_{i}{end}" for i in range(depth))
    return {
        "input": ("input", "normalized"),
        "embedding": ("block_0:in",),
        "blocks": each(":in"),
        "keys": each("/attention/key:out"),
        "values": each("/attention/value:out"),
        "patches": ("patches:out",),
        "tokens": ("norm:out",),
        "features": ("head:in",),
    }
