"""The 72 cells of the survey's taxonomy, measured on several tasks under one protocol.

    python -m experiments.taxonomy_map
    python -m experiments.taxonomy_map --benches figures --workers 1 --out runs/map

A job is a cell of a task (`experiments.map.protocol`), and each finished one is a file
in the run's folder. Stop it at any moment: the same command goes on, and prints the
table of what is there. On several machines start it on each, in one shared folder.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from experiments import sweep
from experiments.map.cells import CELLS
from experiments.map.protocol import Protocol, measured, place_of
from experiments.map.tasks import BENCHES
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.saving.files import write_file
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell

BENCHES_OF_EMBEDDED = ("figures", "digits", "maps", "functions")
JOBS = 24  # of a process, which then ends: what JAX has compiled stays in its memory


@dataclass(frozen=True)
class Config:
    """What is measured, and where it is kept."""

    benches: tuple[str, ...] = BENCHES_OF_EMBEDDED
    """Tasks, each with its model: see `python -m experiments.map.cells --help`."""
    protocol: Protocol = Protocol()
    """The same for all cells."""
    workers: int = 2
    """Processes."""
    retry_failed: bool = False
    """Run the jobs that failed once more."""
    out: Path = Path("runs/map")
    """The run's folder; `table.md` in it is the table."""


def jobs(benches: Iterable[str], protocol: Protocol) -> dict[str, Any]:
    """{name: settings} of all cells, in the order of the table."""
    found = {}
    for bench, cell in product(benches, CELLS):
        settings = {"bench": bench, "cell": cell, "protocol": asdict(protocol)}
        place_of(settings)  # a wrong bench or protocol raises here, before any job
        found[f"{bench}/{'-'.join(cell)}"] = settings
    return found


def table(bench: str, found: Mapping[str, sweep.Outcome]) -> Iterator[str]:
    """Lines of Markdown: mean test accuracy and its 95 % interval over the seeds."""
    yield f"## {bench}\n"
    yield f"| | {' | '.join(OMEGAS)} |"
    yield "|---" * (len(OMEGAS) + 1) + "|"
    for at in product(FORMATS, LOCATIONS, OPERATORS):
        row = [
            said(found.get(f"{bench}/{'-'.join(Cell(*at, omega))}")) for omega in OMEGAS
        ]
        yield f"| {' '.join(at)} | {' | '.join(row)} |"
    reasons = [o.value.get("why_not") for o in found.values() if o.value]
    yield from [f"\n—: {why}" for why in dict.fromkeys(reasons) if why]


def said(outcome: sweep.Outcome | None) -> str:
    """A cell of the table."""
    if outcome is None:
        return "…"
    if outcome.error is not None:
        return "failed"
    if "why_not" in outcome.value:
        return "—"
    return str(mean_of([run["test"] for run in outcome.value["runs"]]))


def main(config: Config) -> dict[str, sweep.Outcome]:
    """Run the jobs that have no file yet, write the table, and print it."""
    if config.workers < 1:
        raise ValueError(f"got --workers {config.workers}, expected at least 1")
    if unknown := [name for name in config.benches if name not in BENCHES]:
        raise ValueError(f"got --benches {unknown}, expected some of {[*BENCHES]}")
    given = jobs(config.benches, config.protocol)
    identity = asdict(config.protocol)
    print(f"{len(given)} cells, in {config.out}", flush=True)
    found = {}
    with ProcessPoolExecutor(
        config.workers, get_context("spawn"), max_tasks_per_child=JOBS
    ) as pool:
        own = {"executor": pool, "identity": identity}
        own["retry_failed"] = config.retry_failed
        for name, outcome in sweep.run(measured, given, config.out, **own):
            found[name] = outcome
            if not len(found) % 20:
                write(config, found)
    print(write(config, found))
    if failed := sweep.failures(found):
        sys.exit(failed)
    return found


def write(config: Config, found: Mapping[str, sweep.Outcome]) -> str:
    """Keep the table of what has been measured so far."""
    parts = []
    for bench in config.benches:
        own = {n: o for n, o in found.items() if n.startswith(f"{bench}/")}
        parts.append("\n".join(table(bench, own)))
    text = "\n\n".join(parts) + "\n"
    write_file(config.out / "table.md", text.encode())
    return text


if __name__ == "__main__":
    command(main, Config)
