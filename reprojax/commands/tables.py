"""The tables that an experiment prints and its report shows."""

from collections.abc import Mapping, Sequence

import numpy as np

from reprojax.commands.intervals import mean_of, paired
from reprojax.taxonomy import Description
from reprojax.training.loop import Fitted

HEADER = (
    "test, selected",
    "method",
    "test, last",
    "learnable",
    "seconds a step",
    "coordinates",
)


def program_row(
    title: str, seen: Description, fits: Sequence[Fitted]
) -> tuple[str, ...]:
    """The first line of the table."""
    scores = summary(fits)
    timed = [s for s in scores["seconds_per_step"] if s == s]  # a resume may time none
    return (
        str(mean_of(scores["test"])),
        title,
        str(mean_of(scores["last"])),
        f"{seen.learnable:,}",
        f"{np.median(timed):.3f}" if timed else "",
        seen.coordinates,
    )


def control_row(name: str, scores: Mapping[str, list[float]]) -> tuple[str, ...]:
    """A control's line."""
    return (str(mean_of(scores["test"])), name, "", "", "", "")


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned, controls below a rule."""
    every = [header, *rows]
    widths = [max(len(line[i]) for line in every) for i in range(len(header))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True))
        for line in every
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, lines[1], rule, *lines[2:]])


def comparisons(table: Mapping[str, Mapping[str, list[float]]]) -> list[str]:
    """The program over each control, paired over the seeds that both have."""
    own, lines = table["program"]["test"], []
    for name in list(table)[1:]:
        scores = table[name]["test"]
        if len(scores) > 1:
            difference = paired(own[: len(scores)], scores)
            how = "paired" if np.isnan(difference.half) else "paired, 95 % interval"
            lines.append(f"over {name}: {difference.interval} ({how})")
    return lines


def summary(fits: Sequence[Fitted]) -> dict[str, list[float]]:
    """Accuracies by seed: of the selected params, of the last ones, on validation."""
    names = ("test", "last", "validation")
    found = {name: [fitted.score[name] for fitted in fits] for name in names}
    return found | {"seconds_per_step": [fitted.seconds_per_step for fitted in fits]}
