"""The recipes' arithmetic a second time: NumPy alone, written from the papers."""

import math
from functools import cache

import backbones
import jax
import numpy as np

from reprojax.core import Params, record


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


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2


def doubled(x, kernel):
    """Each channel its own 2 x 2 square; with more channels, several squares of it."""
    B, h, w, C = x.shape
    out = np.zeros((B, 2 * h, 2 * w, C * kernel.shape[-1]))
    for i in range(2):
        for j in range(2):
            for c in range(C):
                for m in range(kernel.shape[-1]):
                    out[:, i::2, j::2, c * kernel.shape[-1] + m] = (
                        x[..., c] * kernel[i, j, c, m]
                    )
    return out


def black_vip_prompt(features, weights, statistics=None):
    """[B 16] -> [B 16 16 3]: a map of 4 x 4 x 32, doubled twice.

    Without stored statistics the batch's own, as in training.
    """
    trigger = np.repeat(weights["trigger"][None], len(features), 0)
    cube = np.concatenate([features, trigger], 1).reshape(-1, 32, 4, 4)
    x = np.moveaxis(cube, 1, -1)
    first, last = weights["Double_0"], weights["Double_1"]
    x = doubled(x, first["kernel"]) + first["bias"]
    x = x @ weights["Dense_0"]["kernel"]
    norm, seen = weights["BatchNorm_0"], {"mean": x.mean((0, 1, 2))}
    seen["var"] = x.var((0, 1, 2))
    seen = statistics["BatchNorm_0"] if statistics else seen
    x = (x - seen["mean"]) / np.sqrt(seen["var"] + 1e-5)
    x = gelu(x * norm["scale"] + norm["bias"])
    out = np.zeros((len(x), 16, 16, 3))
    for i in range(2):
        for j in range(2):
            out[:, i::2, j::2] = x @ last["kernel"][i, j]
    return out


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
