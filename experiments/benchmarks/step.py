r"""What a training step costs over the bare model, and the bare model over PyTorch's.

    python -m experiments.benchmarks.step                 # steps over the floor
    python -m experiments.benchmarks.step --torch         # and the floor over PyTorch's

The floor of every learned prompt is the frozen model's forward and input gradient, no
gradient of a weight. Architectures are those of `models/`, with random weights, at 224
pixels. A line: seconds of the floor, its operations a second as a share of what one
large matrix product reaches here, each method's step over the floor, and the floor over
PyTorch's. All of one model are measured in turns; ratios are medians over the rounds
with their 95 % interval. The same numbers go to a JSON file.

PyTorch gets its best form (`experiments/benchmarks/pytorch.py` says which were tried);
it is measured with the same images, weights that want no gradient, in evaluation. On a
machine that others use too, give --process: seconds are then those of this process, all
cores together (and OMP_WAIT_POLICY=passive, so that PyTorch's threads sleep as they
wait).

Expected on two cores: a step at most 1.05 of the floor for padding; the floor 1.4 to
1.8 of PyTorch's, whose convolutions and products are the faster ones there. With
--torch five minutes.

On a GPU the same command serves; more images and half the bits are what it is made for:

    python -m experiments.benchmarks.step --models vit-b resnet-50 --batch 128 \
        --dtype bfloat16 --repeats 30 --trace runs/trace --torch

Where the card's name is known, the share of its data sheet's limit is shown as well.
The numbers in docs/results.md are of CPUs: no GPU was at hand.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.limits import known_limit, product
from experiments.benchmarks.steppers import Stepper, floor, held
from experiments.benchmarks.timing import interval, machine, paired, ratio
from reprojax import Program
from reprojax.commands.outputs import command
from reprojax.models import Model, Pixels, images
from reprojax.models.vision import resnet, vit
from reprojax.recipes import build, find_method
from reprojax.saving.files import write_json

Clock = Callable[[], float]
CLASSES, TARGETS, SIZE = 1000, 10, 224
WIDTHS = (64, 128, 256, 512)
MODELS: dict[str, nn.Module] = {
    "vit-ti": vit.ViT(16, 192, 12, 3, 768, CLASSES),
    "vit-s": vit.ViT(16, 384, 12, 6, 1536, CLASSES),
    "vit-b": vit.ViT(16, 768, 12, 12, 3072, CLASSES),
    "resnet-18": resnet.ResNet(64, (2, 2, 2, 2), WIDTHS, False, CLASSES),
    "resnet-50": resnet.ResNet(64, (3, 4, 6, 3), WIDTHS, True, CLASSES),
}


@dataclass(frozen=True)
class Config:
    """A step over the floor, and the floor over PyTorch's."""

    models: tuple[str, ...] = ("vit-ti", "vit-s", "resnet-18", "resnet-50")
    methods: tuple[str, ...] = ("padding", "watermark", "vpt-deep")
    torch: bool = False
    """Measure PyTorch's floor too (its reference extra must be installed)."""
    batch: int = 8
    side: int = 32
    """Of the task's images in pixels: to resize them is part of a step."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 9
    process: bool = False
    """Count the process's own seconds instead of those on the wall."""
    trace: Path | None = None
    """A folder for a profile of one step each, for XProf or Perfetto."""
    out: Path = Path("runs/step.json")


def main(config: Config) -> None:
    """Measure and print a model at a time."""
    where = machine(*(("torch", "transformers") if config.torch else ()))
    print(where)
    clock = time.process_time if config.process else time.perf_counter
    peak, limit = product(config.dtype, clock), known_limit(config.dtype)
    print(f"one large product in {config.dtype}: {peak / 1e9:,.0f} GFLOP/s", end="")
    print(f", {peak / limit:.0%} of the data sheet's" if limit else "")
    rows = []
    for name in config.models:
        rows.append(row(name, config, clock, peak, limit))
        print(line(rows[-1]), flush=True)
    write_json(config.out, {"machine": where, "product": peak, "rows": rows})


def row(
    name: str, config: Config, clock: Clock, peak: float, limit: float | None
) -> dict[str, Any]:
    """All that is said of one model."""
    card = backbone(name, config.dtype)
    x = jax.random.uniform(jax.random.key(1), (config.batch, SIZE, SIZE, 3))
    compiled = floor(card).lower(x, card.frozen).compile()
    calls: dict[str, Callable[[], Any]] = {"floor": lambda: compiled(x, card.frozen)}
    memory, task = {"floor": held(compiled)}, batch(config)
    for method in config.methods:
        if method.startswith("vpt") and not name.startswith("vit"):
            continue
        stepper = Stepper(program(method, card), card.frozen, *task)
        calls[method], memory[method] = stepper.step, stepper.memory
    if config.trace:
        trace(calls, config.trace / name)
    if config.torch:
        from experiments.benchmarks.pytorch import floors

        calls |= floors(MODELS[name], np.asarray(x), config.dtype)
    seconds = paired(calls, config.repeats, clock)
    median = {key: float(np.median(each)) for key, each in seconds.items()}
    rate = compiled.cost_analysis()["flops"] / median["floor"]
    theirs = [key for key in median if key.startswith("torch")]
    best = [min(theirs, key=median.__getitem__)] if theirs else []
    over = {key: (seconds[key], seconds["floor"]) for key in memory if key != "floor"}
    over |= {f"floor over {key}": (seconds["floor"], seconds[key]) for key in best}
    return {
        "model": name,
        "batch": config.batch,
        "dtype": config.dtype,
        "seconds": median,
        "ratio": {key: (ratio(*two), *interval(*two)) for key, two in over.items()},
        "temporary bytes": memory,
        "share of product": rate / peak,
        "share of limit": rate / limit if limit else None,
    }


def backbone(name: str, dtype: str) -> Model[Pixels]:
    """An architecture with random weights."""
    if name not in MODELS:
        raise ValueError(f"no model {name!r}, expected one of {', '.join(MODELS)}")
    module, half = MODELS[name], (0.5, 0.5, 0.5)
    first = jnp.zeros((1, SIZE, SIZE, 3))
    frozen = jax.jit(module.init)(jax.random.key(0), first)
    frozen = jax.tree.map(lambda leaf: leaf.astype(dtype), frozen)
    forward, classes = images(module, SIZE, half, half), tuple(map(str, range(CLASSES)))
    roles = vit.roles(module.depth) if isinstance(module, vit.ViT) else {}
    return Model(name, forward, frozen, Pixels(SIZE, half, half), roles, classes)


def batch(config: Config) -> tuple[jax.Array, jax.Array]:
    """Images of noise and their labels."""
    shape = (config.batch, config.side, config.side, 3)
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return jnp.asarray(x), jnp.arange(config.batch, dtype=jnp.int32) % TARGETS


def program(name: str, card: Model[Pixels]) -> Program:
    """A method with BLM, or with the head that it brings."""
    method = find_method(name)
    return build(name, card, TARGETS, "blm" if method.alignment else None)


def trace(calls: dict[str, Callable[[], Any]], folder: Path) -> None:
    """A profile of one call of each, after one that compiles."""
    for name, call in calls.items():
        jax.block_until_ready(call())
        with jax.profiler.trace(str(folder / name)):
            jax.block_until_ready(call())


def line(row: dict[str, Any]) -> str:
    """A row in words."""
    seconds, share = row["seconds"], row["share of limit"]
    parts = [
        f"{row['model']:10} batch {row['batch']}, floor {seconds['floor']:.3f} s",
        f"{row['share of product']:.0%} of the product",
        *([f"{share:.0%} of the card's limit"] if share else []),
        f"{row['temporary bytes']['floor'] / 1e6:,.0f} MB",
    ]
    parts += [
        f"{key} {middle:.3f} [{low:.3f} {high:.3f}]"
        for key, (middle, low, high) in row["ratio"].items()
    ]
    parts += [f"{k} {v:.3f} s" for k, v in seconds.items() if k.startswith("torch")]
    return " | ".join(parts)


if __name__ == "__main__":
    command(main, Config)
