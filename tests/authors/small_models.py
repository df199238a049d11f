"""Cards of the tiny frozen models that methods of any author are tried on."""

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import toys

from reprojax import data
from reprojax.core import passthrough
from reprojax.models import Arrays, Pixels, Series, card

NET = card(
    fitting.Net(),
    fitting.FROZEN,
    name="net",
    input=Pixels(8, tuple(fitting.MEAN.tolist()), tuple(fitting.STD.tolist())),
    features="head:in",
)


@jax.jit
def net_logits(x):
    """Of normalised images [B 8 8 3], without the library."""
    return fitting.Net().apply(fitting.FROZEN, x)


MIXER = card(
    toys.mixer,
    toys.MIXER_FROZEN,
    name="mixer",
    input=Pixels(16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
    features="head:in",
    blocks="block_*:in",
)


@jax.jit
def patches(x):
    """What enters the mixer's first block [B 4 12], of pixels in [0, 1]."""
    x = (x - np.float32(MIXER.input.mean)) / np.float32(MIXER.input.std)
    rows = [x[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for i in (0, 1) for j in (0, 1)]
    return jnp.stack([r.reshape(len(x), -1) for r in rows], 1) @ MIXER.frozen["patches"]


@jax.jit
def blocks(x):
    """What the mixer's second block puts out of [B L 12], without the library."""
    for _ in range(2):
        x = jnp.tanh(x + x.mean(1, keepdims=True) @ MIXER.frozen["mix"])
    return x


def pictures(count=24, side=16, classes=3, seed=0):
    """A task of images that are brighter in a channel of their class."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % classes
    x = draw.uniform(0, 0.6, (count, side, side, 3))
    x += 0.4 * (np.arange(3) == y[:, None] % 3)[:, None, None]
    return data.from_arrays(x, y, list("abc"), validation=6, test=6, name="pictures")


def _normal(seed, *shape):
    values = np.random.default_rng(seed).normal(size=shape) / shape[0] ** 0.5
    return jnp.asarray(values, jnp.float32)


def wave(frozen, x, edit=passthrough):
    """A waveform [B 32 1] -> 12 classes, by frames of 8 samples."""
    frames = edit("input", x).reshape(len(x), 4, 8)
    h = edit("frames", jnp.tanh(frames @ frozen["frames"]))
    return edit("output", jnp.tanh(h.mean(1)) @ frozen["head"])


WAVE = card(
    wave,
    {"frames": 2 * _normal(1, 8, 16), "head": 4 * _normal(2, 16, 12)},
    name="wave",
    input=Series(32, rate=16000.0),
)


@jax.jit
def wave_logits(x):
    h = jnp.stack([jnp.tanh(x[:, i : i + 8, 0] @ WAVE.frozen["frames"])
                   for i in range(0, 32, 8)])  # fmt: skip
    return jnp.tanh(h.sum(0) / 4) @ WAVE.frozen["head"]


def gin(frozen, x, edit=passthrough):
    """Graphs {"nodes" [B n F], "edges" [B n n], "real" [B n]} -> sums of nodes [B D].

    A graph isomorphism net (arXiv 1810.00826) of two layers, epsilon .1.
    """
    x = edit("input", x)
    h = edit("nodes", x["nodes"])
    for layer in ("first", "second"):
        near = 1.1 * h + x["edges"] @ h
        h = edit(layer, jax.nn.relu(near @ frozen[layer]))
    return edit("output", (h * x["real"][..., None]).sum(1))


_GRAPH = {"nodes": (1, 6, 4), "edges": (1, 6, 6), "real": (1, 6)}
GIN = card(
    gin,
    {"first": _normal(3, 4, 8), "second": _normal(4, 8, 8)},
    name="gin",
    input=Arrays({k: jax.ShapeDtypeStruct(s, "float32") for k, s in _GRAPH.items()}),
    nodes="nodes",
)


def pair(frozen, x, edit=passthrough):
    """Pixels, normalised [B 16 16 3] -> 10 x cosines with the names of three classes.

    Names are ids of three words; their vectors [3 3 6] are the site "words".
    """
    x = edit("input", x)
    seen = jnp.tanh(x.reshape(len(x), -1) @ frozen["image"])
    words = edit("words", frozen["embed"][frozen["names"]])
    told = jnp.tanh(words @ frozen["mix"]).mean(1) @ frozen["text"]
    unit = lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    return edit("output", 10 * unit(seen) @ unit(told).T)


PAIR = card(
    pair,
    {
        "image": _normal(5, 768, 8),
        "embed": 2 * _normal(6, 9, 6),
        "names": jnp.array([[0, 3, 1], [0, 4, 1], [0, 5, 1]]),
        "mix": _normal(7, 6, 6),
        "text": _normal(8, 6, 8),
    },
    name="pair",
    input=MIXER.input,
    words="words",
)


@jax.jit
def pair_logits(x, prompt):
    """Of pixels in [0, 1] and a prompt [P 6] behind the first word of each name."""
    frozen, out = PAIR.frozen, []
    x = (x - np.float32(PAIR.input.mean)) / np.float32(PAIR.input.std)
    table = frozen["image"].reshape(16, 16, 3, 8)
    seen = jnp.tanh(jnp.einsum("bhwc,hwcd->bd", x, table))
    for first, *rest in frozen["embed"][frozen["names"]]:
        words = jnp.stack([first, *prompt, *rest])
        told = jnp.tanh(words @ frozen["mix"]).sum(0) / len(words) @ frozen["text"]
        length = jnp.sqrt((told**2).sum() * (seen**2).sum(1))
        out.append(10 * (seen * told).sum(1) / length)
    return jnp.stack(out, 1)


def inner(frozen, x, edit=passthrough):
    """[B 5] -> [B 8], by a layer whose activations are the site "inner"."""
    h = edit("inner", jnp.tanh(edit("input", x) @ frozen["in"]))
    return edit("output", jnp.tanh(h @ frozen["out"]))


INNER = card(
    inner,
    {"in": _normal(9, 5, 8), "out": _normal(10, 8, 8)},
    name="inner",
    input=Arrays(jax.ShapeDtypeStruct((1, 5), "float32")),
    inner="inner",
)
