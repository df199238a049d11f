"""The tiny vision transformer of `backbones` twice more: in nnx, and as a function."""

import jax
import jax.numpy as jnp
from flax import nnx as flax_nnx
from jax.nn.initializers import normal

from reprojax.core import passthrough


class Attention(flax_nnx.Module):
    def __init__(self, width, heads, rngs):
        shape = (heads, width // heads)
        for name in ("query", "key", "value"):
            setattr(self, name, flax_nnx.LinearGeneral(width, shape, rngs=rngs))
        self.out = flax_nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x):
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = jnp.einsum("blhd,bmhd->bhlm", q, k) / q.shape[-1] ** 0.5
        mixed = jnp.einsum("bhlm,bmhd->blhd", jax.nn.softmax(scores), v)
        return self.out(mixed.reshape(x.shape))


class MLP(flax_nnx.Module):
    def __init__(self, width, hidden, rngs):
        self.up = flax_nnx.Linear(width, hidden, rngs=rngs)
        self.down = flax_nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, x):
        return self.down(jax.nn.gelu(self.up(x), approximate=False))


class Block(flax_nnx.Module):
    def __init__(self, width, heads, hidden, rngs):
        self.norm_1 = flax_nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs)
        self.norm_2 = flax_nnx.LayerNorm(width, rngs=rngs)
        self.mlp = MLP(width, hidden, rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm_1(x))
        return x + self.mlp(self.norm_2(x))


class Patches(flax_nnx.Module):
    def __init__(self, patch, width, rngs):
        shape = (patch, patch, 3, width)
        self.kernel = flax_nnx.Param(normal()(rngs.params(), shape))
        self.bias = flax_nnx.Param(jnp.zeros(width))

    def __call__(self, x):
        step = self.kernel.shape[:2]
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, self.kernel[...], step, "VALID", dimension_numbers=layout
        )
        return x.reshape(len(x), -1, x.shape[-1]) + self.bias[...]


class ViT(flax_nnx.Module):
    def __init__(self, patch, width, depth, heads, hidden, classes, rngs):
        self.patches = Patches(patch, width, rngs)
        tokens = (16 // patch) ** 2 + 1
        self.class_token = flax_nnx.Param(jnp.zeros((1, 1, width)))
        self.positions = flax_nnx.Param(jnp.zeros((1, tokens, width)))
        for i in range(depth):
            setattr(self, f"block_{i}", Block(width, heads, hidden, rngs))
        self.norm = flax_nnx.LayerNorm(width, rngs=rngs)
        self.head = flax_nnx.Linear(width, classes, rngs=rngs)
        self.depth = depth

    def __call__(self, x):
        x = self.patches(x)
        token = jnp.repeat(self.class_token[...], len(x), 0)
        x = jnp.concatenate([token, x], 1) + self.positions[...]
        for i in range(self.depth):
            x = getattr(self, f"block_{i}")(x)
        return self.head(self.norm(x)[:, 0])


def function(frozen, x, edit=passthrough):
    """The same, written down: pixels normalised already [B 16 16 3] -> logits."""
    p = frozen["params"]

    def norm(x, own):
        x = x - x.mean(-1, keepdims=True)
        x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * own["scale"] + own["bias"]

    def dense(x, own):
        return x @ own["kernel"] + own["bias"]

    def heads(x, own):
        return jnp.einsum("bld,dhk->bhlk", x, own["kernel"]) + own["bias"][:, None]

    def attention(x, own):
        q, k, v = (heads(x, own[name]) for name in ("query", "key", "value"))
        weights = jax.nn.softmax(q @ k.swapaxes(2, 3) / q.shape[-1] ** 0.5)
        mixed = (weights @ v).swapaxes(1, 2)
        return dense(mixed.reshape(x.shape), own["out"])

    x = edit("input", x)
    side = p["patches"]["kernel"].shape[0]
    cut = x.reshape(len(x), 16 // side, side, 16 // side, side, 3)
    cut = cut.swapaxes(2, 3).reshape(len(x), (16 // side) ** 2, -1)
    x = cut @ p["patches"]["kernel"].reshape(cut.shape[-1], -1) + p["patches"]["bias"]
    token = jnp.repeat(p["class_token"], len(x), 0)
    x = jnp.concatenate([token, x], 1) + p["positions"]
    for i in range(sum(name.startswith("block_") for name in p)):
        own = p[f"block_{i}"]
        x = edit(f"block_{i}:in", x)
        x = x + attention(norm(x, own["norm_1"]), own["attention"])
        up = dense(norm(x, own["norm_2"]), own["mlp"]["up"])
        x = x + dense(jax.nn.gelu(up, approximate=False), own["mlp"]["down"])
    x = edit("head:in", norm(x, p["norm"])[:, 0])
    return edit("output", dense(x, p["head"]))
