"""What a learned prompt in a frozen encoder has to beat: rules, heads, neighbours.

Each control is (data, seed) -> the classes that it gives to the test texts. What it has
to choose, it chooses by the validation texts.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from reprojax.data import Task

STRENGTHS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
DIGITS = 4  # a message with more is spam
CHARACTERS = [chr(i) for i in range(32, 127)] + ["£"]


class Seen(NamedTuple):
    """A draw: its texts, and the frozen encoder's vectors of them, of length 1."""

    task: Task
    vectors: Mapping[str, np.ndarray]
    """{split: [N D]}"""
    names: np.ndarray
    """[T D], of the classes' names."""


class Found(NamedTuple):
    """What a control gave."""

    test: np.ndarray
    """The class of each test text."""
    validation: float | None = None
    """The accuracy by which it was chosen, if it was."""


class Linear(NamedTuple):
    """Scores x @ kernel + bias."""

    kernel: np.ndarray
    bias: np.ndarray


def centroids(vectors: np.ndarray, y: np.ndarray, targets: int) -> np.ndarray:
    """The directions of the classes' means [T D]."""
    means = np.stack([vectors[y == c].mean(0) for c in range(targets)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def nearest_centroid(seen: Seen) -> Found:
    """The class whose mean points the same way."""
    train = seen.task.train
    middle = centroids(seen.vectors["train"], train.y, len(seen.task.classes))
    return _by_scores(seen, middle.T)


def class_names(seen: Seen) -> Found:
    """The class whose name is nearest: no example at all."""
    return _by_scores(seen, seen.names.T)


def nearest_neighbour(seen: Seen) -> Found:
    """The class of the nearest training text."""
    near = (seen.vectors["test"] @ seen.vectors["train"].T).argmax(1)
    return Found(seen.task.train.y[near])


def _by_scores(seen: Seen, kernel: np.ndarray) -> Found:
    return Found((seen.vectors["test"] @ kernel).argmax(1))


def regression(features: Mapping[str, np.ndarray], task: Task) -> tuple[Linear, float]:
    """Logistic regression, its classes alike; validation chooses its strength."""
    from sklearn.linear_model import LogisticRegression

    best, chosen = -1.0, None
    for strength in STRENGTHS:
        model = LogisticRegression(
            C=strength, max_iter=1000, class_weight="balanced", tol=1e-3
        ).fit(features["train"], task.train.y)
        answers = model.predict(features["validation"])
        if (reached := balanced(answers, task.validation.y)) > best:
            best, chosen = reached, model
    assert chosen is not None
    kernel, bias = chosen.coef_.T, chosen.intercept_
    if kernel.shape[1] == 1:  # two classes have one score
        kernel, bias = np.hstack([-kernel, kernel]) / 2, np.array([-bias, bias]) / 2
    return Linear(kernel, bias.reshape(-1)), best


def probe(seen: Seen) -> Found:
    """Logistic regression on the encoder's vectors."""
    return _regressed(seen, seen.vectors)


def characters_probe(seen: Seen) -> Found:
    """Logistic regression on counts of characters: no encoder."""
    return _regressed(seen, counted(seen.task))


def joint_probe(seen: Seen) -> Found:
    """Logistic regression on both."""
    counts = counted(seen.task)
    both = {name: np.hstack([5 * seen.vectors[name], counts[name]]) for name in counts}
    return _regressed(seen, both)


def _regressed(seen: Seen, features: Mapping[str, np.ndarray]) -> Found:
    line, reached = regression(features, seen.task)
    return Found((features["test"] @ line.kernel + line.bias).argmax(1), reached)


def counted(task: Task) -> dict[str, np.ndarray]:
    """log(1 + count) of each character, and of all, by split."""

    def row(text: str) -> list[int]:
        return [*(text.count(c) for c in CHARACTERS), len(text)]

    return {
        name: np.log1p(np.array([row(str(x)) for x in getattr(task, name).x], float))
        for name in ("train", "validation", "test")
    }


def many_digits(seen: Seen) -> Found:
    """Spam has more than four digits: one line, nothing learned."""
    digits = [sum(c.isdigit() for c in str(text)) for text in seen.task.test.x]
    return Found((np.array(digits) > DIGITS).astype(int))


# -- how good


def accuracy(answers: np.ndarray, y: np.ndarray) -> float:
    """How many are right."""
    return float((np.asarray(answers) == y).mean())


def balanced(answers: np.ndarray, y: np.ndarray) -> float:
    """The mean over classes of how many of their own are right."""
    right = np.asarray(answers) == y
    return float(np.mean([right[y == c].mean() for c in np.unique(y)]))


def f1(answers: np.ndarray, y: np.ndarray) -> float:
    """Of class 1: the harmonic mean of precision and recall."""
    answers = np.asarray(answers)
    both = ((answers == 1) & (y == 1)).sum()
    return float(2 * both / max((answers == 1).sum() + (y == 1).sum(), 1))


Measure = Callable[[np.ndarray, np.ndarray], float]
Control = Callable[[Seen], Found]
CONTROLS: dict[str, dict[str, Control]] = {
    "banking77": {
        "linear probe": probe,
        "nearest centroid": nearest_centroid,
        "nearest neighbour": nearest_neighbour,
        "names of the classes": class_names,
    },
    "sms-spam": {
        "linear probe": probe,
        "nearest centroid": nearest_centroid,
        "nearest neighbour": nearest_neighbour,
        "names of the classes": class_names,
        "more than four digits": many_digits,
        "characters, counted": characters_probe,
        "vectors and characters": joint_probe,
    },
}
