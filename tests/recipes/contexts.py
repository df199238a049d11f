"""What tests of learned words in the names of classes share.

`official_contexts.json` holds what official code computed on the tests' small pair: its
own prompt learners, loops and schedules, on OpenAI's own module of CLIP with the pair's
weights, for 60 steps on the images below.
"""

import json
from functools import cache
from pathlib import Path

import attributes
import jax.numpy as jnp
import numpy as np
from small_pairs import pair, pictures

from reprojax.models.image_text import classifier
from reprojax.models.image_text.card import TEMPLATE
from reprojax.training import steps

NAMES = ["cat", "small dog", "bird"]
X, Y = pictures(24, 3), np.arange(24) % 3
EPOCHS, BATCH, RATE = 20, 8, 0.2
TEMPLATES = {"coop": "{}.", "plot": "{}."}
"""Of the texts that a method takes, if other than the card's own."""
DESCRIBED = ("attrvr", "dvp")
"""Methods that take descriptions of the classes."""
SIZES = {
    "coop": {"length": 3},
    "plot": {"length": 3},
    "prograd": {"length": 6},
    "dvp": {"prompts": 2},
}  # the pair has twelve positions


@cache
def model(template="{}."):
    return classifier(pair(), NAMES, [template])


def of(method):
    """A model with the texts that the method takes."""
    if method == "rvp":
        return attributes.looks()
    if method in DESCRIBED:
        return attributes.model()
    return model(TEMPLATES.get(method, TEMPLATE))


@cache
def official():
    path = Path(__file__).parent / "official_contexts.json"
    return json.loads(path.read_text())


def words(*shape):
    """The words that official code started from."""
    draw = np.random.default_rng(7).normal(size=shape)
    return jnp.asarray(draw.astype(np.float32))


def trained(program, params, frozen, preset, epochs=EPOCHS, batch=BATCH, labels=Y):
    """(loss of each step, last params): batches in the order of the images."""
    optimizer = preset.optimizer(RATE, len(X) // batch, epochs)
    state = steps.begin(program, optimizer, frozen, X[:batch], 0, epochs, params=params)
    found = []
    for step in range(epochs * (len(X) // batch)):
        rows = slice(step % (len(X) // batch) * batch, None)
        x, y = jnp.asarray(X[rows][:batch]), jnp.asarray(labels[rows][:batch])
        what = program, optimizer, preset.loss, getattr(preset, "sites", ()), state
        state = steps.train_step(*what, frozen, x, y)
        found.append(float(state.numbers.loss))
    return np.array(found), state.params
