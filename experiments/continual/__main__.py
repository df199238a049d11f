"""Do pools of prompts forget less? Five tasks of two classes, one after the other.

    python -m experiments.continual --target digits --out runs/continual-digits
    python -m experiments.continual --target figures --out runs/continual-figures
    python -m experiments.continual --choose
        rates for both, by the digits' validation images

L2P, DualPrompt and CODA-Prompt on a ViT-Ti at 64 pixels, with the published settings
but rates and sizes; beside them a linear head on the frozen features that learns the
tasks in sequence, one that learns them all at once, and the nearest class mean of the
features, which learns nothing. No answer depends on the other images of a batch.

Expected after the last task, three seeds: digits .36 DualPrompt, .27 CODA-Prompt, .23
L2P and .27 the head in sequence, below .59 of the class means; figures .50, .40, .45
and .43, below .52. docs/results.md has the intervals.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.nn.initializers import zeros

from experiments.continual import protocol
from experiments.continual.protocol import Learner, Plan, among
from experiments.map.tasks import drawn_figures
from experiments.shared import assets
from reprojax import data
from reprojax.alignments import linear
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command
from reprojax.core import Params, Scope, chain, passthrough, reprogram, until
from reprojax.data import Task
from reprojax.models import Model, Pixels
from reprojax.operators import resize
from reprojax.recipes import Preset, find_method
from reprojax.saving.files import read_json, write_json

SIZES: dict[str, dict[str, Any]] = {
    "l2p": {"size": 10, "length": 2, "top": 4},
    "dualprompt": {"size": 5, "length": 5, "general": 5},
    "coda-prompt": {"size": 50, "length": 4},
}
SEQUENCE, ONCE, MEANS = "head in sequence", "head, all at once", "nearest class mean"
LEARNERS = (SEQUENCE, *SIZES, ONCE)
GRID = (0.003, 0.01, 0.03)
RATES = {
    SEQUENCE: 0.003,
    "l2p": 0.003,
    "dualprompt": 0.03,
    "coda-prompt": 0.03,
    ONCE: 0.003,
}
"""Chosen from GRID by the digits' validation images, on a seed of no table."""


@dataclass(frozen=True)
class Config:
    """Pools of prompts on tasks in sequence."""

    target: str = "digits"
    """digits, or figures, ten of the drawn ones."""
    seeds: int = 3
    tasks: int = 5
    train: int = 400
    """Images, of all classes together."""
    test: int = 200
    epochs: int = 4
    """Of each task."""
    batch: int = 8
    size: int = 64
    """Side of the model's images."""
    choose: bool = False
    """Judge the rates of a grid by validation, and nothing else."""
    out: Path = Path("runs/continual")
    resume: bool = False


def load(config: Config, seed: int) -> Task:
    sizes = {"train": config.train, "validation": 200, "test": config.test}
    if config.target != "figures":
        return assets.load_task(config.target, seed=seed, **sizes)
    x, y = drawn_figures(2400)
    names = [str(i) for i in range(10)]
    given: dict[str, Any] = {"duplicates": "keep", **sizes}
    return data.from_arrays(x, y, names, name="figures", seed=seed, **given)


@cache
def model_of(size: int) -> Model[Pixels]:
    return assets.load_backbone("vit_tiny_patch16_224", size=size)


@cache
def looking(model: Model[Pixels]) -> Callable[[Any], np.ndarray]:
    """Images -> the frozen model's features, as the recipes' queries are."""
    features = until(model.forward, model.roles["features"][0])
    to_size = resize(model.input.size)
    call = jax.jit(lambda f, x: features(f, to_size.apply(Params(), x, Scope())))

    def look(x: Any) -> np.ndarray:
        parts = [call(model.frozen, x[i : i + 100]) for i in range(0, len(x), 100)]
        return np.concatenate([np.asarray(part) for part in parts])

    return look


@cache
def learner(name: str, model: Model[Pixels], config: Config, rate: float) -> Learner:
    """Of one of LEARNERS. All have the same head, which starts at zero."""
    classes = protocol.EACH * config.tasks
    head = chain(head=linear(classes, initial=zeros), among=among(classes))
    if name in (SEQUENCE, ONCE):

        def forward(frozen: Any, x: Any, edit: Any = passthrough) -> Any:
            return edit("output", edit("input", x))

        given = lambda rows: (rows.features, None)
        return Learner(reprogram(forward, {}, head), (), given, optax.adam(rate))
    method, sizes = find_method(name), dict(SIZES[name])
    if name == "coda-prompt":
        sizes |= {"tasks": config.tasks}
    preset = method.preset
    assert isinstance(preset, Preset)
    rows = config.train // config.tasks
    optimizer = preset.optimizer(rate, -(-rows // config.batch), config.epochs)
    return Learner(
        method.build(model, head, **sizes),
        model.frozen,
        lambda rows: (rows.x, rows.features),
        optimizer,
        preset.loss,
        preset.sites,
        by_task=name != "l2p",
    )


def judged(
    name: str, rate: float, model: Model[Pixels], config: Config, seed: int, split: str
) -> np.ndarray:
    """The matrix of accuracies of one run."""
    train, rest = protocol.in_order(load(config, seed), looking(model), seed, split)
    if name == MEANS:
        return protocol.class_means(train, rest, config.tasks)
    run = protocol.at_once if name == ONCE else protocol.in_sequence
    plan = Plan(config.tasks, config.epochs, config.batch, seed)
    return run(learner(name, model, config, rate), train, rest, plan)


def choose(config: Config) -> dict[str, float]:
    """The best rate of each learner on validation images."""
    model, best = model_of(config.size), {}
    for name in LEARNERS:
        found = {}
        for rate in GRID:
            matrix = judged(name, rate, model, config, 100, "validation")
            found[rate] = protocol.final(matrix)
        best[name] = max(found, key=lambda rate: found[rate])
        print(f"{name:26} {found} -> {best[name]:g}", flush=True)
    return best


def main(config: Config) -> dict[str, list[Any]]:
    """Run, print and keep everything."""
    if not 1 <= config.tasks <= 5:
        raise ValueError(
            f"got --tasks {config.tasks}, expected 1 to 5, of two of the ten classes"
        )
    if config.choose:
        return {name: [rate] for name, rate in choose(config).items()}
    path = config.out / "results.json"
    kept: dict[str, Any] = read_json(path, dict) if config.resume else {}
    model = model_of(config.size)
    for seed in range(config.seeds):
        for name in (MEANS, *LEARNERS):
            if f"{name} {seed}" in kept:
                continue
            rate = RATES.get(name, 0.0)
            found = judged(name, rate, model, config, seed, "test")
            kept[f"{name} {seed}"] = [
                [None if np.isnan(v) else v for v in row] for row in found.tolist()
            ]
            write_json(path, kept)
            print(f"seed {seed}  {name:26} {protocol.final(found):.3f}", flush=True)
    table(config, kept)
    return kept


def table(config: Config, kept: dict[str, Any]) -> None:
    """Accuracy after each task; then of the last, with intervals over seeds."""
    names = (MEANS, *LEARNERS)
    runs = {
        name: np.array([kept[f"{name} {seed}"] for seed in range(config.seeds)], float)
        for name in names
    }
    last = {name: [protocol.final(run) for run in own] for name, own in runs.items()}
    print("\nmean accuracy over the tasks so far, after each task")
    for name, own in runs.items():
        print(f"{name:26}", *(_cell(own[:, t, : t + 1]) for t in range(config.tasks)))
    print("\nafter the last task; forgetting; over the nearest class mean")
    for name, own in runs.items():
        lost = [protocol.forgetting(run) for run in own]
        fell = str(mean_of(lost)) if np.isfinite(own[:, 0, 0]).all() else ""
        over = paired(last[name], last[MEANS]).interval if name != MEANS else ""
        print(f"{name:26} {mean_of(last[name])!s:16} {fell:16} {over}")


def _cell(accuracies: np.ndarray) -> str:
    """The mean, where it is known."""
    return f"{accuracies.mean():.3f}" if np.isfinite(accuracies).all() else "  -  "


if __name__ == "__main__":
    command(main, Config)
