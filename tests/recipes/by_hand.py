"""The recipes' arithmetic a second time: NumPy alone, written from the papers."""

from functools import cache

import backbones
import jax
import numpy as np

from reprojax.core import Params
from reprojax.taps import record


def resized(x: np.ndarray, size: int) -> np.ndarray:
    """uint8 [B h w C] as RGB [B size size 3] in [0, 1]: triangles, antialiased."""
    rows, columns = (_triangles(n, size) for n in x.shape[1:3])
    x = np.einsum("ai,bj,nijc->nabc", rows, columns, x / 255.0)
    return np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x


def _triangles(old: int, new: int) -> np.ndarray:
    """[new old]: how much each old pixel weighs in each new one."""
    wide = max(old / new, 1.0)
    weights = np.zeros((new, old))
    for i in range(new):
        middle = (i + 0.5) * old / new - 0.5
        for j in range(old):
            weights[i, j] = max(0.0, 1 - abs(middle - j) / wide)
    return weights / weights.sum(1, keepdims=True)


def normalised(x: np.ndarray) -> np.ndarray:
    return (x - np.array(backbones.MEAN)) / np.array(backbones.STD)


def framed(image: np.ndarray, prompt: np.ndarray, before: int) -> np.ndarray:
    """[B h w 3] inside a prompt [H W 3], `before` pixels from the top and the left."""
    out = np.repeat(prompt[None], len(image), axis=0).copy()
    side = image.shape[1]
    out[:, before : before + side, before : before + side] = image
    return out


@cache
def _logits():
    return jax.jit(backbones.residual_net().apply)


def logits(normal: np.ndarray) -> np.ndarray:
    """What the tiny residual net says to pixels that are normalised already."""
    frozen = backbones.convolutional().frozen
    return np.asarray(_logits()(frozen, normal.astype(np.float32)))


def log_softmax(y: np.ndarray) -> np.ndarray:
    y = y - y.max(-1, keepdims=True)
    return y - np.log(np.exp(y).sum(-1, keepdims=True))


def features(normal: np.ndarray) -> np.ndarray:
    """What its head is given: the same net without one."""
    frozen = backbones.convolutional().frozen["params"]
    body = {"params": {name: v for name, v in frozen.items() if name != "head"}}
    net = backbones.residual_net(classes=0)
    return np.asarray(jax.jit(net.apply)(body, normal.astype(np.float32)))


def drawn(params: Params, seed: int = 0) -> Params:
    """The params with random numbers in every leaf: nothing is neutral by chance."""
    random = np.random.default_rng(seed)
    draw = lambda a: random.normal(size=a.shape).astype(np.float32)
    return jax.tree.map(draw, params)


@cache
def _recorded(program):
    return jax.jit(record(program.apply, ["normalized"]))


def run(program, params, frozen, x, key=None):
    """(pixels that the network is given, the program's answer)."""
    y, seen = _recorded(program)(params, frozen, x, key=key)
    return np.asarray(seen["normalized"]), np.asarray(y)


def close(a, b) -> bool:
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-4, atol=1e-4)


def numbers(tree) -> int:
    """How many a tree of arrays, or of their shapes, holds."""
    return sum(int(np.prod(a.shape)) for a in jax.tree.leaves(tree))


def planned(program, size: int = 224) -> Params:
    """The shapes of a program's params on images of that size, without any work."""
    x = jax.ShapeDtypeStruct((2, size, size, 3), "uint8")
    backbone = backbones.convolutional(size)
    return jax.eval_shape(program.init, jax.random.key(0), backbone.frozen, x)
