"""A map's folder made of its CSV file, so that nothing has to be measured again.

    python -m experiments.map.restored --table docs/map.csv --out runs/map

Then the commands of the map work as on the folder of the run itself: the reading, the
page, and `python -m experiments.taxonomy_map --examples 16 64 1024`, which trains the
best cells on other numbers of examples. What a CSV file does not hold is missing: the
program tables, the pictures, the seconds of a job, and what the choosing seeds scored.
The mean validation accuracy of the reported seeds stands for that one.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments import sweep
from experiments.map import page
from experiments.map.protocol import Protocol
from experiments.taxonomy_map import job, resized
from reprojax.commands.outputs import command
from reprojax.saving.files import plain

HEAD = ("task", "configuration", "location", "operator", "alignment", "control")
RUN = ("seed", "test", "validation", "calibration error", "training seconds")


@dataclass(frozen=True)
class Config:
    """Which table, and where it goes."""

    table: Path
    """A `map.csv`, as `python -m experiments.map.page` writes it."""
    out: Path = Path("runs/map")
    """The folder to fill; jobs that it holds stay as they are."""
    protocol: Protocol = field(default_factory=Protocol)
    """The protocol by which the table was measured."""


def of_csv(text: str, protocol: Protocol) -> dict[str, sweep.Outcome]:
    """{name: outcome} of the rows that `outcomes.as_csv` has written.

    Raises:
        ValueError: a column is missing, or a number is none.
    """
    rows = [*csv.DictReader(io.StringIO(text))]
    needed = [*HEAD, "examples", "state", "message", *RUN]
    if absent := [name for name in needed if not rows or name not in rows[0]]:
        raise ValueError(
            f"the table has no columns {absent}, expected a map.csv of "
            "python -m experiments.map.page, with at least one row"
        )
    jobs: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        if row["state"] == "waiting":
            continue
        jobs.setdefault(tuple(row[n] for n in (*HEAD, "examples")), []).append(row)
    made = (_outcome(runs, protocol) for runs in jobs.values())
    return {outcome.name: outcome for outcome in made}


def _outcome(rows: Sequence[Mapping[str, str]], protocol: Protocol) -> sweep.Outcome:
    head = rows[0]
    cell = tuple(head[name] for name in HEAD[1:5])
    what = {"control": head["control"]} if head["control"] else {"cell": [*cell]}
    given: dict[str, Any] = asdict(protocol)
    if head["examples"]:
        given = resized(given, int(head["examples"]))
    settings = {"bench": head["task"], **what, "protocol": given}
    settings = plain(settings, "a row's settings")
    failed = head["state"] == "failed"
    value = None if failed else _value(rows)
    error = head["message"] if failed else None
    return sweep.Outcome(job(settings, head["examples"]), settings, value, error, [], 0)


def _value(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    head = rows[0]
    if head["state"] == "impossible":
        return {"why_not": head["message"]}
    runs = [*map(_run, rows)]
    value: dict[str, Any] = {"runs": runs}
    if head.get("candidate"):
        value |= {"candidate": head["candidate"], "rate": _number(head["rate"])}
        mean = float(np.mean([run["validation"] for run in runs]))
        value |= {"validation": {"the reported seeds": mean}}
    for name in ("bytes", "tokens"):
        if head.get(name):
            value[name] = _number(head[name])
    for name in ("prompt", "alignment"):
        if head.get(f"{name} numbers"):
            value[name] = _number(head[f"{name} numbers"])
    for name in ("operations", "latency"):
        both = {of: head.get(f"{name} {of}") for of in ("bare", "program")}
        if numbers := {of: _number(text) for of, text in both.items() if text}:
            value[name] = numbers
    return value


def _run(row: Mapping[str, str]) -> dict[str, Any]:
    run: dict[str, Any] = {name: _number(row[name]) for name in RUN if row[name]}
    shifts = {n.removeprefix("shifted: "): n for n in row if n.startswith("shifted: ")}
    shifted = {short: _number(row[n]) for short, n in shifts.items() if row[n]}
    return run | ({"shifted": shifted} if shifted else {})


def _number(text: str | None) -> int | float | None:
    if not text:
        return None
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise ValueError(f"got {text!r} in the table, expected a number") from None


def main(config: Config) -> None:
    """Write a file for each job of the table, and the page."""
    found = of_csv(config.table.read_text(encoding="utf-8"), config.protocol)
    kept = sweep.keep(found, config.out, identity=asdict(config.protocol))
    page.write(config.out, sweep.finished(config.out))
    print(f"{config.out} got {len(kept)} of the {len(found)} jobs of {config.table}")


if __name__ == "__main__":
    command(main, Config)
