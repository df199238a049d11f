"""A card of a tiny frozen decoder, and texts of several tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import toys

from reprojax import data
from reprojax.core import passthrough, tokens
from reprojax.models import Model
from reprojax.models.language import Words

ROLES = {"input": ("input",), "embedding": ("embed:out",), "features": ("hidden",)}
WORDS = Model(
    "decoder", toys.decoder, toys.DECODER_FROZEN, Words("causal", 30, 64), ROLES
)
LABELS = [1, 2]
"""The words that stand for two classes."""


def states(vectors):
    """What the decoder's layer makes of vectors [L D], without the library."""
    mix = np.asarray(WORDS.frozen["mix"])
    length, width = vectors.shape
    h = vectors + jnp.sin(jnp.arange(length)[:, None] / 2.0 ** jnp.arange(width))
    score = jnp.where(jnp.tri(length, dtype=bool), h @ mix @ h.T, -jnp.inf)
    return jnp.tanh(h + jax.nn.softmax(score) @ h)


def judged(states):
    """Logits [2] of the label words behind the last of states [L D]."""
    return states[-1] @ WORDS.frozen["embed"][jnp.array(LABELS)].T


def texts(count=24, length=5, tasks=3, seed=0):
    """Words [N L]; task k: is word k odd? The context is the tasks [N], if several."""
    ids = np.random.default_rng(seed).integers(3, 30, (count, length))
    task = (np.arange(count) % tasks).astype(np.int32)
    y = ids[np.arange(count), task] % 2
    x = jax.tree.map(np.asarray, tokens(jnp.asarray(ids, jnp.int32)))
    task = task if tasks > 1 else None
    own = {"holds": "words", "context": task, "validation": 6, "test": 6}
    return data.from_arrays(x, y, ["even", "odd"], name="texts", **own)


MIXES = np.random.default_rng(60).normal(size=(3, 8, 8)).astype(np.float32) / 3


def layered(frozen, x, edit=passthrough):
    """Tokens of ids -> Tokens of logits: three causal layers."""
    x = edit("input", x)
    x = edit("embed:out", x._replace(value=frozen["embed"][x.value]))
    h = x.value + jnp.sin(x.position[..., None] / 2.0 ** jnp.arange(8))
    before = x.position[:, None, :] <= x.position[:, :, None]
    seen = before & (x.weight > 0)[:, None, :]
    for i, mix in enumerate(frozen["mixes"]):
        h = edit(f"block_{i}:in", x._replace(value=h)).value
        score = jnp.where(seen, h @ mix @ h.swapaxes(1, 2), -1e9)
        h = jnp.tanh(h + jax.nn.softmax(score) @ h @ mix)
        h = edit(f"block_{i}:out", x._replace(value=h)).value
    return edit("output", x._replace(value=h @ frozen["embed"].T))


DEEP = Model(
    "layered",
    layered,
    {"embed": toys.DECODER_FROZEN["embed"], "mixes": MIXES},
    Words("causal", 30, 64),
    ROLES | {"blocks": tuple(f"block_{i}:in" for i in range(3))},
)
