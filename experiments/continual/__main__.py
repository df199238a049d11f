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
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.nn.initializers import zeros

from experiments.continual import protocol
from experiments.continual.protocol import Learner, Plan, Rows, among
from experiments.map.tasks import drawn_figures
from experiments.shared import assets
from reprojax import data
from reprojax.alignments import linear
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command, writable
from reprojax.core import Params, Scope, chain, passthrough, reprogram, until
from reprojax.core.trees import fingerprint
from reprojax.data import Task
from reprojax.models import Model, Pixels
from reprojax.operators import resize
from reprojax.recipes import Preset, find_method
from reprojax.saving.files import plain, read_json, write_json
from reprojax.saving.folders import claim, only_writer

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
NO_SETTINGS = ("out", "resume", "choose")
Matrix = list[list[float | None]]
"""[after task, of task]: accuracy; None for later tasks."""


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


class Draw(NamedTuple):
    """The images of one seed, and what the frozen model makes of them."""

    train: Rows
    rest: Rows
    """Those that judge: of the test or the validation split."""
    seed: int


def drawn(config: Config, seed: int, split: str) -> Draw:
    """Those of a seed; the frozen model looks at them once for all learners."""
    task = load(config, seed)
    if len(task.classes) < protocol.EACH * config.tasks:
        raise ValueError(
            f"got --target {config.target} of {len(task.classes)} classes for "
            f"{config.tasks} tasks, expected {protocol.EACH} classes for each"
        )
    look = looking(model_of(config.size))
    return Draw(*protocol.in_order(task, look, seed, split), seed)


def judged(name: str, rate: float, config: Config, own: Draw) -> np.ndarray:
    """The matrix of accuracies of one run."""
    train, rest, seed = own
    if name == MEANS:
        return protocol.class_means(train, rest, config.tasks)
    run = protocol.at_once if name == ONCE else protocol.in_sequence
    plan = Plan(config.tasks, config.epochs, config.batch, seed)
    return run(learner(name, model_of(config.size), config, rate), train, rest, plan)


def choose(config: Config) -> dict[str, float]:
    """The best rate of each learner on validation images."""
    given, best = drawn(config, 100, "validation"), {}
    for name in LEARNERS:
        found = {}
        for rate in GRID:
            found[rate] = protocol.final(judged(name, rate, config, given))
        best[name] = max(found, key=lambda rate: found[rate])
        print(f"{name:26} {found} -> {best[name]:g}", flush=True)
    return best


def check(config: Config) -> None:
    """Raise at settings that no run could use."""
    if not 1 <= config.tasks <= 5:
        raise ValueError(
            f"got --tasks {config.tasks}, expected 1 to 5, of two of the ten classes"
        )
    for name in ("seeds", "epochs", "batch"):
        if getattr(config, name) < 1:
            raise ValueError(
                f"got --{name} {getattr(config, name)}, expected at least 1"
            )


def identity(config: Config, first: Draw) -> dict[str, Any]:
    """What a run's results depend on, as JSON."""
    own = {k: v for k, v in asdict(config).items() if k not in NO_SETTINGS}
    weights = model_of(config.size).fingerprint
    data = fingerprint([(rows.x, rows.y) for rows in (first.train, first.rest)])
    return plain(
        own | {"pools": SIZES, "rates": RATES, "weights": weights, "data": data}
    )


def main(config: Config) -> dict[str, Any]:
    """Run, print and keep everything."""
    check(config)
    if config.choose:
        return choose(config)
    first = drawn(config, 0, "test")
    own = identity(config, first)
    writable(config.out)
    with only_writer(config.out):
        claim(config.out, own, config.resume, grows="seeds")
        kept = filled(config, first)
    table(config, kept)
    return kept


def filled(config: Config, first: Draw) -> dict[str, Matrix]:
    """All runs, those that are not kept yet after one another."""
    path = config.out / "results.json"
    kept: dict[str, Matrix] = (
        read_json(path, dict[str, Matrix]) if path.exists() else {}
    )
    for seed in range(config.seeds):
        names = [n for n in (MEANS, *LEARNERS) if f"{n} {seed}" not in kept]
        given = drawn(config, seed, "test") if names and seed else first
        for name in names:
            found = judged(name, RATES.get(name, 0.0), config, given)
            kept[f"{name} {seed}"] = [
                [None if np.isnan(v) else v for v in row] for row in found.tolist()
            ]
            write_json(path, kept)
            print(f"seed {seed}  {name:26} {protocol.final(found):.3f}", flush=True)
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
