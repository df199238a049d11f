r"""How much a choice loses: its test accuracy beside that of the best in the finals.

    python -m experiments.choosing.resplits --minutes 2 --out runs/resplits
    python -m experiments.choosing.resplits --backbone google/vit-base-patch16-224 \
        --target my/photos --minutes 10 --out runs/resplits

Each resplit draws other test, validation and training images, and makes a whole choice,
as `python -m experiments.choose` does. Behind it this evaluation reads the test split
for everything that was in the finals, with a prompt and without, which no choice may
do. The gap is the best mean test accuracy less the chosen program's. It is never below
0, and too large rather than too small: the best of several is the best by chance too.
A second gap compares, of those that are files, the one that was kept with the best. A
run that was stopped goes on with --resume.

Expected of digits on two busy cores with --minutes 1.5: the nearest image, which is no
program, is chosen and best in all 5 resplits (.978 to .987), and both gaps are 0. Nine
minutes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import choose
from experiments.choosing import settings
from experiments.choosing.result import finalists, tests
from experiments.choosing.run import Choice, Entry
from experiments.shared import assets
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.commands.tables import text_table
from reprojax.saving.files import write_json

HEADER = ("resplit", "chosen", "test", "best in the finals", "test", "gap")


@dataclass(frozen=True)
class Config(settings.Config):
    """What a choice takes, and how often it is made."""

    resplits: int = 5
    minutes: float = 2.0
    """Of each choice."""
    out: Path = Path("runs/resplits")
    """A folder with one for each choice."""


def main(config: Config, **given: Any) -> dict[str, Any]:
    """Choose on each resplit, print the table, and write it to results.json.

    Args:
        given: as for `choose.main`.
    """
    if config.resplits < 1:
        raise ValueError(f"got --resplits {config.resplits}, expected at least 1")
    own = {f.name: getattr(config, f.name) for f in fields(settings.Config)}
    found = []
    for number in range(config.resplits):
        one = replace(
            settings.Config(**own),
            seed=config.seed + number * (config.finals + 1),
            test_seed=number,
            out=config.out / f"resplit-{number}",
        )
        print(f"\nresplit {number + 1} of {config.resplits}", flush=True)
        found.append({})
        choose.main(one, after=_into(found[-1]), **given)
    gaps = {
        "chosen": [f["test"][f["best"]] - f["test"][f["chosen"]] for f in found],
        "kept": [max(f["filed"].values()) - f["filed"][f["kept"]] for f in found],
    }
    chosen, kept = (mean_of(gaps[name]) for name in ("chosen", "kept"))
    print("\n" + text_table(HEADER, [*map(_line, range(len(found)), found)]))
    print(
        f"\nmean gap of what was chosen {chosen}, of what was kept as a file {kept} "
        f"(95 % intervals over {len(found)} resplits)"
    )
    results = {"gaps": gaps, "resplits": found}
    write_json(config.out / "results.json", results)
    return results


def _into(found: dict[str, Any]) -> Callable[[Choice, Mapping[str, Entry]], None]:
    """Read the test split for all that was in the finals."""

    def read(choice: Choice, entries: Mapping[str, Entry]) -> None:
        ranking, seeds = finalists(entries)
        rows = tests(choice, ranking, seeds, phase="every-test")
        scores = {row.title: float(np.mean(row.test)) for row in rows}
        found["chosen"], found["test"] = rows[0].title, scores
        found["best"] = max(scores, key=lambda title: scores[title])
        filed = {row.title: scores[row.title] for row in rows if row.file}
        found["filed"], found["kept"] = filed, next(iter(filed))

    return read


def _line(number: int, found: Mapping[str, Any]) -> tuple[str, ...]:
    own, best = (found["test"][found[name]] for name in ("chosen", "best"))
    values = found["chosen"], f"{own:.3f}", found["best"], f"{best:.3f}"
    return str(number + 1), *values, f"{best - own:.3f}"


def run(config: Config) -> None:
    """`main`, with the names of our assets too."""
    main(config, load_backbone=assets.load_backbone, load_task=assets.load_task)


if __name__ == "__main__":
    command(run, Config)
