"""A frozen causal model, asked in words whether a message is spam."""

from collections.abc import Sequence

import numpy as np

from reprojax.data import Task
from reprojax.recipes.prompt_instruction import few_shot, zero_shot
from reprojax.text import Continuation, Language, Scored, labelled, shuffled
from reprojax.text.calibration import contextual_calibration
from reprojax.text.procedure import Procedure, Row

TEMPLATE = "Message: {text}\nThis message is {label}"
LABELS = ("normal", "spam")
SHOWN = 16
CALIBRATED = ", calibrated"
SHORT, LONG = "zero-shot", f"{SHOWN} demonstrations"
WORDS = (SHORT, SHORT + CALIBRATED, LONG, LONG + CALIBRATED)


def remembering(language: Language) -> Language:
    """The same, but what was scored once is not scored again."""
    known: dict[Continuation, Scored] = {}

    def score(items: Sequence[Continuation]) -> list[Scored]:
        new = [item for item in items if item not in known]
        if new and language.score is not None:
            known.update(zip(new, language.score(new), strict=True))
        return [known[item] for item in items]

    return language._replace(score=score)


def asked(name: str, task: Task, seed: int) -> Procedure:
    """A program by its name, without CALIBRATED."""
    if name == SHORT:
        return zero_shot(TEMPLATE, LABELS)
    return few_shot(TEMPLATE, LABELS, demonstrations(task, seed))


def demonstrations(task: Task, seed: int) -> Sequence[Row]:
    """Training messages, equally many of each class, in an order drawn by seed."""
    each = SHOWN // len(LABELS)
    order = np.random.default_rng(seed).permutation(len(task.train.y))
    rows = [order[task.train.y[order] == c][:each] for c in range(len(LABELS))]
    chosen = np.concatenate(rows)
    return shuffled(
        labelled(task.train.x[chosen].tolist(), task.train.y[chosen], LABELS), seed
    )


def in_words(language: Language, name: str, task: Task, seed: int) -> np.ndarray:
    """The class of each test message."""
    program = asked(name.removesuffix(CALIBRATED), task, seed)
    params = program.init(None, language)
    if name.endswith(CALIBRATED):
        params = contextual_calibration(program, params, language)
    rows = [{"text": str(text)} for text in task.test.x]
    return np.array([a.value for a in program.apply(params, language, rows)])
