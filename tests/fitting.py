"""A frozen net for 8 x 8 images, a task and a program, for the tests that train."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn.initializers import zeros

from reprojax import reprogram
from reprojax.alignments import bayesian
from reprojax.data import Split, Task
from reprojax.formats import learnable
from reprojax.models import images
from reprojax.operators import add
from reprojax.training.loop import Fitted, fit

MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.3])
SOURCES, TARGETS = 5, 3


class Net(nn.Module):
    """[B 8 8 3] -> 5 source classes."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), (2, 2), name="conv")(x))
        return nn.Dense(SOURCES, name="head")(x.reshape(len(x), -1))


class Average(nn.Module):
    """Adds a learned number; keeps half of the old mean and half of the batch's."""

    @nn.compact
    def __call__(self, x, train: bool):
        mean = self.variable("statistics", "mean", jnp.zeros, (3,))
        if train:
            mean.value = (mean.value + x.mean((0, 1, 2))) / 2
        return x + self.param("shift", nn.initializers.zeros, ())


def _weights() -> dict[str, Any]:
    draw = np.random.default_rng(5)
    normal = lambda *shape: draw.normal(size=shape).astype(np.float32)
    conv = {"kernel": normal(3, 3, 3, 6) / 4, "bias": normal(6) / 4}
    head = {"kernel": normal(96, SOURCES) / 8, "bias": normal(SOURCES) / 4}
    return {"params": {"conv": conv, "head": head}}


def split(count: int, seed: int, classes: int = TARGETS) -> Split:
    """uint8 images [count 8 8 3] that are brighter in a channel of their class."""
    draw = np.random.default_rng(seed)
    y = draw.permutation(np.arange(count) % classes)
    x = draw.integers(0, 160, (count, 8, 8, 3))
    x += 90 * (np.arange(3) == y[:, None] % 3)[:, None, None]
    return Split(x.astype(np.uint8), y.astype(np.int32))


def normalized(x: np.ndarray) -> np.ndarray:
    """What enters the net, by NumPy."""
    return (x.astype(np.float32) / 255 - MEAN) / STD


FROZEN = _weights()
FORWARD = images(Net(), 8, tuple(MEAN.tolist()), tuple(STD.tolist()))
TASK = Task("toy", split(10, 1), split(7, 2), split(5, 3), ("a", "b", "c"))
PROGRAM = reprogram(
    FORWARD, {"normalized": add(learnable(zeros)), "output": bayesian(TARGETS)}
)
SGD = optax.sgd(5.0)


def train(**changes: Any) -> Fitted:
    """fit with three steps an epoch, the last one short."""
    settings = {"program": PROGRAM, "frozen": FROZEN, "task": TASK, "optimizer": SGD}
    settings |= {"epochs": 3, "batch": 4, "progress": False}
    return fit(**(settings | changes))


def bits(tree: Any) -> list[tuple]:
    """Everything about the leaves: path, dtype, shape and bytes."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [
        (jax.tree_util.keystr(path), str(a.dtype), a.shape, np.asarray(a).tobytes())
        for path, a in leaves
    ]


def outcome(fitted: Fitted) -> tuple:
    """All of a run but how long it took."""
    return bits(fitted[:2]), fitted.score, bits(jnp.asarray(fitted.curves))
