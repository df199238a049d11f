"""A card of a pair of tiny frozen towers, images and the names of their classes."""

import jax
import jax.numpy as jnp
import numpy as np

from reprojax import data
from reprojax.core import passthrough
from reprojax.models import Arrays, card

WIDTHS, JOINT, NAMES = {"image": 12, "text": 8}, 6, 3


def normal(seed, *shape):
    values = np.random.default_rng(seed).normal(size=shape) / shape[0] ** 0.5
    return jnp.asarray(values, jnp.float32)


def block(x, frozen, causal):
    """[B L D]: attention with a matrix for its scores, and one behind it."""
    score = jnp.einsum("bld,de,bme->blm", x, frozen["mix"], x)
    seen = jnp.tri(x.shape[1], dtype=bool) if causal else True
    weight = jax.nn.softmax(jnp.where(seen, score, -jnp.inf))
    return jnp.tanh(x + weight @ x @ frozen["out"])


def pair(frozen, x, edit=passthrough):
    """Patches [B 4 5] of images -> how near they are to each name [B T].

    The names [T L] are ids in the frozen tree: with them the pair is a classifier.
    """
    patches = edit("input", x) @ frozen["patches"]
    cls = jnp.broadcast_to(frozen["cls"], (len(patches), 1, WIDTHS["image"]))
    image = jnp.concatenate([cls, patches], 1)
    for i in (0, 1):
        image = edit(f"image/block_{i}:in", image)
        image = block(image, frozen["image"][i], causal=False)
    text = edit("text/embed:out", frozen["embed"][frozen["names"]])
    text = text + frozen["positions"][: text.shape[1]]
    for i in (0, 1):
        text = edit(f"text/block_{i}:in", text)
        text = block(text, frozen["text"][i], causal=True)
    image = edit("image/features", image[:, 0] @ frozen["to_joint"]["image"])
    text = edit("text/features", text[:, -1] @ frozen["to_joint"]["text"])
    unit = lambda v: v / jnp.linalg.norm(v, axis=-1, keepdims=True)
    return edit("output", 5 * unit(image) @ unit(text).T)


def _blocks(seed, width):
    draw = lambda i: normal(i, width, width)
    return [{"mix": draw(i), "out": draw(i + 1)} for i in (seed, seed + 2)]


PAIR = card(
    pair,
    {
        "patches": normal(40, 5, WIDTHS["image"]),
        "cls": normal(41, 1, WIDTHS["image"]),
        "embed": 3 * normal(42, 30, WIDTHS["text"]),
        "positions": normal(43, 16, WIDTHS["text"]),
        "names": jnp.array([[1, 7, 4, 2], [1, 9, 4, 2], [1, 11, 5, 2]]),
        "image": _blocks(44, WIDTHS["image"]),
        "text": _blocks(48, WIDTHS["text"]),
        "to_joint": {k: normal(52 + d, d, JOINT) for k, d in WIDTHS.items()},
    },
    name="pair",
    input=Arrays(jax.ShapeDtypeStruct((1, 4, 5), jnp.float32)),
    features="image/features",
    embedding=["text/embed:out", "image/block_0:in"],
    text=["text/embed:out", "text/block_1:in"],
    image=["image/block_*:in"],
)


def shapes(count=24, seed=0):
    """Patches [N 4 5], brighter in a column of their class."""
    draw = np.random.default_rng(seed)
    y = np.arange(count) % NAMES
    x = draw.normal(size=(count, 4, 5)) + 2 * (np.arange(5) == y[:, None])[:, None]
    own = {"holds": "patches", "validation": 6, "test": 6, "name": "shapes"}
    return data.from_arrays(x.astype(np.float32), y, list("abc"), **own)


def embedded():
    """The vectors of the names [T L D], before their positions."""
    return PAIR.frozen["embed"][PAIR.frozen["names"]]


def through(x, kind, at=lambda i, x: x):
    """Rows [L D] of one text or image through a tower to its unit vector.

    Args:
        at: (i, rows) -> rows, what is done before block i.
    """
    frozen = PAIR.frozen
    for i in (0, 1):
        x = at(i, x)
        mix, out = (frozen[kind][i][name] for name in ("mix", "out"))
        weight = jnp.exp(x @ mix @ x.T)
        weight = weight * np.tri(len(x)) if kind == "text" else weight
        x = jnp.tanh(x + (weight / weight.sum(1)[:, None]) @ x @ out)
    end = x[-1] if kind == "text" else x[0]
    v = end @ frozen["to_joint"][kind]
    return v / jnp.sqrt((v**2).sum())


def placed(text):
    """Vectors [L D] of a text with their positions."""
    return text + PAIR.frozen["positions"][: len(text)]


def seen(x):
    """What enters the image tower's first block [5 D], of one image's patches."""
    return jnp.concatenate([PAIR.frozen["cls"], x @ PAIR.frozen["patches"]])
