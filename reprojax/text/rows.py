"""Rows of demonstrations: from labelled texts, reordered, relabelled, or retrieved."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reprojax.text.procedure import Row
from reprojax.text.template import fill

Embed = Callable[[Sequence[str]], Any]
"""Texts -> their vectors [N D]."""


def labelled(
    texts: Sequence[str] | np.ndarray,
    y: Sequence[int] | np.ndarray,
    labels: Sequence[str],
    *,
    text: str = "text",
    label: str = "label",
) -> list[dict[str, str]]:
    """Rows {text, label} of texts and classes; labels[c] is the word for class c."""
    classes, known = [int(c) for c in y], range(len(labels))
    if len(texts) != len(y) or any(c not in known for c in y):
        raise ValueError(
            f"got {len(texts)} texts with classes {sorted(set(y))} for the "
            f"labels {list(labels)}, expected a class each, from 0 to "
            f"{len(labels) - 1}"
        )
    pairs = zip(texts, classes, strict=True)
    return [{text: str(t), label: labels[c]} for t, c in pairs]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same rows in a random order (Lu et al., arXiv 2104.08786)."""
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def random_labels(
    rows: Sequence[Row], labels: Sequence[str], seed: int, *, label: str = "label"
) -> list[dict[str, Any]]:
    """Each row with a label drawn from all labels, possibly its own.

    Source: Min et al. (arXiv 2202.12837). Accuracy with such rows is not learned from
    labels.
    """
    _check_known(rows, labels, label)
    drawn = np.random.default_rng(seed).integers(len(labels), size=len(rows))
    return [{**row, label: labels[i]} for row, i in zip(rows, drawn, strict=True)]


def flipped_labels(
    rows: Sequence[Row], labels: Sequence[str], *, label: str = "label"
) -> list[dict[str, Any]]:
    """Each row with the label after its own in `labels`, cyclically: all are wrong.

    Source: Wei et al. (arXiv 2303.03846), with two labels. A model that follows the
    demonstrations is then right as often as it was wrong before.
    """
    _check_known(rows, labels, label)
    behind = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    return [{**row, label: behind[row[label]]} for row in rows]


def _check_known(rows: Sequence[Row], labels: Sequence[str], label: str) -> None:
    unknown = {str(row.get(label)) for row in rows} - set(labels)
    if unknown or len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise ValueError(
            f"rows have {sorted(unknown)} as {label!r} and the labels are "
            f"{list(labels)}; expected rows with only these, at least two, each once"
        )


def nearest_rows(
    rows: Sequence[Row],
    k: int,
    embed: Embed,
    key: str,
    *,
    distance: str = "cosine",
    last: bool = True,
) -> Callable[[Sequence[Row]], list[list[Row]]]:
    """look(xs) -> each query's k nearest rows, for `informed_texts`.

    Args:
        embed: called once for all rows, now, and once for all queries of a call.
        key: the template of the text to embed, such as "{text}".
        distance: "cosine" or "euclidean".
        last: the nearest row is last, next to the query; otherwise it is first.
    """
    if not 1 <= k <= len(rows):
        raise ValueError(f"got k={k}, expected 1 to {len(rows)}, the number of rows")
    if distance not in ("cosine", "euclidean"):
        raise ValueError(f"got distance={distance!r}, expected 'cosine' or 'euclidean'")

    def vectors(texts: Sequence[Row]) -> np.ndarray:
        found = np.asarray(embed([fill(key, row) for row in texts]), np.float64)
        if found.ndim != 2 or len(found) != len(texts) or not np.isfinite(found).all():
            raise ValueError(
                f"embed gave {found.shape} for {len(texts)} texts, expected a finite "
                "vector each, [N D]"
            )
        if distance == "euclidean":
            return found
        length = np.linalg.norm(found, axis=1, keepdims=True)
        return found / np.maximum(length, 1e-12)

    known = vectors(rows)
    # |x - v|^2 / 2 = |x|^2 / 2 - (x v - |v|^2 / 2), where |x| is the same for all rows
    half = (known**2).sum(1) / 2 if distance == "euclidean" else 0.0

    def look(xs: Sequence[Row]) -> list[list[Row]]:
        if not len(xs):
            return []
        near = vectors(xs) @ known.T - half
        order = np.argsort(-near, axis=1, kind="stable")[:, :k]
        order = order[:, ::-1] if last else order
        return [[rows[i] for i in own] for own in order]

    return look
