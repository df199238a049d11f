"""The methods of `three_paradigms` on a frozen image classifier."""

from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import optax

from experiments.shared.assets import load_task
from experiments.three_paradigms.methods import (
    Bench,
    Made,
    Method,
    Remembered,
    best_map,
    linear_probe,
    majority,
    searched,
    told,
)
from reprojax import recipes
from reprojax.commands import controls
from reprojax.core import Program
from reprojax.data import Split, Task
from reprojax.models import Model, Pixels
from reprojax.recipes import find_alignment
from reprojax.taxonomy import Description, describe
from reprojax.training.steps import evaluate


class Settings(NamedTuple):
    """Sizes, and rates that were chosen on the validation images of another draw."""

    target: str
    ks: tuple[int, ...]
    validation: int
    test: int
    steps: int
    batch: int
    map: str
    """Of the learned padding."""
    inner: int
    """Side of the image inside the padding, in pixels."""
    length: int
    """Learned tokens a block."""
    rates: dict[str, float]
    rate: float | None = None
    """Instead of all of these."""


# Chosen on the validation images of seed 100, which no reported run has.
SETTINGS = Settings(
    target="clothing",
    ks=(10, 40, 160),
    validation=100,
    test=149,
    steps=40,
    batch=8,
    map="blm+15",
    inner=192,
    length=5,
    rates={"padding": 0.03, "visual prompt tuning": 0.01},
)


class Images:
    """A classifier, a task, and what its methods share."""

    def __init__(self, backbone: Model[Pixels], settings: Settings):
        self.backbone, self.settings = backbone, settings
        self.classes = len(self.task(0).classes)
        self.look = Remembered(partial(controls.frozen_outputs, backbone))

    def task(self, seed: int) -> Task:
        """Three splits, drawn anew by each seed."""
        own = self.settings
        return load_task(
            own.target,
            validation=own.validation,
            test=own.test,
            seed=seed,
            test_seed=seed,
        )

    def described(self, program: Program) -> Description:
        x = self.task(0).train.x[:2]
        return describe(program, self.backbone.frozen, x, roles=self.backbone.roles)

    @cached_property
    def programs(self) -> dict[str, Program]:
        """One of each for all draws, so that it is compiled once."""
        own, align = self.settings, find_alignment(self.settings.map)
        padding, vpt = recipes.find_method("padding"), recipes.find_method("vpt-deep")
        return {
            "padding": padding.build(
                self.backbone,
                align.build(self.classes),
                inner=own.inner,
            ),
            "visual prompt tuning": vpt.build(
                self.backbone, self.classes, length=own.length
            ),
        }

    @cached_property
    def optimizers(self) -> dict[str, optax.GradientTransformation]:
        own = self.settings
        return {n: optax.adam(own.rate or rate) for n, rate in own.rates.items()}

    def learned(self, task: Task, seed: int, name: str) -> Made:
        program, frozen = self.programs[name], self.backbone.frozen
        own = self.settings
        found = searched(
            program,
            frozen,
            task,
            self.optimizers[name],
            steps=own.steps,
            batch=own.batch,
            seed=seed,
        )
        size = min(own.batch, own.test)

        def score(split: Split) -> float:
            return evaluate(program, found.params, frozen, split, size)

        seen = self.described(program)
        return Made(score, score, found.validation, seen, told(found, own.steps))

    def mapped(self, task: Task, seed: int) -> Made:
        return best_map(self.look, task, seed, len(self.backbone.classes), self.sources)

    def sources(self, label_map: np.ndarray) -> list[str]:
        """The model's classes that weigh most for each of the task's."""
        lines = []
        names = self.task(0).classes
        for name, column in zip(names, label_map.T, strict=True):
            best = np.argsort(-column, kind="stable")[:4]
            words = (f"{self.backbone.classes[i]} {column[i]:.2f}" for i in best)
            lines.append(f"{name}: {', '.join(words)}")
        return lines

    def probed(self, task: Task, seed: int) -> Made:
        program = recipes.linear_probe(self.backbone, targets=self.classes)
        return linear_probe(self.look, task, self.described(program))


def bench(backbone: Model[Pixels], settings: Settings) -> Bench:
    """The methods for a task of images."""
    own = Images(backbone, settings)
    learned = lambda paradigm, name: Method(
        paradigm, partial(own.learned, name=name), learned=True
    )
    methods = {
        "majority class": Method("control", majority, examples=False),
        "visual prompt tuning": learned("tuning", "visual prompt tuning"),
        "padding": learned("reprogramming", "padding"),
        "map without prompt": Method("reprogramming", own.mapped),
        "linear probe": Method("control", own.probed),
    }
    remarks = [
        f"{settings.test} test and {settings.validation} validation images, both drawn "
        "anew by each seed. Visual prompt tuning learns a linear head too."
    ]
    identity = {
        "model": backbone.name,
        "weights": backbone.fingerprint,
        "settings": {n: v for n, v in settings._asdict().items() if n != "ks"},
    }
    return Bench(
        f"{backbone.name} on {settings.target}",
        own.task,
        methods,
        settings.ks,
        settings.batch,
        identity,
        remarks,
    )
