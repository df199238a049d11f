"""Cards of the tiny frozen models that methods of any author are tried on."""

import fitting
import jax.numpy as jnp
import numpy as np
import toys

from reprojax import data
from reprojax.models import Pixels, card

NET = card(
    fitting.Net(),
    fitting.FROZEN,
    name="net",
    input=Pixels(8, tuple(fitting.MEAN.tolist()), tuple(fitting.STD.tolist())),
    features="head:in",
)


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


def patches(x):
    """What enters the mixer's first block [B 4 12], of pixels in [0, 1]."""
    x = (x - np.float32(MIXER.input.mean)) / np.float32(MIXER.input.std)
    rows = [x[:, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] for i in (0, 1) for j in (0, 1)]
    return jnp.stack([r.reshape(len(x), -1) for r in rows], 1) @ MIXER.frozen["patches"]


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
