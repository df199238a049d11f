"""Which prompts win, whether any beats no prompt, and how the survey's empty cells do.

Arrays are [T 18 4 N], as of `experiments.map.rows.grid`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import NamedTuple

import numpy as np

from experiments.map.rows import mean
from reprojax.commands.intervals import Mean, mean_of
from reprojax.taxonomy import OMEGAS


def beaten(scores: np.ndarray) -> np.ndarray:
    """The share of the other prompts behind the same alignment that do better on a
    task, ties half: 0 is the best and 1 the last; [T 18 4] to [T 18 4].

    A rank that compares tasks on which not all prompts can stand.
    """
    own, other = scores[:, :, None], scores[:, None]
    better = (other > own) + 0.5 * (other == own)
    there = np.isfinite(scores)
    others = (there.sum(1, keepdims=True) - 1) * there
    sums = better.sum(2) - 0.5 * there  # but for itself
    nothing = np.full(scores.shape, np.nan)
    return np.divide(sums, others, out=nothing, where=others > 0)


def places(accuracy: np.ndarray) -> np.ndarray:
    """The mean of `beaten` over tasks, and over tasks and alignments, [18 5]."""
    own = beaten(mean(accuracy, -1))
    return np.concatenate([mean(own, 0), mean(own, (0, 2))[:, None]], 1)


def wins(accuracy: np.ndarray) -> np.ndarray:
    """On how many pairs of a task and an alignment each prompt is the best, [18]."""
    scores = mean(accuracy, -1)
    there = np.isfinite(scores).any(1)
    first = np.where(np.isfinite(scores), scores, -np.inf).argmax(1)[there]
    return np.bincount(first, minlength=scores.shape[1])


class Pair(NamedTuple):
    """A prompt that is better than another on every task where both stand."""

    better: int
    worse: int
    tasks: int
    least: Mean
    """The smallest of the tasks' differences, with its interval over seeds."""


def compared(accuracy: np.ndarray, better: int, worse: int) -> list[Mean]:
    """The paired differences of two prompts, a mean over alignments, on each task."""
    own = mean(accuracy[:, better] - accuracy[:, worse], 1)
    return [mean_of(task) for task in own if np.isfinite(task).all()]


def dominating(accuracy: np.ndarray, tasks: int = 2) -> tuple[list[Pair], int, float]:
    """(pairs with an interval above 0 on every task, the number of pairs compared, how
    many would be found by chance if all prompts were equal).

    Args:
        tasks: on which both prompts have to stand, at least.
    """
    pairs, count, chance = [], 0, 0.0
    for better, worse in permutations(range(accuracy.shape[1]), 2):
        found = compared(accuracy, better, worse)
        if len(found) < tasks:
            continue
        count += better < worse
        chance += 0.025 ** len(found)
        if all(one.value - one.half > 0 for one in found):
            least = min(found, key=lambda one: one.value)
            pairs.append(Pair(better, worse, len(found), least))
    return pairs, count, chance


# -- chosen on validation


def picked(validation: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """The prompt of the best mean validation accuracy, [T 4]; -1 where there is none.

    Args:
        among: bool [18 4], which cells to choose from.
    """
    scores = mean(validation, -1)
    there = np.isfinite(scores) & (True if among is None else among)
    first = np.where(there, scores, -np.inf).argmax(1)
    return np.where(there.any(1), first, -1)


def taken(accuracy: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """The accuracies [T 4 N] of the prompts [T 4]; NaN where there is none."""
    found = np.take_along_axis(accuracy, prompts[:, None, :, None], 1)[:, 0]
    return np.where(prompts[..., None] < 0, np.nan, found)


def control_grid(
    controls: Mapping[tuple[str, str], Mapping[int, float]],
    benches: Sequence[str],
    seeds: Sequence[int],
) -> np.ndarray:
    """The controls `no-prompt-ALIGNMENT` of the same seeds, [T 4 N]."""
    nothing: Mapping[int, float] = {}
    return np.array(
        [
            [
                [
                    controls.get((bench, f"no-prompt-{o}"), nothing).get(s, np.nan)
                    for s in seeds
                ]
                for o in OMEGAS
            ]
            for bench in benches
        ]
    )


def lead_over_control(
    accuracy: np.ndarray, validation: np.ndarray, control: np.ndarray
) -> np.ndarray:
    """Test accuracy of the prompt that validation chose, less that of no prompt, for
    each task, alignment and seed: [T 4 N].

    Args:
        control: [T 4 N].
    """
    return taken(accuracy, picked(validation)) - control


# -- empty cells


def gap(scores: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """The mean of the empty cells less that of the filled ones, on a task and behind an
    alignment: [T 18 4] to [T 4]; NaN where there are none of either."""
    inside = mean(np.where(empty, scores, np.nan), 1)
    return inside - mean(np.where(empty, np.nan, scores), 1)


def gaps(accuracy: np.ndarray, empty: np.ndarray) -> np.ndarray:
    """Of accuracy, and of the place among all prompts: each alignment's mean over
    tasks, and the mean over tasks and alignments, [2 5]."""
    scores = mean(accuracy, -1)
    both = np.stack([gap(scores, empty), gap(beaten(scores), empty)])
    return np.concatenate([mean(both, 1), mean(both, (1, 2))[:, None]], 1)


def lead_of_empty(
    accuracy: np.ndarray, validation: np.ndarray, empty: np.ndarray
) -> np.ndarray:
    """Test accuracy of the best empty cell less that of the best filled one, both
    chosen on validation, for each task, alignment and seed: [T 4 N]."""
    best, other = picked(validation, empty), picked(validation, ~empty)
    return taken(accuracy, best) - taken(accuracy, other)


def over_tasks(lead: np.ndarray) -> np.ndarray:
    """Of [T 4 N]: each alignment's mean, and the mean over all pairs of a task and an
    alignment, [5]."""
    own = mean(lead, -1)
    return np.concatenate([mean(own, 0), mean(own)[None]])


def each(lead: np.ndarray) -> Iterator[tuple[int, int, Mean]]:
    """(task, alignment, mean over the seeds with its interval) where there is one."""
    for task, omega in np.argwhere(np.isfinite(lead).all(-1)):
        yield int(task), int(omega), mean_of(lead[task, omega])
