"""Ways to prompt in pixels, each beside what needs no prompt, on resplits of one task.

    python -m experiments.compare_prompts
    python -m experiments.compare_prompts --backbone vit_tiny_patch16_224 \
        --target clothing --train 400 --validation 100 --test 149 --epochs 6 \
        --batch 40 --factors 1

A job is a method on a resplit: it trains with each rate, takes the one that the
resplit's own validation images choose, and reads the test split once, for that run.
Each finished job is a file of the folder, so the same command goes on after a stop. It
prints test accuracies with 95 % intervals over the resplits, and paired differences
to the best map without a prompt and to the linear probe.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax

from experiments import sweep
from experiments.map.protocol import without_test
from experiments.shared import assets
from reprojax import recipes
from reprojax.commands import controls, pictures, runs, settings
from reprojax.commands.intervals import mean_of, paired
from reprojax.commands.outputs import command
from reprojax.commands.tables import text_table
from reprojax.data import Task
from reprojax.models import Model, Pixels
from reprojax.training.checks import Diverged
from reprojax.training.loop import Fitted

METHODS = ("padding", "watermark", "smm", "evp", "lor-vp", "autovp", "dam-vp")
MAP, PROBE, NEAREST = "best map without prompt", "linear probe", "nearest pixels"
CONTROLS = "controls"
HEADER = ("test", "method", "last", "learnable", "over the map", "over the probe")


@dataclass(frozen=True)
class Config:
    """What is compared, on which task."""

    methods: tuple[str, ...] = METHODS
    """Of `reprojax list`."""
    map: str = "blm+"
    """The label map of all methods that take one; "own": each paper's."""
    backbone: str = "glyphs"
    target: str = "letters-behind-glass"
    train: int = 200
    validation: int = 100
    test: int = 1000
    epochs: int = 40
    batch: int = 50
    factors: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """Of each method's published learning rate."""
    resplits: int = 5
    """Each draws its own test, validation and training images."""
    workers: int = 2
    """Processes."""
    out: Path = Path("runs/compare_prompts")


@lru_cache(maxsize=1)
def _backbone(name: str) -> Model[Pixels]:
    return assets.load_backbone(name)


@lru_cache(maxsize=8)
def _task(resplit: int, **given: Any) -> Task:
    return assets.load_task(seed=resplit, test_seed=resplit, **given)


def _images(given: Mapping[str, Any]) -> Task:
    sizes = {n: given[n] for n in ("train", "validation", "test")}
    return _task(given["resplit"], name=given["target"], **sizes)


def work(given: dict[str, Any]) -> dict[str, Any]:
    """A job of the sweep: a method, or the controls, on a resplit."""
    task = _images(given)
    if given["method"] == CONTROLS:
        return without_prompt(_backbone(given["backbone"]), task)
    return trained(given, _backbone(given["backbone"]), task)


def trained(given: Mapping[str, Any], backbone: Model[Pixels], task: Task) -> Any:
    """The method with the rate that validation chooses.

    Returns:
        "rate", "validation", "test", "last" (after the last epoch), "learnable", and
        "diverged", the rates at which the loss did.
    """
    name = given["method"]
    preset = settings.preset_of(name)
    train: Any = partial(runs.train, progress=False, out=None)
    found: list[tuple[float, float, Fitted]] = []
    diverged = []
    program = recipes.build(name, backbone, len(task.classes), align(name, given))
    for factor in given["factors"]:
        rate = float(f"{preset.learning_rate * factor:.3g}")
        own = settings.Config(
            method=name,
            map=align(name, given),
            backbone=given["backbone"],
            target=given["target"],
            epochs=given["epochs"],
            batch=given["batch"],
            learning_rate=rate,
        )
        try:
            fixed = without_test(task)
            fitted = train(own, program, backbone, fixed, given["resplit"], "")
        except Diverged:
            diverged.append(rate)
            continue
        found.append((fitted.score["validation"], rate, fitted))
    if not found:
        raise ValueError(
            f"{name} diverged at all of the rates {diverged}, expected one at which it "
            "does not; give smaller --factors"
        )
    # Of equals the first.
    validation, rate, fitted = max(found, key=lambda own: own[:1])
    answers = lambda params: pictures.answers_of(program, params, backbone, task.test)
    right = lambda params: float((answers(params) == task.test.y).mean())
    learnable = sum(leaf.size for leaf in jax.tree.leaves(fitted.params.learnable))
    scores = {"test": right(fitted.params), "last": right(fitted.last)}
    scores |= {"validation": validation, "rate": rate}
    return scores | {"learnable": learnable, "diverged": diverged}


def align(method: str, given: Mapping[str, Any]) -> str | None:
    """The name of a method's label map; None for a head of its own."""
    own = recipes.find_method(method).alignment
    return own if own is None or given["map"] == "own" else given["map"]


def without_prompt(backbone: Model[Pixels], task: Task) -> dict[str, Any]:
    """{control: {"test": accuracy}}; validation chooses map and strength."""
    splits = {n: getattr(task, n) for n in ("train", "validation", "test")}
    seen = {n: controls.frozen_outputs(backbone, s) for n, s in splits.items()}
    alone = controls.maps_alone(len(task.classes), len(backbone.classes))
    best, scores = controls.best_map(alone, seen)
    probe, _ = controls.logistic_probe(seen)
    each = {MAP: scores[best] | {"map": best}, PROBE: probe}
    return each | {NEAREST: controls.nearest_pixels(task)}


def jobs(config: Config) -> dict[str, dict[str, Any]]:
    """{name: settings}, one resplit after the other."""
    own, given = _shared(config), {}
    for resplit in range(config.resplits):
        for method in (CONTROLS, *config.methods):
            job = {**own, "method": method, "resplit": resplit}
            given[f"{method}/{resplit}"] = job
    return given


def _shared(config: Config) -> dict[str, Any]:
    """The settings that all jobs have. More methods and resplits join the same run."""
    no_jobs = ("methods", "resplits", "workers", "out")
    return {n: v for n, v in asdict(config).items() if n not in no_jobs}


def check(config: Config) -> None:
    """Raise for methods or numbers that cannot be."""
    known = recipes.methods(Pixels)
    fit = [n for n, m in known.items() if isinstance(m.preset, recipes.Preset)]
    if wrong := [name for name in config.methods if name not in fit]:
        raise ValueError(f"got --methods {wrong}, expected some of {fit}")
    if not config.methods or len({*config.methods}) < len(config.methods):
        raise ValueError(f"got --methods {config.methods}, expected each once, and one")
    if not config.factors or min(config.factors) <= 0:
        raise ValueError(f"got --factors {config.factors}, expected positive numbers")
    for field in fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"got --{field.name} {value}, expected at least 1")
    for name in config.methods:
        if own := align(name, {"map": config.map}):
            recipes.find_alignment(own)  # raises where there is none of that name


def check_fit(given: Mapping[str, Any], methods: Sequence[str]) -> None:
    """Raise where a model, images or a program cannot be had: before any training."""
    backbone, task = _backbone(given["backbone"]), _images(given)
    for name in methods:
        program = recipes.build(name, backbone, len(task.classes), align(name, given))
        x, key = task.train.x[:1], jax.random.key(0)
        jax.eval_shape(program.init, key, backbone.frozen, x)


def main(config: Config) -> dict[str, Any]:
    """Run the jobs that have no file yet, and print the table."""
    check(config)
    given = jobs(config)
    check_fit(next(iter(given.values())), config.methods)
    identity = _shared(config)
    with sweep.processes(config.workers) as pool:
        found = dict(
            sweep.run(work, given, config.out, executor=pool, identity=identity)
        )
    if failed := sweep.failures(found):
        sys.exit(failed)
    of = lambda name: [found[f"{name}/{i}"].value for i in range(config.resplits)]
    table = {name: of(name) for name in (*config.methods, CONTROLS)}
    print(text_table(HEADER, [*lines(table)]))
    return table


def lines(table: Mapping[str, list[Any]]) -> Iterator[tuple[str, ...]]:
    """A row for each method, then for each control."""
    each = table[CONTROLS]
    of = lambda name: [run[name]["test"] for run in each]
    for name, runs_ in table.items():
        if name != CONTROLS:
            test, last = ([run[n] for run in runs_] for n in ("test", "last"))
            over = (_over(test, of(control)) for control in (MAP, PROBE))
            size = f"{runs_[0]['learnable']:,}"
            yield str(mean_of(test)), name, str(mean_of(last)), size, *over
    for name in (MAP, PROBE, NEAREST):
        own = "" if name == MAP else _over(of(name), of(MAP))
        yield str(mean_of(of(name))), name, "", "", own, ""


def _over(ours: list[float], theirs: list[float]) -> str:
    return paired(ours, theirs).interval if len(ours) > 1 else ""


if __name__ == "__main__":
    command(main, Config)
