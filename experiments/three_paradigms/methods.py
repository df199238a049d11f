"""What the methods of `three_paradigms` share: k examples, a fit, a row a method."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import msgspec
import numpy as np
import optax

from reprojax import Params, Program, reprogram
from reprojax.alignments import centred
from reprojax.commands import controls
from reprojax.core import PyTree
from reprojax.data import Split, Task
from reprojax.data.rows import taken
from reprojax.locations import opaque
from reprojax.recipes import find_alignment
from reprojax.saving.files import read_json
from reprojax.taxonomy import Description, describe
from reprojax.training.loop import fit
from reprojax.training.losses import Loss, cross_entropy

Paradigm = Literal["instruction", "tuning", "reprogramming", "control"]
STEPS = 8  # an epoch, where the examples are few: validation is read that often


class Made(NamedTuple):
    """What a method made of the examples."""

    score: Callable[[Split], float]
    """Accuracy on a split; the test split is given to it once."""
    answer: Callable[[Split], Any]
    """The answers to some rows as a user would get them: this is timed."""
    validation: float
    seen: Description
    """Its coordinates and numbers, observed."""
    shown: str
    """What was found, in words."""


class Method(NamedTuple):
    """One row of the table."""

    paradigm: Paradigm
    make: Callable[[Task, int], Made]
    """(a task whose training split is the k examples, seed) -> what was made"""
    examples: bool = True
    """Whether it takes any."""
    learned: bool = False
    """Whether anything is searched for."""


class Bench(NamedTuple):
    """A frozen model, a task, and the methods for it."""

    title: str
    task: Callable[[int], Task]
    """seed -> three splits, all of them drawn anew"""
    methods: dict[str, Method]
    ks: tuple[int, ...]
    rows: int
    """Queries of a batch, as they are timed."""
    identity: dict[str, Any]
    """What decides a cell besides method, k and seed, as JSON."""
    remarks: list[str]
    """What a reader of the table has to know."""


class Cell(NamedTuple):
    """A number of the table with what belongs to it, kept as JSON."""

    method: str
    k: int
    """0 where none are used."""
    seed: int
    examples: int
    """Those used: k, or one a class where k is less."""
    test: float
    validation: float
    learnable: int
    """Numbers, those without an effect (inside a frame) not counted."""
    milliseconds: float
    """A query, in a batch, compiled and read before."""
    coordinates: str
    program: str
    shown: str
    seconds: float
    """Of everything: search, choice, test."""


def path_of(out: Path, method: str, k: int, seed: int) -> Path:
    """Where a cell is kept."""
    plain = re.sub(r"[^a-z0-9]+", "-", method.lower())
    return out / "cells" / f"{plain}-k{k}-seed{seed}.json"


def kept(out: Path) -> list[Cell]:
    """All cells of a folder.

    Raises:
        ValueError: a file holds another thing than a cell, or a number that is NaN or
            infinite, which JSON has not; remove it to run the cell again.
    """
    paths = sorted((out / "cells").glob("*.json"))
    keys = list(Cell.__annotations__.items())
    form = msgspec.defstruct("Kept", keys, forbid_unknown_fields=True)
    return [Cell(*msgspec.structs.astuple(read_json(path, form))) for path in paths]


def filled(bench: Bench, name: str, k: int, seed: int, task: Task) -> Cell:
    """Make, time and test: the one place where the test split is read."""
    begun = time.perf_counter()
    made = bench.methods[name].make(task, seed)
    per_query = milliseconds(made, task.validation, bench.rows)
    test = made.score(task.test)
    if not np.isfinite([test, made.validation]).all():
        raise ValueError(
            f"{name}, k = {k}, seed {seed}: an accuracy is not finite (test {test}, "
            f"validation {made.validation}); no cell of a table is made of it"
        )
    return Cell(
        name,
        k,
        seed,
        len(task.train.y) if k else 0,
        test,
        made.validation,
        made.seen.acting,
        per_query,
        made.seen.coordinates,
        str(made.seen),
        made.shown,
        time.perf_counter() - begun,
    )


def examples(task: Task, k: int, seed: int) -> Task:
    """The task with k of its training rows in all, and at least one a class.

    As equally many of each class as can be. A smaller draw is the beginning of a larger
    one, in the order in which a prompt shows them.
    """
    rng, y = np.random.default_rng((seed, 7)), task.train.y
    piles = [rng.permutation(np.flatnonzero(y == c)) for c in range(len(task.classes))]
    order, turn = [], 0
    k = max(k, len(piles))
    if k > len(y):
        raise ValueError(
            f"got k={k} examples for {len(y)} training rows of {task.name}, expected "
            "no more than these; give a smaller one of --ks, or less --validation"
        )
    while len(order) < k:
        some = [pile[turn] for pile in piles if turn < len(pile)]
        order += rng.permutation(some).tolist()
        turn += 1
    rows = np.array(order[:k])
    return task._replace(train=Split(taken(task.train.x, rows), y[rows]))


class Found(NamedTuple):
    """Params that validation chose, and how."""

    params: Params
    validation: float
    curves: np.ndarray
    """[epochs 2]: loss, validation accuracy."""


def searched(
    program: Program,
    frozen: PyTree,
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    batch: int,
    seed: int,
    loss: Loss = cross_entropy,
) -> Found:
    """`fit` for so many steps, chosen by validation. The test split is not read here.

    Few examples come again and again, so that an epoch has 8 steps at least.
    """
    n = len(task.train.y)
    size = min(batch, n)
    rows = np.arange(max(n, STEPS * size)) % n
    train = Split(taken(task.train.x, rows), task.train.y[rows])
    one = np.arange(1)
    held = task.validation
    unread = Split(taken(held.x, one), held.y[one])  # fit reads a test split at its end
    fitted = fit(
        program,
        frozen,
        task._replace(train=train, test=unread),
        optimizer=optimizer,
        epochs=max(1, round(steps * size / len(rows))),
        batch=size,
        seed=seed,
        loss=loss,
        progress=False,
    )
    return Found(fitted.params, fitted.score["validation"], fitted.curves)


def told(found: Found, steps: int) -> str:
    """How a search went, in a line."""
    loss, accuracy = found.curves[:, :2].T
    best = int(accuracy.argmax()) + 1
    return (
        f"{steps} steps, loss {loss[0]:.3f} in the first epoch and {loss[-1]:.3f} in "
        f"the last; validation chose epoch {best} of {len(loss)}"
    )


def milliseconds(made: Made, split: Split, rows: int, times: int = 3) -> float:
    """A query, in a batch of so many: the median, once it is compiled and read."""
    few = Split(taken(split.x, np.arange(rows)), split.y[:rows])
    made.answer(few)
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        jax.block_until_ready(made.answer(few))
        found.append(time.perf_counter() - begun)
    return 1e3 * float(np.median(found)) / rows


class Remembered:
    """A function of a split that is called once for each; it keeps the last few."""

    def __init__(self, look: Callable[[Split], Any], most: int = 8):
        self.look, self.most = look, most
        self.kept: OrderedDict[str, Any] = OrderedDict()

    def __call__(self, split: Split) -> Any:
        key = hashlib.sha256(split.x.tobytes() + split.y.tobytes()).hexdigest()
        if key not in self.kept:
            self.kept[key] = self.look(split)
        self.kept.move_to_end(key)
        while len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return self.kept[key]


def linear_probe(look: Remembered, task: Task, seen: Description) -> Made:
    """Logistic regression on the features; validation chooses its strength."""
    known = {"train": look(task.train), "validation": look(task.validation)}

    def score(split: Split) -> float:
        return controls.logistic_probe(known | {"test": look(split)})[0]["test"]

    chosen = controls.logistic_probe(known)[0]["validation"]
    return Made(score, look.look, chosen, seen, "")


def best_map(
    look: Remembered,
    task: Task,
    seed: int,
    sources: int,
    words: Callable[[np.ndarray], list[str]] | None = None,
) -> Made:
    """The label map, of several, that validation chooses; there is no prompt."""
    known = {"train": look(task.train), "validation": look(task.validation)}
    alone = heads(len(task.classes), sources)
    name, all_of = controls.best_map(alone, known, seed)
    params = controls.estimated(alone[name], known["train"], seed)

    def score(split: Split) -> float:
        return controls.accuracy(alone[name], params, look(split))

    seen = describe(alone[name], (), known["validation"].logits[:2])
    weights = map_of(params.fixed["output"])
    lines = [f"{name}, chosen by validation", *(words(weights) if words else [])]
    return Made(score, look.look, all_of[name]["validation"], seen, "\n".join(lines))


@cache  # so that all draws share what was compiled
def heads(targets: int, sources: int) -> dict[str, Program]:
    """The maps of `controls.maps_alone`, and those that are estimated centred too."""
    alone = controls.maps_alone(targets, sources)
    maps = {n: find_alignment(n).build(targets) for n in alone if n != "rlm"}
    cached = opaque(lambda frozen, logits: logits)
    return alone | {
        f"{name}, centred": reprogram(cached, {"output": centred(own)})
        for name, own in maps.items()
    }


def map_of(fixed: Any) -> np.ndarray:
    """The weights [S T] among what an alignment has fixed."""
    while isinstance(fixed, dict):
        fixed = fixed["map"]
    return np.asarray(fixed)


def majority(task: Task, seed: int) -> Made:
    """The class that most of the training texts have, whatever is asked."""
    counts = np.bincount(task.train.y)
    most = int(counts.argmax())
    share = lambda split: float((split.y == most).mean())
    shown = f"always {task.classes[most]!r}"
    seen = Description((), "rule")
    return Made(share, lambda split: 0, share(task.validation), seen, shown)
