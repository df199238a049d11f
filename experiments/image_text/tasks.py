"""Images with names of classes, in base and new halves, and a few shots of each."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments.shared import assets
from experiments.train_sketches import captions
from reprojax import data
from reprojax.data import Split, Task
from reprojax.models import image_text

DRAWN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "unseen-figures": lambda x: x,
    "dark-figures": lambda x: (0.25 * x).astype(np.uint8),
    "upside-down-figures": lambda x: np.ascontiguousarray(x[:, ::-1]),
}
"""The 24 pairs of a manner and a figure that the embedded pair has never seen: as it
knows figures, and in two ways that no image of its training had."""


def read(target: str, seed: int = 0, pool: int = 1600, test: int = 2000) -> Task:
    """A task by name, or of a folder: all images from which shots are drawn."""
    if target not in DRAWN:
        return assets.load_task(target, seed=seed)
    parts = []
    for i, count in enumerate((pool, pool // 4, test)):
        x, y = _unseen(np.random.default_rng((7, seed, i)), count)
        parts.append(Split(DRAWN[target](x), y))
    return Task(target, *parts, classes=tuple(captions.unseen_names()))


def _unseen(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = captions.draw(rng, number, unseen=True)
    return drawn.images, captions.unseen_numbers(drawn)


def descriptions(
    classes: Sequence[str], files: Sequence[str] = ()
) -> list[dict[str, Sequence[str]]]:
    """{class: texts}, what it looks like and what sets it apart, for AttrVR.

    Args:
        classes: all that are trained on or asked about.
        files: one of each kind, {class: texts} as JSON; () for our drawn figures.
    """
    if files:
        return [dict(image_text.read_sentences(f, classes)) for f in files]
    if unknown := set(classes) - set(captions.unseen_names()):
        raise ValueError(
            f"got no sentences for {sorted(unknown)[:3]}, expected two files of them "
            "for attrvr; give --descriptions LOOKS.json APART.json, or leave it out"
        )
    looks, apart = {}, {}
    for name, (manner, figure) in zip(
        captions.unseen_names(), captions.UNSEEN, strict=True
    ):
        forms = [f.format("", figure) for f in captions.NAMES[manner]]
        own = [" ".join(form.split()) for form in forms]
        looks[name] = [f"{b}{form}" for form in own for b in ("", "a drawing of ")]
        ends = [f" on a {ground} ground" for ground in captions.GROUNDS]
        apart[name] = [f"{form}{end}" for form in own[:2] for end in ends]
    return [{n: kind[n] for n in classes} for kind in (looks, apart)]


def of_classes(task: Task, which: Sequence[int], name: str) -> Task:
    """The task with some of its classes, in this order."""
    place = np.full(len(task.classes), -1, np.int32)
    place[list(which)] = np.arange(len(which))

    def some(split: Split) -> Split:
        rows = np.flatnonzero(place[split.y] >= 0)
        return Split(split.x[rows], place[split.y[rows]])

    return task._replace(
        name=f"{task.name}, {name} classes",
        train=some(task.train),
        validation=some(task.validation),
        test=some(task.test),
        classes=tuple(task.classes[i] for i in which),
    )


def halves(task: Task) -> tuple[Task, Task]:
    """Base and new classes: the first half and the rest, as CoCoOp divides them."""
    count = len(task.classes)
    if count < 4:
        raise ValueError(
            f"got {task.name} of {count} classes, expected at least 4: two to train on "
            "and two new ones; call --protocol few-shot"
        )
    middle = -(-count // 2)
    parts = range(middle), range(middle, count)
    base, new = (
        of_classes(task, part, name)
        for part, name in zip(parts, ("base", "new"), strict=True)
    )
    return base, new


def few(task: Task, shots: int, seed: int) -> Task:
    """So many training images a class, and at most 4 of each for validation."""
    task = data.shots(task, shots, seed)
    rng, rows = np.random.default_rng((seed, 5)), []
    for label in range(len(task.classes)):
        own = np.flatnonzero(task.validation.y == label)
        rows += [*rng.permutation(own)[: min(shots, 4)]]
    kept = np.sort(np.array(rows, int))
    validation = Split(task.validation.x[kept], task.validation.y[kept])
    return task._replace(validation=validation)
