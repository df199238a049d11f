"""How the order of cells turns with the number of training examples.

The same cells on the map's own number of examples and on another: arrays [T 18 4 N].
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np

from experiments.map.comparisons import picked, taken
from experiments.map.rows import Row, benches_of, bootstrap, grid, mean, present
from experiments.map.sections import SEEDS, head, prompt, row, title
from experiments.map.transfer import ranks_agree
from reprojax.commands.intervals import mean_of
from reprojax.taxonomy import OMEGAS


def agreement(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's correlation of the cells' mean accuracies, [T]."""
    pairs = zip(mean(own, -1), mean(other, -1), strict=True)
    found = []
    for a, b in pairs:
        both = np.isfinite(a) & np.isfinite(b)
        found.append(ranks_agree(a[both], b[both]) if both.sum() > 2 else np.nan)
    return np.array(found)


def turned(own: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """(pairs of cells of which one is better on the one number and worse on the other,
    by paired 95 % intervals that exclude 0; all pairs). Of cells [C N] of one task."""
    count, pairs = 0, [*combinations(range(len(own)), 2)]
    for a, b in pairs:
        one, two = mean_of(own[a] - own[b]), mean_of(other[a] - other[b])
        settled = abs(one.value) > one.half and abs(two.value) > two.half
        count += settled and one.value * two.value < 0
    return count, len(pairs)


def on_other_numbers(
    found: Sequence[Row], others: Mapping[str, Sequence[Row]]
) -> Iterator[str]:
    """A line for each task and number of examples.

    Args:
        others: {number of examples: rows}.
    """
    yield from title("How the order turns with the number of examples")
    if not any(others.values()):
        yield "No other number of examples has been measured yet."
        return
    yield (
        "The learnable cells that validation ranked first on the map's own number of "
        "examples, trained on other numbers too. Order: Spearman's correlation of "
        "their accuracies with those on the map's own number, with a bootstrap over "
        "the seeds. Turned: pairs of cells whose difference has the other sign, both "
        f"intervals excluding 0. Best: chosen on validation. Intervals: {SEEDS}.\n"
    )
    yield from head(
        "task", "examples", "cells", "seeds", "mean less the map's own number's",
        "best cell", "its accuracy", "order", "turned",
    )  # fmt: skip
    for number, rows in others.items():
        for bench in benches_of(rows):
            both = {r[:5] for r in rows if r.bench == bench} & {r[:5] for r in found}
            own, other = (
                [r for r in every if r[:5] in both] for every in (found, rows)
            )
            if both:
                yield _line(bench, number, own, other)
    yield from _by_alignment(found, others)


def _by_alignment(
    found: Sequence[Row], others: Mapping[str, Sequence[Row]]
) -> Iterator[str]:
    """The mean accuracy of an alignment's cells on each number of examples."""
    yield (
        "\nThe mean accuracy of the cells behind an alignment, of those on all numbers "
        f"of examples. Intervals: {SEEDS}.\n"
    )
    yield from head("task", "alignment", "cells", *others, "the map's own number")
    for bench in benches_of([r for rows in others.values() for r in rows]):
        every = [[r for r in rows if r.bench == bench] for rows in others.values()]
        grids = [grid(rows) for rows in every if rows]
        if len(grids) < len(others):
            continue
        grids.append(grid([r for r in found if r.bench == bench]))
        there = np.all([present(own, (3,)) for own in grids], axis=0)
        means, last = {}, OMEGAS[-1]
        for number, omega in enumerate(OMEGAS):
            behind = there & (np.arange(len(OMEGAS)) == number)
            if behind.any():
                means[omega] = [own[behind].mean(0) for own in grids]
                told = [str(mean_of(own)) for own in means[omega]]
                yield row(bench, omega, str(behind.sum()), *told)
        for omega in [name for name in means if name != last and last in means]:
            pairs = zip(means[omega], means[last], strict=True)
            told = [mean_of(own - other).interval for own, other in pairs]
            yield row(bench, f"{omega} less {last}", "", *told)


def _line(bench: str, number: str, base: Sequence[Row], kept: Sequence[Row]) -> str:
    own, other, validation = grid(base), grid(kept), grid(kept, "validation")
    there = present(other, (3,))
    best = picked(validation)
    omega = int(np.nanargmax(mean(taken(validation, best), -1)[0]))
    order = bootstrap(agreement, own, other, tasks=False)
    changed = mean_of(other[there].mean(0) - own[there].mean(0))
    turns, pairs = turned(own[there], other[there])
    return row(
        bench,
        number,
        str(there.sum()),
        str(own.shape[-1]),
        changed.interval,
        f"{prompt(best[0, omega])} {OMEGAS[omega]}",
        str(mean_of(taken(other, best)[0, omega])),
        order.said(0),
        f"{turns} of {pairs}",
    )
