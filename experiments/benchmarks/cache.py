"""What a cache of the values below the lowest edit saves of a training step.

    python -m experiments.benchmarks.cache

ViT-Ti with random weights at 224 pixels; eight learned tokens at a block, and a linear
head; then the head alone. Prints, a site: seconds a step without and with the cache
(medians of paired steps), the speed-up, the share of the compiled operations that
remain, how far the learned numbers of both runs are apart after the measured steps, and
what the cache takes on disk for a thousand images.

Expected on two cores of an Intel Xeon: 1.0, 1.1, 1.3, 1.7 and 3.7 at blocks 0, 3, 6, 9
and 11, where one over the share of operations is 1.0, 1.2, 1.5, 2.4 and 6.0: what
remains is mostly backward pass, which takes more time an operation. The head alone is
hundreds of times faster, and the numbers are equal. Two minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn.initializers import normal

from experiments.benchmarks.population import noise
from experiments.benchmarks.timing import machine, paired, ratio
from reprojax import Program, reprogram
from reprojax.alignments import linear
from reprojax.commands.outputs import command
from reprojax.data import Task, in_order
from reprojax.formats import learnable
from reprojax.models import images
from reprojax.models.vision.vit import ViT
from reprojax.operators import insert
from reprojax.testing.compiled import operations
from reprojax.training.caches import cached
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import TrainState, begin, train_step

OPTIMIZER = optax.sgd(0.01)


@dataclass(frozen=True)
class Config:
    """A training step with and without a cache, by the site of the lowest edit."""

    blocks: tuple[int, ...] = (0, 3, 6, 9, 11)
    size: int = 224
    batch: int = 16
    repeats: int = 7
    depth: int = 12
    width: int = 192
    patch: int = 16


def main(config: Config) -> None:
    print(machine())
    width = config.width
    module = ViT(config.patch, width, config.depth, width // 64, 4 * width, 1000)
    forward = images(module, config.size, (0.5,) * 3, (0.5,) * 3)
    frozen = drawn(module, config.size)
    task = noise(config.size, config.batch)
    sites = {f"block {i}": f"block_{i}:in" for i in config.blocks} | {"head alone": ""}
    print(
        f"{'site':12}{'s/step':>9}{'cached':>9}{'speed-up':>10}{'operations':>12}"
        f"{'1/share':>9}{'apart':>10}{'MB/1000':>9}"
    )
    for name, site in sites.items():
        at = {site: insert(learnable(normal(0.02)), 8, at=1)} if site else {}
        program = reprogram(forward, at | {"output": linear(10)})
        row = compare(program, frozen, task, config)
        print(f"{name:12}{row}", flush=True)


def compare(program: Program, frozen: Any, task: Task, config: Config) -> str:
    """One line: the step on images and the step on values."""
    runs = {"images": (program, frozen, task)}
    runs["values"] = cached(program, frozen, task, batch=config.batch, progress=False)
    steppers = {n: Stepper(*run, config.batch) for n, run in runs.items()}
    seconds = paired({n: s.step for n, s in steppers.items()}, config.repeats)
    learned = [s.state.params.learnable for s in steppers.values()]
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *learned)
    share = steppers["values"].operations / steppers["images"].operations
    values = runs["values"][2].train.x
    return (
        f"{np.median(seconds['images']):9.3f}{np.median(seconds['values']):9.3f}"
        f"{ratio(seconds['images'], seconds['values']):10.2f}{share:12.3f}"
        f"{1 / share:9.2f}{max(jax.tree.leaves(apart)):10.1e}"
        f"{values[0].nbytes / 1000:9.0f}"
    )


class Stepper:
    """`fit`'s own step on the first batch, again and again."""

    def __init__(self, program: Program, frozen: Any, task: Task, batch: int) -> None:
        x, y = map(jnp.asarray, next(iter(in_order(task.train, batch)))[:2])
        self.state: TrainState = begin(program, OPTIMIZER, frozen, x, 0, 1)
        self._step: Callable = partial(
            train_step, program, OPTIMIZER, cross_entropy, ()
        )
        self._rest = frozen, x, y
        given = program, OPTIMIZER, cross_entropy, (), self.state, *self._rest
        self.operations = operations(train_step, *given)

    def step(self) -> jax.Array:
        self.state = self._step(self.state, *self._rest)
        return self.state.step


def drawn(module: nn.Module, size: int) -> Any:
    """Random weights."""
    x = jnp.zeros((1, size, size, 3))
    return jax.jit(module.init)(jax.random.key(0), x)


if __name__ == "__main__":
    command(main, Config)
