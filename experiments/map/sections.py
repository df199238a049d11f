"""Sections of the reading that compare prompts: who wins, no prompt, empty cells."""

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.map import comparisons, survey
from experiments.map.rows import (
    DRAWS,
    Estimate,
    Row,
    Rows,
    benches_of,
    bootstrap,
    grid,
    present,
    seeds_of,
)
from experiments.map.survey import KINDS
from reprojax.commands.intervals import Mean, mean_of
from reprojax.taxonomy import OMEGAS

BOTH = f"a bootstrap of {DRAWS} draws over tasks and seeds; rough where tasks are few"
SEEDS = "over the seeds, by Student's t; the test examples are the same for all"
OVERALL = (*OMEGAS, "all")


# -- Markdown


def title(text: str) -> Iterator[str]:
    """A section's title."""
    yield f"\n## {text}\n"


def head(*names: str) -> Iterator[str]:
    """A table's first two lines."""
    yield row(*names)
    yield "|---" * len(names) + "|"


def row(*cells: str) -> str:
    """A table's line."""
    return f"| {' | '.join(cells)} |"


def prompt(index: int | np.integer) -> str:
    """Its coordinates."""
    return " ".join(KINDS[index])


def size(found: Sequence[Row]) -> str:
    """As in "4 tasks, 5 seeds."."""
    return f"{len(benches_of(found))} tasks, {len(seeds_of(found))} seeds."


# -- winners


def winners(found: Sequence[Row]) -> Iterator[str]:
    """Places of the prompts, and pairs of which one is better everywhere."""
    accuracy = grid(found)
    place = bootstrap(comparisons.places, accuracy)
    wins, there = comparisons.wins(accuracy), present(accuracy, (2, 3)).sum(0)
    yield from title("Which prompts win")
    yield (
        "Place: the share of the other prompts that do better on the same task behind "
        f"the same alignment (0 the best, 1 the last). Best in: of {wins.sum()} pairs "
        f"of a task and an alignment. Intervals: {BOTH}. {size(found)}\n"
    )
    names = (f"place behind {omega}" for omega in OMEGAS)
    yield from head("prompt", "tasks", "best in", "place", *names)
    for i in np.argsort(place.value[:, -1]):
        if there[i]:
            own = [place.said(i, a, sign="", digits=2) for a in range(len(OVERALL))]
            yield row(prompt(i), str(there[i]), str(wins[i]), own[-1], *own[:-1])
    yield from dominance(accuracy)


def dominance(accuracy: np.ndarray) -> Iterator[str]:
    """A line for each prompt that is better than others on every task."""
    pairs, count, chance = comparisons.dominating(accuracy)
    yield (
        "\nPairs: one prompt is better than another on every task where both stand "
        "(two or more), with paired 95 % intervals above 0 (mean over alignments; "
        f"{SEEDS}; {accuracy.shape[-1]} seeds). That holds for {len(pairs)} of {count} "
        f"pairs; were all prompts equal, {chance:.2g} would be expected by chance.\n"
    )
    if pairs:
        yield from head("prompt", "is better than (least difference of a task)")
    for better in dict.fromkeys(pair.better for pair in pairs):
        own = [
            f"{prompt(pair.worse)} {pair.least.interval} ({pair.tasks} tasks)"
            for pair in pairs
            if pair.better == better
        ]
        yield row(prompt(better), "; ".join(own))


def beside_controls(found: Rows) -> Iterator[str]:
    """Each alignment's best prompt, and no prompt behind the same alignment."""
    benches, seeds = benches_of(found.rows), seeds_of(found.rows)
    accuracy, validation = grid(found.rows), grid(found.rows, "validation")
    control = comparisons.control_grid(found.controls, benches, seeds)
    lead = comparisons.lead_over_control(accuracy, validation, control)
    best = comparisons.picked(validation)
    own = comparisons.taken(accuracy, best)
    yield from title("Does any prompt beat no prompt")
    yield (
        "The best of the prompts behind an alignment is chosen by its mean accuracy on "
        "validation examples, so that its test accuracy is not that of the luckiest on "
        "the test split (the luck of these runs' training examples and initial values "
        "remains). "
        f"Intervals: {SEEDS}. {size(found.rows)}\n"
    )
    if not np.isfinite(lead).any():
        yield "No control without a prompt has been measured yet."
        return
    yield from head(
        "task", "alignment", "best prompt", "its accuracy", "no prompt", "difference"
    )
    pairs = [*comparisons.each(lead)]
    for t, a, difference in pairs:
        means = mean_of(own[t, a]), mean_of(control[t, a])
        yield row(
            benches[t],
            OMEGAS[a],
            prompt(best[t, a]),
            *map(str, means),
            difference.interval,
        )
    above = sum(is_above(difference) for *_, difference in pairs)
    below = sum(is_above(Mean(-d.value, d.half)) for *_, d in pairs)
    yield (
        f"\nThe best prompt beats no prompt in {above} of {len(pairs)} pairs of a task "
        f"and an alignment, and loses in {below} (intervals that exclude 0). Means "
        f"over tasks, by {BOTH}; validation chooses anew in each draw:\n"
    )
    means = bootstrap(
        lambda *a: comparisons.over_tasks(comparisons.lead_over_control(*a)),
        accuracy,
        validation,
        control,
    )
    yield from over_alignments("best prompt less no prompt", means, lead)


def is_above(difference: Mean) -> bool:
    """Whether its interval lies above 0."""
    return difference.value - difference.half > 0


def over_alignments(what: str, means: Estimate, lead: np.ndarray) -> Iterator[str]:
    """A line for each alignment, and one over all; means [5], lead [T 4 N]."""
    there = present(lead, (2,))
    yield from head("alignment", what, "tasks", "seeds")
    for i, name in enumerate(OVERALL):
        tasks = present(lead, (1, 2)) if name == "all" else there[:, i]
        if tasks.any():
            yield row(name, means.said(i), str(tasks.sum()), str(lead.shape[-1]))


# -- empty cells


def empty_cells(found: Sequence[Row]) -> Iterator[str]:
    """The cells that the survey leaves empty, beside those that it fills."""
    accuracy, validation = grid(found), grid(found, "validation")
    yield from title("The cells that the survey leaves empty")
    for as_listed in (False, True):
        empty = survey.empty(as_listed)
        which = (
            "the list as it is"
            if as_listed
            else (
                f"{len(survey.MISPLACED)} cells whose only entries belong elsewhere "
                "(`experiments.map.survey`) count as empty"
            )
        )
        yield (
            f"{empty.sum()} of {empty.size} cells are empty ({which}). Means of the "
            "empty cells less those of the filled ones on the same task behind the "
            "same alignment. A place below 0 is better. "
            f"Intervals: {BOTH}. {size(found)}\n"
        )
        yield from head("prompts", "alignment", "accuracy", "place", "tasks")
        for name, own in by_configuration(accuracy).items():
            yield from gap_lines(name, own, empty)
        yield ""
    empty = survey.empty()
    lead = comparisons.lead_of_empty(accuracy, validation, empty)
    yield (
        "The best empty cell less the best filled one, both chosen on validation. "
        f"Intervals of each task: {SEEDS}.\n"
    )
    benches = benches_of(found)
    best, other = (comparisons.picked(validation, own) for own in (empty, ~empty))
    yield from head("task", "alignment", "best empty", "best filled", "difference")
    for t, a, difference in comparisons.each(lead):
        names = prompt(best[t, a]), prompt(other[t, a])
        yield row(benches[t], OMEGAS[a], *names, difference.interval)
    yield f"\nMeans over tasks, by {BOTH}; validation chooses anew in each draw:\n"
    means = bootstrap(
        lambda a, v: comparisons.over_tasks(comparisons.lead_of_empty(a, v, empty)),
        accuracy,
        validation,
    )
    yield from over_alignments("best empty less best filled", means, lead)


def by_configuration(accuracy: np.ndarray) -> dict[str, np.ndarray]:
    """All prompts, and those of each configuration alone."""
    first = np.arange(len(KINDS)) < len(KINDS) // 2
    alone = first[None, :, None, None]
    return {
        "all": accuracy,
        "learnable": np.where(alone, accuracy, np.nan),
        "fixed": np.where(alone, np.nan, accuracy),
    }


def gap_lines(name: str, accuracy: np.ndarray, empty: np.ndarray) -> Iterator[str]:
    """A line for each alignment with empty and filled cells."""
    own = bootstrap(lambda a: comparisons.gaps(a, empty), accuracy)
    scores = comparisons.gap(accuracy.mean(-1), empty)
    for i, omega in enumerate(OVERALL):
        there = present(scores if omega == "all" else scores[:, [i]], (1,))
        if there.any():
            numbers = own.said(0, i), own.said(1, i)
            yield row(name, omega, *numbers, str(there.sum()))
