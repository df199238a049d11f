"""The finished jobs of a map as rows and arrays, and a bootstrap over tasks and seeds.

Arrays are [T 18 4 N]: tasks, prompts (`survey.KINDS`), alignments (`OMEGAS`), seeds;
NaN where no program stands, or none has been measured.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.map.cells import CELLS
from experiments.map.survey import KINDS
from experiments.map.tasks import BENCHES
from experiments.sweep import Outcome
from reprojax.taxonomy import OMEGAS, Cell

DRAWS = 1000


class Row(NamedTuple):
    """A reported run of a cell. What was not measured is NaN."""

    bench: str
    configuration: str
    location: str
    operator: str
    alignment: str
    seed: int
    accuracy: float
    """On the test split; 0 where the run diverged."""
    validation: float
    """0 where the run diverged."""
    calibration: float
    shifted: float
    """Mean accuracy over the shifts."""
    numbers: float
    """Learnable ones, of prompt and alignment."""
    operations: float
    """The program's, divided by the bare model's."""
    latency: float
    """The program's, divided by the bare model's."""


class Rows(NamedTuple):
    """What a folder holds."""

    rows: list[Row]
    controls: dict[tuple[str, str], dict[int, float]]
    """{(bench, name without "control-"): {seed: test accuracy}}"""
    diverged: int
    """Runs of cells and controls, whose accuracy is taken to be 0."""
    failed: int
    """Jobs that raised, left out."""
    impossible: int
    """Cells in which no program can stand, left out."""


def rows(
    table: Mapping[str, Outcome], benches: Sequence[str] = (), examples: str = ""
) -> Rows:
    """A row for each reported run of each cell.

    Args:
        table: as of `sweep.finished`.
        benches: whose jobs to read; all by default.
        examples: read the cells on another number of training examples, such as "16";
            by default on the map's own.

    Raises:
        ValueError: a bench that is not known or has no job here, or an unknown cell.
    """
    split = {name: _words(name) for name in table}
    there = dict.fromkeys(bench for bench, *_ in split.values())
    if unknown := [name for name in (*there, *benches) if name not in BENCHES]:
        raise ValueError(f"got the benches {unknown}, expected some of {[*BENCHES]}")
    if absent := [name for name in benches if name not in there]:
        raise ValueError(
            f"got the benches {absent}, expected some of those measured: {[*there]}"
        )
    wanted = benches or [*there]
    own = {n: s for n, s in split.items() if s[0] in wanted and s[1] == examples}
    whole = {name: table[name].value for name in own if table[name].error is None}
    ran = {name: value for name, value in whole.items() if "runs" in value}
    tests = [run["test"] for value in ran.values() for run in value["runs"]]
    found: list[Row] = []
    controls = {}
    for name, value in ran.items():
        bench, _, rest = own[name]
        if rest.startswith("control-"):
            runs = {run["seed"]: _or_zero(run["test"]) for run in value["runs"]}
            controls[bench, rest.removeprefix("control-")] = runs
        else:
            found += _of_cell(bench, _cell(name, rest), value)
    return Rows(
        found,
        controls,
        diverged=int(np.sum(~np.isfinite(tests))),
        failed=len(own) - len(whole),
        impossible=len(whole) - len(ran),
    )


def _words(name: str) -> tuple[str, str, str]:
    """A job's bench, number of examples ("" for the map's own), and cell or control."""
    bench, _, rest = name.partition("/")
    if rest.startswith("examples-"):
        number, _, rest = rest.removeprefix("examples-").partition("/")
        return bench, number, rest
    return bench, "", rest


def numbers_of(table: Mapping[str, Outcome]) -> list[str]:
    """The other numbers of examples in a table, from low to high."""
    return sorted({_words(name)[1] for name in table} - {""}, key=int)


def _cell(name: str, words: str) -> Cell:
    cell = tuple(words.split("-"))
    if cell not in CELLS:
        raise ValueError(
            f"got a job named {name!r}, expected a cell such as "
            f"{'-'.join(CELLS[0])!r}, or control-NAME, behind the bench"
        )
    return Cell(*cell)


def _of_cell(bench: str, cell: Cell, value: Mapping[str, Any]) -> Iterator[Row]:
    learned = [value.get(part, np.nan) for part in ("prompt", "alignment")]
    costs = [_ratio(value.get(name)) for name in ("operations", "latency")]
    for run in value["runs"]:
        yield Row(
            bench,
            *cell,
            run["seed"],
            _or_zero(run["test"]),
            _or_zero(run.get("validation", np.nan)),
            run.get("calibration error", np.nan),
            float(np.mean([*run.get("shifted", {}).values()] or [np.nan])),
            float(sum(learned)),
            *costs,
        )


def _or_zero(accuracy: float) -> float:
    return float(accuracy) if np.isfinite(accuracy) else 0.0


def _ratio(cost: Mapping[str, float] | None) -> float:
    return cost["program"] / cost["bare"] if cost else np.nan


# -- arrays


def benches_of(found: Iterable[Row]) -> list[str]:
    """In the order of `BENCHES`."""
    there = {row.bench for row in found}
    return [name for name in BENCHES if name in there]


def seeds_of(found: Iterable[Row]) -> list[int]:
    """Of all cells; ValueError if some have others."""
    by_cell: dict[tuple[str, ...], list[int]] = {}
    for row in found:
        by_cell.setdefault(row[:5], []).append(row.seed)
    first, *others = {tuple(sorted(seeds)): cell for cell, seeds in by_cell.items()}
    if others:
        raise ValueError(
            f"got the seeds {first} in one cell and {others[0]} in another,"
            " expected the same in all: read one protocol's folder"
        )
    return [*first]


def grid(found: Sequence[Row], measure: str = "accuracy") -> np.ndarray:
    """A measure of the rows, by its name in `Row`, as an array [T 18 4 N]."""
    benches, seeds = benches_of(found), seeds_of(found)
    array = np.full((len(benches), len(KINDS), len(OMEGAS), len(seeds)), np.nan)
    for row in found:
        kind = row.configuration, row.location, row.operator
        at = benches.index(row.bench), KINDS.index(kind), OMEGAS.index(row.alignment)
        array[*at, seeds.index(row.seed)] = getattr(row, measure)
    return array


def mean(values: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Of the finite values; NaN where there is none."""
    there = np.isfinite(values)
    total, count = np.where(there, values, 0.0).sum(axis), there.sum(axis)
    return np.divide(
        total, count, out=np.full(np.shape(count), np.nan), where=count > 0
    )


def present(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Where there is a finite value along some axes."""
    return np.asarray(np.isfinite(values).any(axes))


# -- bootstrap


class Estimate(NamedTuple):
    """Of an array of numbers: values, and the ends of their 95 % intervals."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def said(self, *at: int, sign: str = "+", digits: int = 3) -> str:
        """As in "+0.123 [+0.100, +0.146]"; "—" if there is no value."""
        form = f"{sign}.{digits}f"
        value, low, high = (float(a[at]) for a in self)
        if not np.isfinite(value):
            return "—"
        return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def bootstrap(
    statistic: Callable[..., Any],
    *arrays: np.ndarray,
    draws: int = DRAWS,
    tasks: bool = True,
) -> Estimate:
    """A statistic of arrays [T … N], with the percentiles of draws of tasks and seeds.

    A draw takes as many tasks as there are, with replacement, and of each as many
    seeds, the same for all cells. With few tasks such intervals are rough, and rather
    narrow.

    Args:
        tasks: draw tasks too; otherwise the tasks are fixed, and seeds alone are drawn.
    """
    rng = np.random.default_rng(0)
    count, seeds = arrays[0].shape[0], arrays[0].shape[-1]
    found = []
    for _ in range(draws):
        own = rng.integers(count, size=count) if tasks else np.arange(count)
        picked = rng.integers(seeds, size=(count, seeds))
        found.append(statistic(*(_taken(array, own, picked) for array in arrays)))
    return Estimate(np.asarray(statistic(*arrays), float), *ends(np.array(found)))


def _taken(array: np.ndarray, tasks: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    return np.stack([array[t][..., own] for t, own in zip(tasks, seeds, strict=True)])


def ends(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles 2.5 and 97.5 over the first axis, of the draws that have a value."""
    flat = draws.reshape(len(draws), -1).T.astype(float)
    kept = [column[np.isfinite(column)] for column in flat]
    both = [np.percentile(c, (2.5, 97.5)) if len(c) else (np.nan, np.nan) for c in kept]
    low, high = np.array(both).T.reshape(2, *draws.shape[1:])
    return low, high
