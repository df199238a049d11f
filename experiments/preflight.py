"""How well the scores printed before training foretold finished runs.

    python -m experiments.preflight runs/digits runs/letters runs/photos

Each folder is one of `reprojax train` or `experiments.visual_reprogramming`, with its
controls. Prints, for each, LogME of features and answers, their difference (the
log-likelihood ratio of arXiv 2409.01821), the label overlap, and what came of it; then
the rank correlation of each score with the result that it is about. Of few runs a
correlation says little: with four, one of five orders by chance has at least .8.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from reprojax.commands.outputs import command
from reprojax.training.preflight import rank_correlation

PROBE, MAP = "linear probe", "best map without prompt"


@dataclass(frozen=True)
class Config:
    """Finished runs."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders with results.json."""


class Row(NamedTuple):
    """A run's scores, and its accuracies on the test split, means over seeds."""

    name: str
    features: float
    answers: float
    ratio: float
    overlap: float
    prompt: float
    probe: float
    map_alone: float


ABOUT = {
    "LogME of the features, and the probe": ("features", lambda r: r.probe),
    "LogME of the answers, and the prompt": ("answers", lambda r: r.prompt),
    "log-likelihood ratio, and prompt - probe": (
        "ratio",
        lambda r: r.prompt - r.probe,
    ),
    "label overlap, and the map alone": ("overlap", lambda r: r.map_alone),
}
"""{what is printed: (score, the result that it is about)}"""


def read(folder: Path) -> Row:
    """Raise ValueError unless a run with its controls has ended there."""
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(
            f"no {path}, expected the folder of a finished run: `reprojax train --out "
            f"{folder}`"
        )
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    table = found["results"]
    if "preflight" not in found or not {PROBE, MAP} <= table.keys():
        raise ValueError(
            f"{path} has no scores and controls, expected those of a run with "
            "--controls; run it again"
        )
    own = found["preflight"]
    scores = [own[name] for name in ("features", "answers", "ratio", "overlap")]
    means = [float(np.mean(table[n]["test"])) for n in ("program", PROBE, MAP)]
    return Row(folder.name, *scores, *means)


def correlations(rows: list[Row]) -> dict[str, float]:
    """{what is printed: Spearman's rank correlation over the runs}"""
    return {
        what: rank_correlation([getattr(r, score) for r in rows], [*map(result, rows)])
        for what, (score, result) in ABOUT.items()
    }


def main(config: Config) -> None:
    rows = [read(folder) for folder in config.runs]
    names = ("run", "features", "answers", "ratio", "overlap", "prompt", "probe", "map")
    width = max(len(row.name) for row in rows) + 2
    line = f"{{:{width}}}" + "{:>10}" * 7
    print(line.format(*names))
    for row in rows:
        print(line.format(row.name, *(f"{number:.3f}" for number in row[1:])))
    if len(rows) > 1:
        print(f"\nrank correlation over {len(rows)} runs")
        for what, found in correlations(rows).items():
            print(f"{found:+.2f}  {what}")


if __name__ == "__main__":
    command(main, Config)
