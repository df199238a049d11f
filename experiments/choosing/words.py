"""What a choice means, in two sentences, and its table."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from reprojax.commands.intervals import Mean, mean_of, paired

Z = 1.96
FAR = 100  # times the test images: more than anyone would label


class Row(NamedTuple):
    """A program in the finals."""

    title: str
    """As a sentence names it."""
    prompt: bool
    test: list[float]
    """Accuracies by seed."""
    right: np.ndarray
    """[seeds N] 0 or 1 for each test image."""
    file: str | None
    """Where the program is kept."""


def sentences(winner: Row, others: Sequence[Row], validation: int) -> list[str]:
    """(what won, by how much; what to do next).

    Args:
        winner: what validation chose.
        others: what came next on validation first; the best without a prompt, or the
            best with one, is among them.
        validation: number of validation images.
    """
    if not others:
        return [
            f"{_upper(winner.title)} won: it has {mean_of(winner.test)} on the test "
            "images, and nothing else was finished.",
            f"Take {winner.title}, or give more --minutes.",
        ]
    return [_won(winner, others), _next(winner, others, validation)]


def trained_on(images: int, whole: int) -> list[str]:
    """A sentence, if prompts of the finals had fewer than all training images."""
    if images == whole:
        return []
    return [
        f"Prompts were trained on {images:,} of {whole:,} images: more --minutes would "
        "use all."
    ]


def less(a: Row, b: Row) -> Mean:
    """How much more right a is than b, with a 95 % interval.

    Over the seeds. Where all of them give the same difference (the splits are the
    same, and nothing is drawn) over the test images, whose answers are also paired.
    """
    found = paired(a.test, b.test)
    if not _of_images(a, b):
        return found
    d = (a.right - b.right).mean(0)
    return found._replace(half=Z * float(d.std()) / len(d) ** 0.5)


def _of_images(a: Row, b: Row) -> bool:
    """Whether there are seeds, and they give a difference but no interval."""
    found = paired(a.test, b.test)
    none = np.isnan(found.half) and np.isfinite(found.value)
    return len(a.test) > 1 and bool(none)


def _won(winner: Row, others: Sequence[Row]) -> str:
    rival, seeds = _rival(winner, others), len(winner.test)
    ahead = others[0]
    kind = "the best that needs no prompt" if winner.prompt else "the best prompt"
    parts = [f"{_over(winner, ahead)} {ahead.title}, the next"]
    if rival is ahead:
        parts[0] += f" and {kind}"
    elif rival is not None:
        parts.append(f"{_over(winner, rival)} {rival.title}, {kind}")
    how = f"paired over {seeds} seeds, 95 % interval" if seeds > 1 else "one seed"
    compared = [ahead] if rival is None else [ahead, rival]
    if every := [row for row in compared if _of_images(winner, row)]:
        images = f"{winner.right.shape[1]} test images"
        same = "all seeds give the same difference"
        how = f"paired over {images}, 95 % interval; {same}"
        if len(every) < len(compared):
            how = f"paired over {seeds} seeds, or, where {same}, over {images}"
            how += "; 95 % intervals"
    return (
        f"{_upper(winner.title)} won on validation: it has {mean_of(winner.test)} on "
        f"the test images, {', and '.join(parts)} ({how})."
    )


def _rival(winner: Row, others: Sequence[Row]) -> Row | None:
    """The best of the other kind: with a prompt or without."""
    return next((row for row in others if row.prompt != winner.prompt), None)


def _over(a: Row, b: Row) -> str:
    return f"{less(a, b).interval} over"


def _next(winner: Row, others: Sequence[Row], validation: int) -> str:
    better = [row for row in others if _settled(less(row, winner))]
    if better:
        best, gain = better[0], less(better[0], winner).interval
        # What is kept as the winner stays validation's choice: a program that the test
        # images chose has too high an accuracy on them.
        kept = f" It is kept too: {best.file}." if best.file else ""
        return (
            f"Label more images: {best.title} does better on the test images ({gain}), "
            f"so {validation} validation images are too few to choose by.{kept}"
        )
    rival = _rival(winner, others)
    if not winner.prompt:
        return _without(winner, others, rival)
    open_ = [row for row in others if not _settled(less(winner, row))]
    if rival is not None and rival in open_:
        simpler = ", which needs no prompt"
        kept = " and is kept as a file too" if rival.file else ""
        return f"{_more(winner, rival, simpler + kept)}; until then take either."
    if open_:
        return f"Take {winner.title}. {_more(winner, open_[0])}."
    return f"Take {winner.title}: nothing that it was compared with does as well."


def _without(winner: Row, others: Sequence[Row], rival: Row | None) -> str:
    filed = next((row for row in (winner, *others) if row.file), None)
    if filed is not winner and filed is not None and filed.prompt:
        return (
            f"No file holds {winner.title}: take {filed.title}, or answer with the "
            "label of the nearest training image yourself."
        )
    take = f"Take {winner.title}"
    if filed is not winner:
        instead = f", so take {filed.title}" if filed else ""
        take = f"No file holds {winner.title}{instead}"
    if rival is None:
        return f"{take}: no prompt had time for the finals; give more --minutes."
    if _settled(less(winner, rival)):
        return f"{take}: no prompt beats it here."
    return f"{take}: it needs no prompt, and {rival.title} was not shown to beat it."


def _more(a: Row, b: Row, what: str = "") -> str:
    """How many labels would tell two programs apart."""
    images, more = a.right.shape[1], more_images(a.right, b.right)
    apart = f"{a.title} cannot be told apart from {b.title}{what}"
    if more is None:
        return f"On {images} test images {apart}, and more labels would hardly help"
    return f"Label about {more:,} more images: on {images} test images {apart}"


def more_images(a: np.ndarray, b: np.ndarray) -> int | None:
    """How many more test images would tell two programs apart that go on to differ as
    on these; None if more than a hundred times as many.

    Of n images, differences d of a mean m have a standard error of √(var(d)/n), so that
    n = (1.96/m)² var(d) puts m at the border of the 95 % interval.

    Args:
        a, b: [seeds N] 0 or 1 for each image.
    """
    d = (a - b).mean(0)
    n, m = len(d), abs(d.mean())
    if m * (FAR * n) ** 0.5 <= Z * d.std():
        return None
    wanted = (Z / m) ** 2 * d.var() if m else 0.0
    more = max(wanted - n, n)  # n images did not suffice, whatever the formula says
    size = 10 ** max(0, int(np.log10(more)) - 1)
    return int(np.ceil(more / size) * size)


def _settled(difference: Mean) -> bool:
    return difference.value - difference.half > 0


def many(count: int, what: str) -> str:
    """As in "1 epoch" and "2 epochs"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
