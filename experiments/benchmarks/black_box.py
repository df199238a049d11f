"""Queries a second through a search, over the bare model's images a second.

    python -m experiments.benchmarks.black_box

ResNet-20 as the oracle of a search with a learned watermark: a whole run with all that
belongs to it (points, prompted images, requests, losses, the update), with and without
a log on disk; the bare forward on as many images in the same chunks; and a run whose
requests are one image each. Prints queries a second (medians of paired rounds) and the
medians of the rounds' ratios.

Measured on two cores of an Intel Xeon that others used too, by `--processor-time
--budget 2048 --single 64 --repeats 3`: the search .964 [.964, .983] of the bare
forward, with a log .961 [.945, .978]; 1.6 times the rate of one at a time, which a CPU
serves nearly as well as many.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.nn.initializers import zeros

from experiments.benchmarks.timing import interval, machine, paired, ratio
from experiments.shared.assets import load_backbone
from reprojax import reprogram
from reprojax.alignments import columns
from reprojax.commands.outputs import command
from reprojax.data import Split, Task
from reprojax.formats import learnable
from reprojax.operators import add, resize
from reprojax.searches import Oracle, spsa
from reprojax.training.black_box import fit_black_box, in_process, only_answers


@dataclass(frozen=True)
class Config:
    """A search over a model that only answers, and the bare model."""

    backbone: str = "resnet20_cifar10"
    budget: int = 4096
    """Queries a run."""
    batch: int = 64
    """Images a step."""
    directions: int = 8
    """Twice as many points a step."""
    chunk: int = 256
    """Images a request."""
    single: int = 256
    """Queries of the run whose requests are one image each."""
    repeats: int = 7
    processor_time: bool = False
    """Count this process's seconds on all cores, where others use the machine too."""


def images(count: int) -> Split:
    """Noise [count 28 28 1]."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    return Split(x, np.arange(count, dtype=np.int32) % 10)


def main(config: Config) -> dict[str, float]:
    """Print the table; returns the ratios."""
    backbone = load_backbone(config.backbone)
    size, frozen = backbone.input.size, jax.device_put(backbone.frozen)
    oracle = in_process(backbone, chunk=config.chunk)
    card = only_answers(oracle, size, backbone.input.mean, backbone.input.std)
    at = {"input": resize(size), "normalized": add(learnable(zeros))}
    program = reprogram(card.forward, at | {"output": columns(range(10))})
    train, few = images(10 * config.batch), images(20)
    task = Task("noise", train, few, few, tuple("0123456789"))
    search, forward = spsa(0.1, 0.1, count=config.directions), jax.jit(backbone.forward)
    x = np.random.default_rng(1).uniform(size=(config.chunk, size, size, 3))
    x = x.astype(np.float32)

    def run(oracle: Oracle, budget: int, log: Path | None = None) -> Any:
        if log is not None:
            log.unlink(missing_ok=True)
        settings = {"batch": config.batch, "checks": 0, "progress": False, "log": log}
        return fit_black_box(program, oracle, task, search, budget=budget, **settings)

    def bare() -> None:
        for _ in range(config.budget // config.chunk):
            jax.block_until_ready(forward(frozen, x))

    single = oracle._replace(chunk=1)
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Callable[[], Any]] = {
            "bare forward": bare,
            "search": lambda: run(oracle, config.budget).queries,
            "search with a log": lambda: (
                run(oracle, config.budget, Path(folder) / "log").queries
            ),
            "one at a time": lambda: run(single, config.single).queries,
        }
        clock = time.process_time if config.processor_time else time.perf_counter
        seconds = paired(calls, config.repeats, clock)
    print(machine())
    rates = {
        name: (config.single if name == "one at a time" else config.budget) / each
        for name, each in seconds.items()
    }
    ratios = {}
    for name, each in rates.items():
        over = partial(ratio, each), partial(interval, each)
        ratios[name] = over[0](rates["bare forward"])
        low, high = over[1](rates["bare forward"])
        print(
            f"{name:20} {np.median(each):8.0f} queries/s   over the bare forward "
            f"{ratios[name]:.3f} [{low:.3f}, {high:.3f}]"
        )
    gain = ratio(rates["search"], rates["one at a time"])
    print(f"batched over one at a time: {gain:.1f}")
    return ratios | {"batched over one at a time": gain}


if __name__ == "__main__":
    command(main, Config)
