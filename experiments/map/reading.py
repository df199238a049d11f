"""What a map says: variance, winners, empty cells, transfer, numbers of examples.

    python -m experiments.map.reading --folder runs/map

It prints Markdown. Each effect stands with a 95 % interval, and with the tasks and
seeds it comes from. It may be called while the map is being measured.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import sweep
from experiments.map import spread, transfer, variance
from experiments.map.amounts import on_other_numbers
from experiments.map.rows import (
    Row,
    Rows,
    benches_of,
    bootstrap,
    grid,
    numbers_of,
    present,
    rows,
    seeds_of,
)
from experiments.map.sections import (
    BOTH,
    beside_controls,
    empty_cells,
    head,
    row,
    size,
    title,
    winners,
)
from reprojax.commands.outputs import command
from reprojax.taxonomy import OMEGAS


@dataclass(frozen=True)
class Config:
    """Which map is read."""

    folder: Path = Path("runs/map")
    """The run's folder."""
    benches: tuple[str, ...] = ()
    """Tasks to read; by default all that are there."""
    mixed: bool = True
    """Fit the mixed model, which needs statsmodels: pip install 'reprojax[map]'."""
    draws: int = variance.DRAWS
    """Refits for the mixed model's intervals."""


def main(config: Config) -> None:
    """Print the reading."""
    table = sweep.finished(config.folder)
    found = rows(table, config.benches)
    if not found.rows:
        raise ValueError(
            f"{config.folder} holds no measured cell of these benches, "
            "expected some; run python -m experiments.taxonomy_map"
        )
    if config.mixed:
        variance.statsmodels()
    if config.draws < 20:
        raise ValueError(f"got --draws {config.draws}, expected at least 20")
    for line in lines(found, config.draws if config.mixed else 0):
        print(line, flush=True)
    others = {n: rows(table, config.benches, n).rows for n in numbers_of(table)}
    for line in on_other_numbers(found.rows, others):
        print(line)


def lines(found: Rows, draws: int = variance.DRAWS) -> Iterator[str]:
    """The whole page.

    Args:
        draws: refits of the mixed model; 0 leaves the model out.
    """
    yield from held(found)
    yield from variances(found.rows, draws)
    yield from winners(found.rows)
    yield from beside_controls(found)
    yield from empty_cells(found.rows)
    yield from transferred(found.rows)
    yield from other_measures(found.rows)


def held(found: Rows) -> Iterator[str]:
    """How much was measured."""
    tasks, seeds = benches_of(found.rows), seeds_of(found.rows)
    cells = len({row[:5] for row in found.rows})
    yield (
        f"{len(tasks)} tasks ({', '.join(tasks)}), {len(seeds)} seeds, {cells} cells "
        f"with a result, {len(found.controls)} controls. {found.impossible} cells can "
        f"hold no program, and {found.failed} jobs failed: both are left out. "
        f"{found.diverged} runs diverged: their accuracy counts as 0."
    )


def variances(found: Sequence[Row], draws: int) -> Iterator[str]:
    """The mixed model, and sums of squares."""
    yield from title("Which dimension explains how much")
    if why := variance.why_not(found):
        yield f"No mixed model: {why}."
    elif draws:
        yield from mixed_model(variance.mixed(found, draws))
    yield (
        "\nWithout a model, sums of squares of large tables without gaps. They "
        "describe these cells and have no interval.\n"
    )
    yield from sums_of_squares(grid(found))


def mixed_model(own: variance.Shares) -> Iterator[str]:
    """A line for each part of the variance."""
    yield (
        f"Mixed model by REML: {own.tasks} tasks, {own.cells} cells, {own.seeds} seeds "
        f"each. The standard deviation of accuracy is {own.deviation:.3f}. "
        f"{own.unconverged} refits did not converge.\n"
    )
    yield from head("part", "share of the variance")
    for i, name in enumerate(own.names):
        yield row(name, own.shares.said(i, sign=""))
    yield f"\n{variance.ASSUMPTIONS}"


def sums_of_squares(accuracy: np.ndarray) -> Iterator[str]:
    """A column for each alignment, and one for those that all tasks have."""
    there = np.asarray(present(accuracy, (1, 3)).all(0))
    given = {omega: accuracy[:, :, [i]] for i, omega in enumerate(OMEGAS)}
    shared = [omega for omega, own in zip(OMEGAS, there, strict=True) if own]
    given[" and ".join(shared)] = accuracy[:, :, there]
    found = {
        name: squares
        for name, own in given.items()
        if (squares := variance.squares(in_dimensions(own))) is not None
    }
    if not found:
        yield "There is no such table yet."
        return
    yield from head("share of the variance", *found)
    names = dict.fromkeys(name for own in found.values() for name in own.shares)
    for name in names:
        own = (squares.shares.get(name) for squares in found.values())
        yield row(name, *("—" if share is None else f"{share:.3f}" for share in own))
    yield row("tasks", *(str(own.tasks) for own in found.values()))
    yield row("prompts", *(str(own.prompts) for own in found.values()))
    yield row("seeds each", *(str(own.seeds) for own in found.values()))


def in_dimensions(accuracy: np.ndarray) -> np.ndarray:
    """[T 18 A N] as [T 2 3 3 A N]."""
    return accuracy.reshape(len(accuracy), 2, 3, 3, *accuracy.shape[2:])


# -- transfer


def transferred(found: Sequence[Row]) -> Iterator[str]:
    """Prediction of a held-out task from coordinates alone."""
    yield from title("Do the coordinates predict a task that was held out")
    benches = benches_of(found)
    if len(benches) < 2:
        yield "Nothing to hold out: there is one task."
        return
    draws = 200
    own = bootstrap(transfer.transfer, grid(found), draws=draws, tasks=False)
    yield (
        "Cells' mean accuracies, by ridge regression on the cells of the other tasks. "
        "R² against a constant: the constant is the mean of the other tasks' cells. R² "
        "of the order: after the held-out task's own mean was taken off the truth and "
        f"the prediction. Intervals: a bootstrap of {draws} draws over the seeds of "
        "all tasks, which are fixed. A draw repeats seeds, so that its R² is a little "
        f"lower. {size(found)}\n"
    )
    yield from head("held out", "model", *transfer.MEASURES)
    for t, name in enumerate([*benches, "all"]):
        for m, model in enumerate(transfer.MODELS):
            yield row(name, model, *(own.said(m, k, t) for k in range(3)))


# -- other measures


def other_measures(found: Sequence[Row]) -> Iterator[str]:
    """Costs, calibration and shifts."""
    accuracy = grid(found)
    yield from title("Costs, calibration and shift")
    yield f"Intervals: {BOTH}. {size(found)}\n"
    yield from head(
        "correlation of accuracy with",
        "within a task",
        "within a task and an alignment",
        "cells",
    )
    for name in ("numbers", "operations", "latency"):
        cost = grid(found, name)
        own = [
            bootstrap(lambda a, c, by=by: spread.with_cost(a, c, by), accuracy, cost)
            for by in (False, True)
        ]
        cells = (cost > 0).any(-1).sum()
        yield row(f"log {name}", *(each.said() for each in own), str(cells))
    calibration = grid(found, "calibration")
    loss = accuracy - grid(found, "shifted")
    yield from level_table("calibration error", calibration, ("alignment",))
    yield from level_table("accuracy lost under shift", loss, ("location", "operator"))


def level_table(
    what: str, values: np.ndarray, dimensions: Sequence[str]
) -> Iterator[str]:
    """Means of each level of dimensions, and matched differences."""
    matched = "against the cells that differ in this alone"
    yield ""
    if not np.isfinite(values).any():
        yield f"No {what} has been measured yet."
        return
    yield from head(what, "mean", matched, "tasks")
    for name in dimensions:
        own = bootstrap(lambda v, name=name: spread.levels(v, name), values)
        axis = 1 + [*variance.DIMENSIONS].index(name)
        finite = in_dimensions(np.isfinite(values))
        others = tuple(i for i in range(1, 6) if i != axis)
        tasks = finite.any(others).sum(0)
        for i, level in enumerate(variance.DIMENSIONS[name]):
            numbers = own.said(0, i, sign=""), own.said(1, i)
            yield row(f"{name}: {level}", *numbers, str(tasks[i]))


if __name__ == "__main__":
    command(main, Config)
