"""How many images a run of a search has, and what these cost.

Where an epoch of all training images takes too long, the candidates of a search train
on a part of them. It is drawn by a seed, with the class shares of all.
"""

from typing import NamedTuple

import numpy as np

from experiments.choosing.schedule import Cost
from reprojax.data import Split, Task
from reprojax.data.splits import draw

PASSES = 3
"""Of an image through the model in a step: a gradient costs about two more."""
CHECKS = 10
"""How often a search by queries asks for the validation images."""
STEPS = 4
"""Of an epoch at least, where it is not of all images; the trial makes as many."""
LESS = 0.9
"""Of the images each smaller number has."""


class Sizes(NamedTuple):
    """Numbers of images."""

    train: int
    validation: int

    @classmethod
    def of(cls, task: Task) -> "Sizes":
        return cls(len(task.train.y), len(task.validation.y))

    def queries(self, epochs: int) -> int:
        """The budget of a search: four a training image and epoch, besides the first
        map and the checks."""
        return CHECKS * self.validation + self.train + 4 * self.train * epochs

    def part(self, train: int, asks: bool) -> "Sizes":
        """So many training images, and no more validation images than cost the same:
        else a round would spend its time on the score of what it hardly trains.

        Args:
            asks: the model only answers.
        """
        if train == self.train:
            return self
        one = Sizes(1, 0).queries(1) / CHECKS if asks else PASSES
        return Sizes(train, min(self.validation, max(1, int(one * train))))


def numbers(task: Task, batch: int) -> list[int]:
    """How many training images a run may have: all, and whole batches down to `STEPS`
    and one image of each class."""
    every, classes = len(task.train.y), len(np.unique(task.train.y))
    least = max(STEPS, -(-classes // batch))
    found, steps = [every], int(LESS * every / batch)
    while steps >= least:
        found.append(steps * batch)
        steps = int(LESS * steps)
    return found


def drawn(task: Task, sizes: Sizes, seed: int) -> Task:
    """The task with so many of its training and validation images, by class shares; one
    of each class at least is there to train on."""
    y = {"train": task.train.y, "validation": task.validation.y, "test": task.test.y}
    rows = draw(y, len(task.classes), sizes=sizes._asdict(), seed=seed)
    train = _taken(task.train, rows[0])
    validation = _taken(task.validation, rows[1] - len(task.train.y))
    return task._replace(train=train, validation=validation)


def _taken(split: Split, rows: np.ndarray) -> Split:
    return split._replace(x=split.x[rows], y=split.y[rows])


def resized(cost: Cost, old: Sizes, new: Sizes, asks: bool) -> Cost:
    """What a run costs with the new numbers of images, from its cost with the old."""
    if asks:  # each query costs the same
        once, each = new.queries(0) / old.queries(0), new.train / old.train
        return cost._replace(overhead=cost.overhead * once, epoch=cost.epoch * each)
    passes = lambda sizes: PASSES * sizes.train + sizes.validation
    return cost._replace(epoch=cost.epoch * passes(new) / passes(old))
