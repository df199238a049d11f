"""The 72 cells of the survey's taxonomy, measured on several tasks under one protocol.

    python -m experiments.taxonomy_map
    python -m experiments.taxonomy_map --benches figures --workers 1 --out runs/map

A job is a cell of a task, or a control (`experiments.map.protocol`), and each finished
one is a file in the run's folder. Stop it at any moment: the same command goes on, and
prints the table of what is there. `report.html` in the folder is the same as a page,
which `python -m experiments.map.page --folder runs/map` writes at any time. On several
machines start it on each, in one shared folder. Then the best learnable cells are
trained on other numbers of examples by

    python -m experiments.taxonomy_map --examples 16 64 1024

which goes on from a committed table, too (`experiments.map.restored`).
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from experiments import sweep
from experiments.map import page
from experiments.map.cells import CELLS
from experiments.map.controls import CONTROLS
from experiments.map.protocol import Protocol, measured, place_of
from experiments.map.tasks import BENCHES, SIZES, SLOW
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.saving.files import write_file
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell

BENCHES_OF_EMBEDDED = ("figures", "digits", "maps", "functions")
JOBS = 60  # of a process, which then ends: what JAX has compiled stays in its memory


@dataclass(frozen=True)
class Config:
    """What is measured, and where it is kept."""

    benches: tuple[str, ...] = BENCHES_OF_EMBEDDED
    """Tasks, each with its model: see `python -m experiments.map.cells --help`."""
    protocol: Protocol = Protocol()
    """The same for all cells."""
    examples: tuple[int, ...] = ()
    """Numbers of training examples, on which each task's best learnable cells are then
    trained too, with as many steps."""
    best: int = 12
    """How many cells these are, by their validation accuracy."""
    workers: int = 2
    """Processes."""
    retry_failed: bool = False
    """Run the jobs that failed once more."""
    out: Path = Path("runs/map")
    """The run's folder; `table.md` in it is the table, `report.html` the page."""


def jobs(benches: Iterable[str], protocol: Protocol) -> dict[str, Any]:
    """{name: settings} of all cells and controls, in the order of the table; of a slow
    model the controls first, then the cells with the most of the model below them."""
    found = {}
    for bench in benches:
        cells: list[Any] = [{"bench": bench, "cell": cell} for cell in CELLS]
        others = [{"bench": bench, "control": name} for name in CONTROLS]
        if bench in SLOW:
            cells.sort(key=lambda own: -LOCATIONS.index(own["cell"].location))
            cells, others = others[:-1], [*cells, others[-1]]  # fine-tuning at the end
        for own in (*cells, *others):
            found[job(own)] = own
    for settings in found.values():
        settings["protocol"] = asdict(protocol)
        place_of(settings)  # a wrong bench or protocol raises here, before any job
    return found


def job(settings: Mapping[str, Any], examples: int | str = "") -> str:
    """A job's name.

    Args:
        examples: their number, where it is not the protocol's own.
    """
    control, few = settings.get("control"), f"examples-{examples}/" if examples else ""
    last = f"control-{control}" if control else "-".join(settings["cell"])
    return f"{settings['bench']}/{few}{last}"


def on_examples(
    found: Mapping[str, sweep.Outcome], numbers: Iterable[int], best: int
) -> dict[str, Any]:
    """{name: settings} of each task's best learnable cells on more or fewer examples.

    Validation has at most as many examples as training, and the steps are the map's.
    """
    by_bench: dict[str, list[sweep.Outcome]] = {}
    for outcome in found.values():
        cell = outcome.settings.get("cell", [""])
        if cell[0] == "learnable" and outcome.value and "runs" in outcome.value:
            by_bench.setdefault(outcome.settings["bench"], []).append(outcome)
    given = {}
    for own, number in product(by_bench.values(), numbers):
        ranked = sorted(own, key=validation, reverse=True)
        for outcome in ranked[:best]:
            name = job(outcome.settings, number)
            protocol = resized(outcome.settings["protocol"], number)
            given[name] = outcome.settings | {"protocol": protocol}
            place_of(given[name])
    return given


def validation(outcome: sweep.Outcome) -> float:
    """The mean accuracy by which the rate was chosen; those seeds are not reported."""
    return max(outcome.value["validation"].values())


def resized(protocol: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The protocol with `number` training examples and as many steps."""
    sizes, batch = SIZES | protocol["sizes"], min(number, protocol["batch"])
    steps = protocol["epochs"] * -(-sizes["train"] // protocol["batch"])
    few = {"train": number, "validation": min(number, sizes["validation"])}
    epochs = max(1, round(steps / -(-number // batch)))
    own = {"sizes": protocol["sizes"] | few, "batch": batch, "epochs": epochs}
    return dict(protocol) | own


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
    yield "\n| control | |\n|---|---|"
    for name in CONTROLS:
        yield f"| {name} | {said(found.get(f'{bench}/control-{name}'))} |"
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
    if config.best < 1 or any(number < 2 for number in config.examples):
        raise ValueError(
            f"got --best {config.best} and --examples {config.examples}, expected at "
            "least one cell, and at least two examples"
        )
    given = jobs(config.benches, config.protocol)
    print(f"{len(given)} cells and controls, in {config.out}", flush=True)
    found = finish(config, given)
    if config.examples:
        further = on_examples(found, config.examples, config.best)
        print(f"{len(further)} of them on other numbers of examples", flush=True)
        found |= finish(config, further)
    if failed := sweep.failures(found):
        sys.exit(failed)
    return found


def finish(config: Config, given: Mapping[str, Any]) -> dict[str, sweep.Outcome]:
    """Run the jobs that have no file yet, and print the table."""
    found: dict[str, sweep.Outcome] = {}
    own = {"identity": asdict(config.protocol), "retry_failed": config.retry_failed}
    names = [*given]
    for first in range(0, len(names), JOBS * config.workers):
        part = {n: given[n] for n in names[first : first + JOBS * config.workers]}
        print(f"from {first + 1} to {first + len(part)} of {len(given)}", flush=True)
        with sweep.processes(config.workers) as pool:
            for name, outcome in sweep.run(
                measured, part, config.out, executor=pool, **own
            ):
                found[name] = outcome
                if not len(found) % 20:
                    write(config, plotted=False)
    print(write(config))
    return found


def write(config: Config, plotted: bool = True) -> str:
    """Keep the table and the page of what the folder holds by now.

    Args:
        plotted: False leaves out the page's plots, which take seconds.
    """
    found, parts = sweep.finished(config.out), []
    page.write(config.out, found, plotted=plotted)
    for bench in config.benches:
        own = {n: o for n, o in found.items() if n.startswith(f"{bench}/")}
        parts.append("\n".join(table(bench, own)))
    text = "\n\n".join(parts) + "\n"
    write_file(config.out / "table.md", text.encode())
    return text


if __name__ == "__main__":
    command(main, Config)
