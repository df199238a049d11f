"""What a table of accuracies means, in sentences."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from reprojax.commands.intervals import Mean, mean_of, paired

PIXELS = "nearest pixels, no model"
RANDOM = "same program, random weights"
_SAID = {
    "best map without prompt": "the best map without a prompt",
    "random map without prompt": "a random map",
    "linear probe": "the linear probe",
    "zero-shot ensemble": "the zero-shot ensemble",
    "nearest features": "the nearest training image by features",
    PIXELS: "the nearest training image",
}


class Verdict(NamedTuple):
    """What the user should do, and why."""

    take: str | None
    """The row whose program should be used; None where none is kept."""
    sentences: list[str]


def verdict(
    scores: Mapping[str, Sequence[float]],
    kept: Collection[str],
    *,
    prompt: bool = True,
) -> Verdict:
    """Which row is best, by how much, and what follows for the user.

    Differences are paired over the seeds; intervals are Student's t, 95 %. A row is
    called better only where the interval of its difference does not hold 0. There is
    none where all seeds give the same difference, as with splits that do not change.

    Args:
        scores: {row: test accuracies by seed}, the run's own program first, its
            controls behind it. The program on random weights (`RANDOM`) may have fewer
            seeds. It is no candidate: it says whether the model's weights matter.
        kept: the rows whose programs are in files.
        prompt: whether the run's own program has a prompt.
    """
    own, *rest = scores
    finite = [n for n in rest if np.isfinite(scores[n]).all()]
    others = sorted(
        (n for n in finite if n != RANDOM), key=lambda n: -np.mean(scores[n])
    )
    left_out = [f"{n} has values that are not finite." for n in rest if n not in finite]
    if not np.isfinite(scores[own]).all():
        said = f"{own} has values that are not finite: take a smaller --learning-rate."
        usable = [n for n in others if n in kept]
        return Verdict(usable[0] if usable else None, [said, *left_out])
    if not others:
        said = f"{own} has {mean_of(scores[own])}. It was compared with nothing."
        return Verdict(own, [said, *left_out])
    take, said = _own_or_other(scores, others, kept, prompt)
    beside = _beside(scores, finite)
    return Verdict(take, [*said, *beside, *_weights(scores), *left_out])


def _own_or_other(
    scores: Mapping[str, Sequence[float]],
    others: list[str],
    kept: Collection[str],
    prompt: bool,
) -> tuple[str, list[str]]:
    own, rival, seeds = next(iter(scores)), others[0], len(scores[next(iter(scores))])
    mean = {name: mean_of(scores[name]) for name in (own, *others)}
    subject = "the prompt" if prompt else own
    filed = [name for name in others if name in kept]
    best = max([*filed, own], key=lambda n: mean[n].value)  # of equals the simpler
    difference = paired(scores[own], scores[rival])
    if seeds == 1:
        ahead, behind = sorted((rival, own), key=lambda n: -mean[n].value)
        pair = f"{_the(ahead)} has {mean[ahead]}, {_the(behind)} {mean[behind]}"
        said = [f"In one seed, {pair}."]
        if best not in (ahead, behind):
            said += [f"Of the programs in files, {_the(best)} has most: {mean[best]}."]
        return best, [
            *said,
            "One seed gives no interval, so this may be chance: run the same command "
            "with --seeds 5 --resume.",
        ]
    how = _how(difference, seeds)
    if _low(difference) > 0:
        best_of = ", the best of the rows without a prompt" if prompt else ""
        won = "The prompt wins" if prompt else f"{own} is best"
        name = f"{own} has" if prompt else "it has"
        return own, [
            f"{won}: {name} {mean[own]}, {difference.interval} over {_the(rival)}"
            f"{best_of} ({how}).",
            f"Take {subject}: nothing that it was compared with does as well.",
        ]
    less = f"{own} less {_the(rival)}: {difference.interval}"
    if _high(difference) < 0:
        said = [f"{_upper(_the(rival))} is best: it has {mean[rival]}."]
        said += [f"{_upper(subject)} does not beat it here ({less}; {how})."]
        said += _second(scores, others)
        program = subject if best == own else _the(best)
        if rival in kept:
            return best, [*said, f"Take {program}."]
        return best, [*said, f"No file holds {_the(rival)}: take {program}."]
    ahead = not filed or _ahead(paired(scores[own], scores[filed[0]]))
    take = own if ahead else filed[0]
    until = subject if ahead else f"{_the(take)}, which is simpler"
    more = f"Run the same command with --seeds {max(2 * seeds, 5)} --resume"
    if seeds > 2 and np.isnan(difference.half):
        more = "All seeds give the same difference, so label more test images"
    return take, [
        f"{seeds} seeds do not settle whether {subject} is better: {own} has "
        f"{mean[own]}, {_the(rival)} {mean[rival]} ({less}; {how}).",
        f"{more}. Until then take {until}.",
    ]


def _second(scores: Mapping[str, Sequence[float]], others: list[str]) -> list[str]:
    """Where the best control is not settled against the second one."""
    if len(others) < 2:
        return []
    difference = paired(*(scores[name] for name in others[:2]))
    if _low(difference) > 0:
        return []
    first, second = map(_the, others[:2])
    how = _how(difference, len(scores[others[0]]))
    return [
        f"Whether {first} is better than {second} is not settled: "
        f"{difference.interval} ({how})."
    ]


def _beside(scores: Mapping[str, Sequence[float]], finite: Sequence[str]) -> list[str]:
    """Of a pair's program: over zero-shot and over the probe, whichever is best."""
    if "zero-shot" not in finite:
        return []
    own = next(iter(scores))
    parts = [
        f"{paired(scores[own], scores[name]).interval} over {_the(name)}"
        for name in ("zero-shot", "linear probe")
        if name in finite
    ]
    return [f"{own} has {' and '.join(parts)}."]


def _weights(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """Whether the frozen model's weights matter."""
    untrained = scores.get(RANDOM, ())
    if len(untrained) < 2 or not np.isfinite(untrained).all():
        return []
    own = next(iter(scores.values()))[: len(untrained)]
    difference, level = paired(own, untrained), mean_of(untrained)
    said = f"on random weights the same program has {level} ({difference.interval})"
    if _low(difference) > 0:
        return [f"What the model has learned matters: {said}."]
    if _high(difference) < 0:
        return [f"What the model has learned does not help: {said}."]
    return [f"It is not settled that what the model has learned matters: {said}."]


def _how(difference: Mean, seeds: int) -> str:
    """How two rows were compared."""
    interval = "" if np.isnan(difference.half) else ", 95 % interval"
    return f"paired over {seeds} seeds{interval}"


def _ahead(difference: Mean) -> bool:
    """Of two equal differences there is no interval, so the mean decides."""
    return (difference.value if np.isnan(difference.half) else _low(difference)) > 0


def _low(difference: Mean) -> float:
    return difference.value - difference.half


def _high(difference: Mean) -> float:
    return difference.value + difference.half


def _the(row: str) -> str:
    return _SAID.get(row, row)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
