"""What a folder of the map holds, sorted: a board for each task."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from experiments.map.cells import CELLS
from experiments.map.tasks import BENCHES, SIZES
from experiments.sweep import Outcome
from reprojax.commands.intervals import Mean, mean_of, paired
from reprojax.taxonomy import OMEGAS, Cell

CONTROLS = {
    **{f"no-prompt-{omega}": f"no prompt → {omega}" for omega in OMEGAS},
    "linear-probe": "the linear probe",
    "nearest-neighbour": "the nearest neighbour among features",
    "nearest-input": "the nearest neighbour among inputs",
    "random-weights": "the model with random weights",
    "fine-tuning": "fine-tuning of all weights",
}
"""Names of what is compared with, in words."""
TUNED = "fine-tuning"
STRONG = 0.72  # a shade above it has light text
NAMES = {"-".join(cell): cell for cell in CELLS}


@dataclass(frozen=True, eq=False)
class Spot:
    """A cell or a control on a task, and what was measured there."""

    bench: str
    name: str
    """As in the job's name, such as "fixed-input-additive-rule" or "linear-probe"."""
    cell: Cell | None
    """None of a control."""
    outcome: Outcome | None = None
    """None where nothing has been measured yet."""
    examples: int | None = None
    """Training examples, of jobs that vary them."""

    @property
    def title(self) -> str:
        if self.cell is None:
            return CONTROLS.get(self.name, self.name.replace("-", " "))
        return f"{' '.join(self.cell[:3])} → {self.cell.omega}"

    @property
    def job(self) -> str:
        name = self.name if self.cell else f"control-{self.name}"
        few = () if self.examples is None else (f"examples-{self.examples}",)
        return "/".join((self.bench, *few, name))

    @property
    def value(self) -> dict[str, Any]:
        """What the job returned; empty if there is none."""
        return (self.outcome and self.outcome.value) or {}

    @property
    def state(self) -> str:
        """waiting, failed, impossible or measured."""
        if self.outcome is None:
            return "waiting"
        if self.outcome.error is not None:
            return "failed"
        return "measured" if self.runs else "impossible"

    @property
    def message(self) -> str:
        """Why there is no number: an exception, or why no program can stand there."""
        error = self.outcome.error if self.outcome else None
        return error or self.value.get("why_not", "")

    @property
    def runs(self) -> list[dict[str, Any]]:
        return self.value.get("runs", [])

    @cached_property
    def mean(self) -> Mean:
        """Test accuracy over the seeds; NaN where a run diverged or there is none."""
        return mean_of(self.of_runs("test")) if self.runs else Mean(np.nan, np.nan)

    @property
    def counts(self) -> bool:
        """It has a mean."""
        return bool(np.isfinite(self.mean.value))

    @property
    def short(self) -> str:
        """Its mean, or what there is instead."""
        if self.counts:
            text = f"{self.mean.value:.3f}"
            return text.removeprefix("0")
        words = {"waiting": "…", "failed": "failed", "impossible": "—"}
        return words.get(self.state, "diverged")

    def of_runs(self, name: str) -> list[float]:
        """A number of each run; NaN where it has none."""
        return [float(run.get(name, np.nan)) for run in self.runs]

    def over(self, other: "Spot") -> Mean:
        """The difference of test accuracies, paired over the seeds that both have."""
        ours, theirs = (
            {run["seed"]: run["test"] for run in s.runs} for s in (self, other)
        )
        seeds = [seed for seed in ours if seed in theirs]
        if not seeds:
            return Mean(np.nan, np.nan)
        return paired([ours[s] for s in seeds], [theirs[s] for s in seeds])


@dataclass(frozen=True, eq=False)
class Board:
    """What is known of a task."""

    bench: str
    cells: dict[Cell, Spot]
    """All 72."""
    controls: list[Spot]
    """Those that have an outcome."""
    examples: list[Spot]
    """Jobs that vary the number of training examples."""

    @property
    def all(self) -> list[Spot]:
        return [*self.cells.values(), *self.controls, *self.examples]

    @property
    def about(self) -> str:
        """One sentence."""
        made = BENCHES.get(self.bench)
        return ((made and made.__doc__) or "").partition("\n")[0]

    @cached_property
    def ranked(self) -> list[Spot]:
        """Cells with a mean, from the best."""
        return sorted(filter(lambda s: s.counts, self.cells.values()), key=_down)

    @cached_property
    def span(self) -> tuple[float, float]:
        """The lowest and the highest mean, which colours lie between."""
        spots = [*self.cells.values(), *self.controls]
        every = [spot.mean.value for spot in spots if spot.counts]
        return (min(every), max(every)) if every else (0.0, 1.0)

    def by_examples(self, name: str) -> list[Spot]:
        """A cell on each number of training examples that it has a mean on, the map's
        own too; none if it has been measured on that alone."""
        others = [s for s in self.examples if s.name == name]
        own = [s for s in self.cells.values() if s.name == name and s.outcome]
        own = [replace(s, examples=_trained_on(s)) for s in own if others]
        counted = filter(lambda s: s.counts, [*others, *own])
        return sorted(counted, key=lambda s: s.examples or 0)

    def shade(self, spot: Spot) -> float:
        """0 for the lowest mean, 1 for the highest; 0 without one."""
        low, high = self.span
        if not spot.counts:
            return 0.0
        return (spot.mean.value - low) / (high - low) if high > low else 0.5

    def strongest(self, tuned: bool = True) -> Spot | None:
        """The control of the highest mean.

        Args:
            tuned: False leaves fine-tuning out, which changes the model's weights.
        """
        fit = [s for s in self.controls if s.counts and (tuned or s.name != TUNED)]
        return min(fit, key=_down, default=None)


def _trained_on(spot: Spot) -> int:
    """Training examples of a job whose name does not say them."""
    settings = spot.outcome.settings if spot.outcome else {}
    sizes = settings.get("protocol", {}).get("sizes", {})
    return {**SIZES, **sizes}["train"]


def _down(spot: Spot) -> float:
    return -spot.mean.value


def boards(found: Mapping[str, Outcome]) -> list[Board]:
    """A board for each task that has an outcome, in the order of the tasks."""
    spots = [spot for name, outcome in found.items() if (spot := _spot(name, outcome))]
    own = {spot.bench for spot in spots}
    order = [*filter(own.__contains__, BENCHES), *sorted(own - {*BENCHES})]
    return [_board(name, [s for s in spots if s.bench == name]) for name in order]


def _spot(name: str, outcome: Outcome) -> Spot | None:
    bench, *between, last = name.split("/")
    few = [part.removeprefix("examples-") for part in between]
    control = last.removeprefix("control-")
    if not (last in NAMES or control != last) or len(few) > 1:
        return None
    if few and (few == between or not few[0].isdigit()):
        return None
    examples = int(few[0]) if few else None
    return Spot(bench, control, NAMES.get(last), outcome, examples)


def _board(bench: str, spots: list[Spot]) -> Board:
    whole = {spot.name: spot for spot in spots if spot.examples is None}
    cells = {c: whole.get(n, Spot(bench, n, c)) for n, c in NAMES.items()}
    controls = {name: s for name, s in whole.items() if s.cell is None}
    known = [controls.pop(name) for name in CONTROLS if name in controls]
    varied = sorted((s for s in spots if s.examples), key=lambda s: s.examples or 0)
    return Board(bench, cells, known + [*controls.values()], varied)


# -- as a file


def as_csv(given: Iterable[Board]) -> str:
    """A row for each run; one without a seed where there is no run."""
    rows = [row for board in given for spot in board.all for row in _rows(spot)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names or ["task"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _rows(spot: Spot) -> Iterator[dict[str, Any]]:
    value = spot.value
    words = spot.cell or (("",) * 4)
    head = {"task": spot.bench, "kind": "cell" if spot.cell else "control"}
    head |= dict(
        zip(("configuration", "location", "operator", "alignment"), words, strict=True)
    )
    head |= {"control": "" if spot.cell else spot.name, "examples": spot.examples or ""}
    head |= {"state": spot.state, "message": spot.message}
    head |= {
        name: value.get(name, "") for name in ("candidate", "rate", "bytes", "tokens")
    }
    head |= {f"{name} numbers": value.get(name, "") for name in ("prompt", "alignment")}
    for name in ("operations", "latency"):
        both = value.get(name) or {}
        head |= {f"{name} {of}": both.get(of, "") for of in ("bare", "program")}
    for run in spot.runs or [{}]:
        yield head | flat(run)


def flat(run: Mapping[str, Any]) -> dict[str, float]:
    """A run's numbers by name, those under a shift as "shifted: blur"."""
    found = {name: number for name, number in run.items() if name != "shifted"}
    shifted = run.get("shifted") or {}
    return found | {f"shifted: {name}": number for name, number in shifted.items()}
