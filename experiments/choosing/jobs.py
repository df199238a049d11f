"""The jobs of a choice. Each is a function of its settings, and none but the last kind
reads the test split."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from hashlib import blake2b
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.choosing.candidates import Candidate, learnable, small
from experiments.choosing.settings import Config, training
from experiments.choosing.sizes import PASSES, Sizes, drawn
from experiments.map.protocol import without_test
from reprojax import data, models, recipes
from reprojax.commands import controls, pictures
from reprojax.commands import train as commands
from reprojax.commands.controls import Outputs
from reprojax.commands.kept import cards_of, keep_control
from reprojax.commands.runs import train
from reprojax.commands.settings import pace
from reprojax.core import Params, Program
from reprojax.data import Split, Task
from reprojax.models import Model, Pixels
from reprojax.recipes import BlackBox, registry
from reprojax.saving import programs
from reprojax.training.checks import Diverged
from reprojax.training.loop import Fitted

DEADLINE = "deadline"
"""A file of the run's folder: when jobs should end, in seconds since 1970."""
PROBE, MAP, LINEAR = "linear probe", "best map without prompt", "linear map of logits"
PIXELS, FEATURES = "nearest pixels, no model", "nearest features"
FILED = {PROBE: "linear-probe", MAP: "map-only", LINEAR: "map-only"}
"""{control: its method}; the others are no programs."""


class Place(NamedTuple):
    """Where a job finds the model and the images."""

    config: Config
    load_backbone: Callable[..., Model[Pixels]] = models.load
    load_task: Callable[..., Task] = data.load
    duplicates: str = "keep"
    """As for `data.load`."""

    @property
    def backbone(self) -> Model[Pixels]:
        return _backbone(self.load_backbone, self.config.backbone)

    def task(self, seed: int) -> Task:
        """With a seed's training and validation images."""
        own = self.config
        sizes = (own.train, own.validation, own.test, own.test_seed)
        return _task(self.load_task, own.target, sizes, seed, self.duplicates)


@lru_cache(maxsize=1)
def _backbone(load: Callable[..., Model[Pixels]], name: str) -> Model[Pixels]:
    return load(name)


@lru_cache(maxsize=8)
def _task(
    load: Callable[..., Task],
    name: str,
    sizes: tuple[int | None, ...],
    seed: int,
    duplicates: str,
) -> Task:
    given = dict(zip(("train", "validation", "test", "test_seed"), sizes, strict=True))
    return load(name, seed=seed, duplicates=duplicates, **given)


def work(place: Place, settings: dict[str, Any]) -> Any:
    """Any job. It has one thread of BLAS: several in each of several processes wait for
    one another, and a regression took a hundred times as long."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _work(place, settings)


def _work(place: Place, settings: dict[str, Any]) -> Any:
    kind = settings["kind"]
    if kind == "controls":
        return measured_controls(place, settings["seeds"])
    if kind == "test":
        return tested(place, settings["control"], settings["file"], settings["seed"])
    own, seed = Candidate(*settings["candidate"]), settings["seed"]
    if kind == "trial":
        return tried(place, own, seed)
    sizes = Sizes(*settings["sizes"]) if "sizes" in settings else None
    given = settings["epochs"], seed, settings.get("file"), sizes
    return trained(place, own, *given)


# -- training


def trained(
    place: Place,
    own: Candidate,
    epochs: int,
    seed: int,
    file: str | None,
    sizes: Sizes | None = None,
) -> dict[str, Any]:
    """Train a candidate; it ends early where the time is over.

    Args:
        sizes: how many of the seed's images it has; None: all. They are drawn by the
            seed, so that all candidates have the same.

    Returns:
        "validation" (None if it had no time), "epochs" that it had, "learnable",
        "seconds", and what they are of: an "overhead", once, and each "epoch".
    """
    if _late(place):
        return {"validation": None, "epochs": 0}
    backbone, task = place.backbone, without_test(place.task(seed))
    task = task if sizes is None else drawn(task, sizes, seed)
    program = recipes.build(own.method, backbone, len(task.classes), own.map)
    found: dict[str, Any] = {"learnable": learnable(program, backbone, task)}
    begun, ends = time.perf_counter(), []

    def ended(told: Any) -> bool:
        ends.append(time.perf_counter() - begun)
        return _late(place)

    config = training(place.config, own, epochs, task)
    try:
        fitted = train(config, program, backbone, task, seed, "", **_how(own, ended))
    except Diverged:
        cost = {"overhead": 0.0, "epoch": (time.perf_counter() - begun) / epochs}
        found |= {
            "validation": 0.0,
            "epochs": epochs,
            "seconds": cost["epoch"] * epochs,
        }
        return found | {"diverged": True, **cost}
    total = time.perf_counter() - begun
    found["seconds"] = total
    if file is not None:
        _save(place, config, own, task, seed, fitted, file)
    cost = _cost(config, task, task, fitted, total, ends, epochs)
    score = {"validation": fitted.score["validation"], "epochs": len(ends) or epochs}
    return found | score | cost


def tried(place: Place, own: Candidate, seed: int) -> dict[str, float]:
    """The seconds of a candidate, from a few steps."""
    backbone, task = place.backbone, without_test(place.task(seed))
    config = training(place.config, own, 2, task)
    few = small(task, pace(config, task)[0])
    config = training(place.config, own, 2, few)
    program = recipes.build(own.method, backbone, len(task.classes), own.map)
    begun = time.perf_counter()
    try:
        fitted = train(config, program, backbone, few, seed, "", **_how(own, None))
    except Diverged as error:
        raise ValueError(f"{own.title} diverged in its first steps: {error}") from error
    total = time.perf_counter() - begun
    return _cost(config, few, task, fitted, total, [], 2)


def _how(own: Candidate, ended: Callable[[Any], bool] | None) -> dict[str, Any]:
    if isinstance(recipes.find_method(own.method).preset, BlackBox):
        return {"progress": False, "log": None}
    return {"progress": False, "out": None, "on_epoch": ended}


def _late(place: Place) -> bool:
    path = place.config.out / DEADLINE
    return path.exists() and time.time() > float(path.read_text())


def _cost(
    config: commands.Config,
    task: Task,
    whole: Task,
    fitted: Fitted,
    total: float,
    ends: list[float],
    epochs: int,
) -> dict[str, float]:
    """Seconds "overhead" of a run, of an "epoch" of the whole task, and of a "row" that
    is only answered.

    Args:
        task: on which it was trained, for that many epochs.
        ends: when each epoch ended.
    """
    if config.budget is not None:  # each query costs the same
        query = total / config.budget
        asked = Sizes.of(whole).queries
        epoch, overhead = query * (asked(1) - asked(0)), query * asked(0)
        return {"overhead": overhead, "epoch": epoch, "row": query}
    batch, steps, _ = pace(config, whole)
    step = fitted.seconds_per_step
    step = total / steps if np.isnan(step) else step  # a run of a single step
    row = step / PASSES / batch
    epoch = step * steps + row * len(whole.validation.y)
    spent = epochs * (step * pace(config, task)[1] + row * len(task.validation.y))
    if len(ends) > 1:
        epoch = (ends[-1] - ends[0]) / (len(ends) - 1)
        spent = epoch * len(ends)
    return {"overhead": max(0.0, total - spent), "epoch": epoch, "row": row}


def _save(
    place: Place,
    config: commands.Config,
    own: Candidate,
    task: Task,
    seed: int,
    fitted: Fitted,
    file: str,
) -> None:
    (card,) = _cards(config, place, [seed], {"alignment": own.map})
    split = {**card.split, "train": len(task.train.y)}
    score = {"validation": fitted.score["validation"]}
    card = card._replace(split=split, metric=score)
    programs.save(place.config.out / file, fitted.params, card)


def _cards(
    config: commands.Config,
    place: Place,
    seeds: list[int],
    arguments: Mapping[str, Any],
) -> list[programs.Card]:
    tasks = [place.task(seed) for seed in seeds]
    return [
        card._replace(seed=seed, split={**card.split, "seed": seed})
        for seed, card in zip(
            seeds, cards_of(config, place.backbone, tasks, arguments), strict=True
        )
    ]


# -- controls


def measured_controls(place: Place, seeds: list[int]) -> dict[str, list[float]]:
    """{control: validation accuracies by seed} of what needs no prompt; those that are
    programs are kept as files. The model sees each image once."""
    tasks = [without_test(place.task(seed)) for seed in seeds]
    splits = [split for task in tasks for split in (task.train, task.validation)]
    outputs = iter(once(place.backbone, splits))
    config = commands.Config(backbone=place.config.backbone, method="map-only")
    cards = _cards(config, place, seeds, {})
    found: dict[str, list[float]] = {}
    # To observe coordinates takes seconds: those of the winner are, at the end.
    alone = _maps(len(tasks[0].classes), len(place.backbone.classes))
    observed = dict.fromkeys((*alone, "linear", "linear-probe"), "")
    for task, card in zip(tasks, cards, strict=True):
        seen = {"train": next(outputs), "validation": next(outputs)}
        own = _programs(place, task, card, seen, alone, observed)
        for name, right in (own | _neighbours(place, task, seen)).items():
            found.setdefault(name, []).append(right)
    return found


def _programs(
    place: Place,
    task: Task,
    card: programs.Card,
    seen: Mapping[str, Outputs],
    alone: Mapping[str, Program],
    observed: dict[str, str],
) -> dict[str, float]:
    """{control that is a program: validation accuracy}; each is kept as a file."""
    best, scores = controls.best_map(alone, seen, card.seed)
    own = controls.estimated(alone[best], seen["train"], card.seed)
    fitted: dict[str, tuple[Any, ...]] = {MAP: (own, scores[best], best)}
    fitted[LINEAR] = (*linear_map(seen), "linear")
    if place.config.access == "white":
        right, probe = controls.logistic_probe(seen)
        fitted[PROBE] = controls.probe_params(probe), right
    for name, given in fitted.items():
        folder = commands.Config(out=place.config.out / _folder(name))
        own = folder, place.backbone, task, card, observed, FILED[name]
        keep_control(*own, *given)
    return {name: given[1]["validation"] for name, given in fitted.items()}


def _neighbours(
    place: Place, task: Task, seen: Mapping[str, Outputs]
) -> dict[str, float]:
    """{control without a program: validation accuracy}"""
    known, asked = (s.features for s in seen.values())
    rows = {PIXELS: (task.train.x, task.validation.x), FEATURES: (known, asked)}
    if place.config.access != "white":
        del rows[FEATURES]
    answers = {n: controls.nearest(a, task.train.y, b) for n, (a, b) in rows.items()}
    return {n: float((own == task.validation.y).mean()) for n, own in answers.items()}


def file_of(control: str, seed: int) -> str | None:
    """Where a control's program is, in the run's folder; None if it is none."""
    if control not in FILED:
        return None
    return f"{_folder(control)}/{FILED[control]}-{seed}.safetensors"


def _folder(control: str) -> str:
    return f"programs/{control.replace(' ', '-')}"


def _maps(targets: int, sources: int) -> dict[str, Program]:
    """Those that the model has classes for."""
    one_each = ("rlm", "flm")
    alone = controls.maps_alone(targets, sources)
    return {n: p for n, p in alone.items() if targets <= sources or n not in one_each}


def once(backbone: Model[Pixels], splits: Iterable[Split]) -> list[Outputs]:
    """The frozen outputs of splits that share images, each image computed once."""
    splits = list(splits)
    keys = [[blake2b(row.tobytes()).digest() for row in s.x] for s in splits]
    rows: dict[bytes, np.ndarray] = {}
    for own, split in zip(keys, splits, strict=True):
        for key, x in zip(own, split.x, strict=True):
            rows.setdefault(key, x)
    every = Split(np.stack([*rows.values()]), np.zeros(len(rows), np.int32))
    seen = controls.frozen_outputs(backbone, every)
    index = {key: i for i, key in enumerate(rows)}
    found = []
    for own, split in zip(keys, splits, strict=True):
        at = [index[key] for key in own]
        found.append(Outputs(seen.logits[at], seen.features[at], split.y))
    return found


def linear_map(seen: Mapping[str, Outputs]) -> tuple[Params, dict[str, float]]:
    """(params of the alignment "linear" without a prompt, accuracies): logistic
    regression on logits, without intercept; validation chooses its strength."""
    from sklearn.linear_model import LogisticRegression

    scale = seen["train"].logits.std(0) + 1e-6
    fits = []
    for strength in (0.001, 0.01, 0.1, 1.0):
        model = LogisticRegression(C=strength, max_iter=5000, fit_intercept=False)
        model.fit(seen["train"].logits / scale, seen["train"].labels)
        right = {
            n: float(model.score(s.logits / scale, s.labels)) for n, s in seen.items()
        }
        fits.append((right, model.coef_))
    right, weights = max(fits, key=lambda fit: fit[0]["validation"])
    if len(weights) == 1:  # of two classes: how far the second one is ahead
        weights = np.stack([0 * weights[0], weights[0]])
    kernel = jnp.asarray((weights / scale).T, jnp.float32)
    return Params({"output": {"kernel": kernel}}, {}), right


# -- the test split


def tested(
    place: Place, control: str | None, file: str | None, seed: int
) -> dict[str, Any]:
    """{"test": accuracy, "right": [0 or 1 for each test image]}"""
    backbone, task = place.backbone, place.task(seed)
    if file is not None:
        saved = programs.load(place.config.out / file)
        program, params = registry.rebuild(saved, backbone)
        answers = pictures.answers_of(program, params, backbone, task.test)
    else:
        assert control is not None  # what has no file is a control
        answers = _nearest(backbone, control, task)
    right = np.asarray(answers == task.test.y, int)
    return {"test": float(right.mean()), "right": right.tolist()}


def _nearest(backbone: Model[Pixels], control: str, task: Task) -> np.ndarray:
    seen = partial(controls.frozen_outputs, backbone)
    of = lambda s: s.x if control == PIXELS else seen(s).features
    return controls.nearest(of(task.train), task.train.y, of(task.test))
