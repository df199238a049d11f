"""Tiny frozen models for tests. None of them knows of reprogramming."""

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import Tokens, passthrough
from reprojax.locations import linen


class Block(nn.Module):
    """A transformer's block, [B L D] -> [B L D]."""

    @nn.compact
    def __call__(self, x):
        h = nn.LayerNorm(name="norm_1")(x)
        q, k, v = (nn.Dense(x.shape[-1], name=name)(h) for name in "qkv")
        weight = nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5)
        x = x + nn.Dense(x.shape[-1], name="out")(weight @ v)
        h = nn.Dense(2 * x.shape[-1], name="up")(nn.LayerNorm(name="norm_2")(x))
        return x + nn.Dense(x.shape[-1], name="down")(nn.gelu(h))


class ViT(nn.Module):
    """Images [B 16 16 3] -> 10 classes: four patches and a class token of width 16."""

    width: int = 16
    depth: int = 2
    classes: int = 10
    block: Any = Block

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (8, 8), (8, 8), name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.repeat(cls, len(x), 0), x], 1)
        x = x + self.param("position", nn.initializers.zeros, (1, 5, self.width))
        for i in range(self.depth):
            x = self.block(name=f"block_{i}")(x)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="norm")(x)[:, 0])


class Embedder(nn.Module):
    """Ids [B L] -> logits [B 30]: an embedding, a block, the mean over the tokens."""

    @nn.compact
    def __call__(self, ids):
        x = Block(name="block_0")(nn.Embed(30, 8, name="embed")(ids))
        return nn.Dense(30, name="head")(x.mean(1))


def weights(module: nn.Module, x: Any) -> Any:
    """Random weights for every leaf, zeros nowhere: nothing is neutral by chance."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path)
        random = np.random.default_rng(zlib.crc32(name.encode()))
        fan = np.prod(leaf.shape[:-1]) if leaf.ndim > 1 else 16
        value = random.normal(size=leaf.shape) / fan**0.5
        return jnp.asarray(value + name.endswith("['scale']"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


IMAGES = jnp.asarray(np.random.default_rng(1).uniform(size=(4, 16, 16, 3)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 1])
IDS = jnp.asarray(np.random.default_rng(2).integers(0, 30, (4, 6)))

VIT, VIT_FROZEN = linen(ViT()), weights(ViT(), IMAGES)
TEXT, TEXT_FROZEN = linen(Embedder()), weights(Embedder(), IDS)


def mixer(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
    """Images [B 16 16 3] -> 10 classes, with sites of VIT by hand: quick to trace."""
    x = edit("input", x)
    patches = x.reshape(len(x), 2, 8, 2, 8, 3).swapaxes(2, 3).reshape(len(x), 4, -1)
    x = edit("block_0:in", patches @ frozen["patches"])
    x = edit("block_0:out", jnp.tanh(x + x.mean(1, keepdims=True) @ frozen["mix"]))
    x = edit("block_1:in", x)
    x = edit("block_1:out", jnp.tanh(x + x.mean(1, keepdims=True) @ frozen["mix"]))
    return edit("output", edit("head:in", x.mean(1)) @ frozen["head"])


def _normal(seed: int, *shape: int) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=shape) / shape[0] ** 0.5
    return jnp.asarray(values, jnp.float32)


MIXER_FROZEN = {
    "patches": _normal(8, 192, 12),
    "mix": _normal(9, 12, 12),
    "head": _normal(10, 12, 10),
}


def table(frozen: Any) -> jax.Array:
    """The embedding table of TEXT."""
    return frozen["params"]["embed"]["embedding"]


def dense(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
    """[B 6] -> [B 5] by two layers, with its sites by hand: the cheapest forward."""
    h = edit("hidden", jnp.tanh(edit("input", x) @ frozen["a"]))
    return edit("output", h @ frozen["b"])


ROWS = _normal(3, 4, 6)
DENSE_FROZEN = {"a": _normal(4, 6, 7), "b": _normal(5, 7, 5)}


def decoder(frozen: Any, x: Tokens, edit: Any = passthrough) -> Tokens:
    """Tokens of ids [B L] -> Tokens of logits [B L 30]: one causal layer of attention.

    Who sees whom is a matter of position and weight alone, never of the index.
    """
    x = edit("input", x)
    x = edit("embed:out", x._replace(value=frozen["embed"][x.value]))
    h = x.value + jnp.sin(x.position[..., None] / 2.0 ** jnp.arange(8))
    before = x.position[:, None, :] <= x.position[:, :, None]
    score = h @ frozen["mix"] @ h.swapaxes(1, 2) + jnp.log(x.weight)[:, None, :]
    h = h + nn.softmax(jnp.where(before, jnp.maximum(score, -1e9), -1e9)) @ h
    x = edit("hidden", x._replace(value=jnp.tanh(h)))
    return edit("output", x._replace(value=x.value @ frozen["embed"].T))


DECODER_FROZEN = {"embed": 3 * _normal(6, 30, 8), "mix": _normal(7, 8, 8)}
