"""The way of a task's rows from the call of `fit` to the compiled step.

    python -m experiments.benchmarks.walk
    python -m experiments.benchmarks.walk --cached --out runs/walk

Who is handed the task, a split, its arrays or a batch is on the way. A stay is a
stretch of calls and returns within one file of the library; a climb is a stay in a file
that was left before. Each line is a stay, with what is called there. Expected: 12 stays
in 6 files, 6 climbs. Seconds.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

import reprojax
from reprojax import reprogram
from reprojax.alignments import bayesian, linear
from reprojax.commands.outputs import command
from reprojax.core import Edit, PyTree, passthrough
from reprojax.data import Split, Task
from reprojax.training import fit
from reprojax.training.caches import cached

ROOT = Path(reprojax.__file__).parent


@dataclass(frozen=True)
class Config:
    """A run of one step, of a head on a linear model."""

    cached: bool = False
    """Of the values that `cached` gives."""
    mapped: bool = False
    """A label map in the place of the head: a pass before the first step."""
    out: Path | None = None
    """A folder for its checkpoints: a digest of the data."""


def main(config: Config) -> None:
    """Walk, and print the way."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 255, (3, 8, 4, 4, 3), np.uint8)
    splits = [Split(rows, np.arange(8) % 2) for rows in x]
    align = bayesian(2) if config.mapped else linear(2)
    weights = jnp.asarray(draw.normal(size=(48, 6)), jnp.float32)
    given = reprogram(forward, {"output": align}), weights
    given = *given, Task("walked", *splits, classes=("a", "b"))
    given = cached(*given, progress=False) if config.cached else given
    walk = Walk(given[2])
    sys.setprofile(walk)
    how = {"optimizer": optax.sgd(0.1), "epochs": 1, "batch": 8, "out": config.out}
    fit(*given, **how, progress=False)
    sys.setprofile(None)
    for file, called in walk.stays:
        print(f"{file:26}", ", ".join(called))
    files = {file for file, _ in walk.stays}
    stays, climbs = len(walk.stays), len(walk.stays) - len(files)
    print(f"{stays} stays in {len(files)} files, {climbs} climbs")


def forward(frozen: PyTree, x: Any, edit: Edit = passthrough) -> Any:
    rows = edit("input", x).reshape(len(x), -1) / 255
    return edit("output", edit("hidden", rows @ frozen))


class Walk:
    """A profiler of Python, until the compiled step has its rows."""

    def __init__(self, task: Task) -> None:
        splits = [task.train, task.validation, task.test]
        self.rows = [task, *splits, *(a for split in splits for a in split[:2])]
        self.stays: list[tuple[str, list[str]]] = []
        self.within: list[tuple[Any, str]] = []
        self.arrived = False

    def __call__(self, frame: Any, event: str, made: Any) -> None:
        code = frame.f_code
        if self.arrived or not Path(code.co_filename).is_relative_to(ROOT):
            return
        if event == "call" and self.handed(frame):
            file = str(Path(code.co_filename).relative_to(ROOT))
            self.within.append((frame, file))
            self.stand(file, code.co_name)
            own = frame.f_locals.get("self")
            self.arrived = getattr(own, "_name", "") == "train_step"
        elif event == "return" and self.within and self.within[-1][0] is frame:
            self.within.pop()
            if isinstance(made, tuple):
                self.rows += [a for a in made if isinstance(a, np.ndarray)]
            if self.within:
                self.stand(self.within[-1][1])

    def handed(self, frame: Any) -> bool:
        """Whether a row is among the arguments, or in a tuple of them."""
        given = [frame.f_locals.get(name) for name in frame.f_code.co_varnames]
        given += [each for value in given if isinstance(value, tuple) for each in value]
        return any(value is row for value in given for row in self.rows)

    def stand(self, file: str, *called: str) -> None:
        """In a file, to call what lies there, or back from what was called."""
        if not self.stays or self.stays[-1][0] != file:
            self.stays.append((file, []))
        self.stays[-1][1].extend(called)


if __name__ == "__main__":
    command(main, Config)
