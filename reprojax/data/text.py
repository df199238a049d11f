"""Texts with classes, as tasks; questions with written answers, as rows.

Splits follow the rule of all tasks: a set's own splits are kept, validation is drawn
from training, and the test split is read once, at the end. A text that occurs twice is
kept once, and a text of the set's own test split is removed from training, so that no
split contains another's texts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reprojax.data.checks import check, labels
from reprojax.data.splits import draw
from reprojax.data.task import Split, Task

Labelled = tuple[list[str], list[int]]
Sizes = int | float | None


class Questions(NamedTuple):
    """Rows {question, answer}, and {steps} if the set has them, in three splits."""

    name: str
    train: tuple[dict[str, str], ...]
    validation: tuple[dict[str, str], ...]
    test: tuple[dict[str, str], ...]


def from_texts(
    parts: Mapping[str, Labelled],
    classes: Sequence[str],
    *,
    name: str = "texts",
    sizes: Mapping[str, Sizes] | None = None,
    seed: int = 0,
    test_seed: int | None = None,
) -> Task:
    """A task from {split: (texts, labels)}, at least "train"; labels index classes."""
    for part, (x, y) in parts.items():
        _check_texts(part, x)
        labels(y, part)
    parts = _distinct({part: (list(x), list(y)) for part, (x, y) in parts.items()})
    y = {part: labels(own[1], part) for part, own in parts.items()}
    rows = draw(y, len(classes), sizes=sizes or {}, seed=seed, test_seed=test_seed)
    every_x = np.array([text for x, _ in parts.values() for text in x])
    every_y = np.concatenate(list(y.values())).astype(np.int32)
    splits = [Split(every_x[r], every_y[r]) for r in rows]
    return check(Task(name, *splits, classes=tuple(classes), holds="text"))


def _check_texts(part: str, texts: Sequence[str]) -> None:
    wrong = [i for i, text in enumerate(texts) if not isinstance(text, str)]
    if isinstance(texts, str) or wrong:
        first = texts if isinstance(texts, str) else texts[wrong[0]]
        raise ValueError(
            f"{part}: {len(wrong) or 'all'} of {len(texts)} texts are none (first "
            f"{first!r}), expected strings; drop these rows, or fill them"
        )


def _distinct(parts: Mapping[str, Labelled]) -> dict[str, Labelled]:
    """Remove repeated texts; published test and validation texts are kept."""
    seen: dict[str, tuple[int, str]] = {}
    kept: dict[str, Labelled] = {}
    for part in sorted(parts, key=["test", "validation", "train"].index):
        texts, own = [text.strip() for text in parts[part][0]], parts[part][1]
        if len(texts) != len(own):
            raise ValueError(
                f"{part}: {len(texts)} texts and {len(own)} labels; expected one each"
            )
        rows = []
        for i, (text, label) in enumerate(zip(texts, own, strict=True)):
            first, where = seen.setdefault(text, (label, f"{part} {i}"))
            if first != label:
                raise ValueError(
                    f"{text[:60]!r} has the label {label} in {part} {i} and {first} in "
                    f"{where}; expected one; correct the data"
                )
            first_part = where.split()[0]
            if part in ("test", first_part) and (
                part != "train" or where == f"train {i}"
            ):
                rows.append(i)
        kept[part] = [texts[i] for i in rows], [own[i] for i in rows]
    return {part: kept[part] for part in parts}
