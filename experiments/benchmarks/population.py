"""K programs in one step by vmap: what it takes of a program alone.

    python -m experiments.benchmarks.population
    python -m experiments.benchmarks.population --models transformer --size 224

Eight programs (a prompt on the pixels and a Bayesian map) on a dense net, a
transformer and a residual net with random weights. Prints the time of a vmapped step a
program over the same program alone, the memory of all over that of one, and the form
that `fastest` recommends within 1.5 times the memory and without a limit. Then, on the
transformer: a step of eight heads on one shared forward over a step of one head, and
one pass that estimates and counts eight label maps over a pass with one. Medians of
rounds in turn.

Expected on two cores of an Intel Xeon, time a program over one alone, and memory:

    dense        vmap  .5 (3.1)
    transformer  vmap 1.1 (9.6)
    residual     vmap 1.1 (7.0)

so that the loop is recommended (vmap on the dense net where memory does not matter);
eight heads and eight maps at most 1.1. Four minutes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.nn.initializers import zeros

from experiments.benchmarks.timing import machine, paired, ratio
from reprojax import reprogram
from reprojax.alignments import bayesian, bayesian_plus, heads, linear, one_to_one
from reprojax.commands.outputs import command
from reprojax.core import Manipulation, Program
from reprojax.data import Split, Task, in_order
from reprojax.formats import learnable
from reprojax.models import images
from reprojax.models.vision.cifar_resnet import CifarResNet
from reprojax.models.vision.vit import ViT
from reprojax.operators import add
from reprojax.training.metrics import accuracy
from reprojax.training.population import costs, fastest
from reprojax.training.steps import observe_batch, observe_scores, refresh_maps

SGD = optax.sgd(0.01)


@dataclass(frozen=True)
class Config:
    """Populations of K programs by vmap, over one program alone."""

    models: tuple[str, ...] = ("dense", "transformer", "residual")
    programs: int = 8
    batch: int = 16
    rounds: int = 5
    size: int = 64
    """Pixels a side for the transformer; 224 is ViT-Ti as it is used."""
    depth: int = 12


class Dense(nn.Module):
    """Two layers: a step of a fraction of a millisecond."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(64, name="hidden")(x.reshape(len(x), -1)))
        return nn.Dense(100, name="head")(x)


def model(name: str, config: Config) -> tuple[Callable, Any, int]:
    """A forward, random weights, and the size of its images."""
    patch = 16 if config.size >= 128 else 8
    modules: dict[str, tuple[nn.Module, int]] = {
        "dense": (Dense(), 8),
        "transformer": (ViT(patch, 192, config.depth, 3, 768, 1000), config.size),
        "residual": (CifarResNet((3, 3, 3), 16, 100), 32),
    }
    module, size = modules[name]
    x = np.zeros((1, size, size, 3), np.float32)
    frozen = jax.jit(module.init)(jax.random.key(0), x)
    return images(module, size, (0.5,) * 3, (0.5,) * 3), frozen, size


def noise(size: int, batch: int) -> Task:
    """One batch of noise: what images show costs nothing."""
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    split = Split(x, (np.arange(batch) % 10).astype(np.int32))
    return Task("noise", split, split, split, tuple(map(str, range(10))))


def main(config: Config) -> None:
    print(machine())
    print(
        f"{'model':13}{'alone, s':>10}{'vmap time':>13}{'memory':>8}   "
        "within 1.5x, unlimited"
    )
    for name in config.models:
        print(f"{name:13}{forms(name, config)}", flush=True)
    forward, frozen, size = model("transformer", config)
    task = noise(size, config.batch)
    print(
        f"eight heads: {cost_of_heads(forward, frozen, task, config):.3f} of one head"
    )
    print(f"eight maps:  {maps(forward, frozen, task, config):.3f} of one map")


def forms(name: str, config: Config) -> str:
    """One line of the table."""
    forward, frozen, size = model(name, config)
    at = {"normalized": add(learnable(zeros)), "output": bayesian(10)}
    measured = costs(
        *(reprogram(forward, at), frozen, noise(size, config.batch)),
        optimizer=SGD,
        batch=config.batch,
        seeds=range(config.programs),
        rounds=config.rounds,
    )
    alone, vmap = measured["loop"], measured["vmap"]
    chosen = fastest(measured, 1.5), fastest(measured, float("inf"))
    return (
        f"{alone.seconds:10.4f}{vmap.seconds / alone.seconds:13.2f}"
        f"{vmap.bytes / alone.bytes:8.2f}   {', '.join(chosen)}"
    )


def cost_of_heads(forward: Callable, frozen: Any, task: Task, config: Config) -> float:
    """A step of K heads on one forward, over a step of one."""
    measured = costs(
        *(reprogram(forward, {"output": linear(10)}), frozen, task),
        optimizer=SGD,
        batch=config.batch,
        seeds=range(config.programs),
        order="shared",
        rounds=config.rounds,
    )
    return config.programs * measured["vmap"].seconds / measured["loop"].seconds


def maps(forward: Callable, frozen: Any, task: Task, config: Config) -> float:
    """Estimating and counting K different maps in one pass, over one map."""
    eight: dict[str, Manipulation] = {"flm": one_to_one(10), "blm": bayesian(10)}
    eight |= {f"plus{k}": bayesian_plus(10, k) for k in (1, 2, 5, 10, 15, 50)}
    programs = [
        reprogram(forward, {"output": alignment})
        for alignment in (bayesian(10), heads(**eight))
    ]
    x, y, _ = next(iter(in_order(task.train, config.batch)))
    calls = {str(i): passed(p, frozen, x, y) for i, p in enumerate(programs)}
    seconds = paired(calls, 3 * config.rounds)
    return ratio(seconds["1"], seconds["0"])


def passed(program: Program, frozen: Any, x: Any, y: Any) -> Callable[[], Any]:
    """A pass that estimates the maps on four batches and counts on four."""
    params = program.init(jax.random.key(0), frozen, x)

    def call() -> jax.Array:
        seen = [observe_batch(program, params, frozen, x, y) for _ in range(4)]
        total = jax.tree.map(lambda *sums: sum(sums[1:], sums[0]), *seen)
        new = refresh_maps(program, params, total)
        hits = [
            observe_scores(program, (accuracy,), (), new, frozen, x, y)
            for _ in range(4)
        ]
        return sum(hits[1:], hits[0])

    return call


if __name__ == "__main__":
    command(main, Config)
