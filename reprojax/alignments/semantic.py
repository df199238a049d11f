"""The semantic map: source classes whose names mean what the target's name means."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float

from reprojax.alignments.rule import columns, groups
from reprojax.core import Given, Manipulation
from reprojax.core.guards import check_sizes


def semantic(
    sources: Sequence[str] | Float[Given, "S D"],
    targets: Sequence[str] | Float[Given, "T D"],
    several: int = 1,
) -> Manipulation:
    """The source classes nearest to each target class by the cosine of their names.

    In each of `several` rounds every target class, in order, takes the nearest source
    class that is left (SemanticMap of AutoVP, arXiv 2310.08381). The logits of its
    source classes are averaged. Images and answers play no part, so it is a rule.

    Args:
        sources: text features [S D] of the names of the model's classes; the paper has
            CLIP's. Of names themselves (strings), features count three-letter pieces,
            which finds "tabby cat" for "cat", but no "feline".
        targets: the same of the task's classes [T D], from the same text model.
    """
    check_sizes("semantic", several=several)
    ids = similar(sources, targets, several)
    return columns([own[0] for own in ids]) if several == 1 else groups(ids)


def similar(
    sources: Sequence[str] | Float[Given, "S D"],
    targets: Sequence[str] | Float[Given, "T D"],
    several: int = 1,
) -> list[list[int]]:
    """The source classes [several] of each target class, nearest first."""
    near = _cosines(*_features(sources, targets))
    wanted, held = len(near) * several, near.shape[1]
    if wanted > held:
        raise ValueError(
            f"semantic maps {len(near)} target classes to {several} source class(es) "
            f"each, and got {held}; expected at least {wanted}; take a smaller several="
        )
    order = np.argsort(-near, axis=1, kind="stable")
    ids: list[list[int]] = [[] for _ in near]
    taken: set[int] = set()
    for _, t in product(range(several), range(len(near))):
        nearest = next(int(s) for s in order[t] if int(s) not in taken)
        ids[t].append(nearest)
        taken.add(nearest)
    return ids


def _features(sources: Any, targets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 [N D]."""
    named = [not hasattr(names, "shape") for names in (sources, targets)]
    if all(named):
        own, other = _pieces(list(sources), list(targets))
        return own, other
    shapes = [np.shape(a) for a in (sources, targets)]
    if any(named) or any(len(s) != 2 for s in shapes) or shapes[0][1] != shapes[1][1]:
        kinds = [
            "names" if own else f"an array of {shape}"
            for own, shape in zip(named, shapes, strict=True)
        ]
        raise ValueError(
            f"semantic got {kinds[0]} for the sources and {kinds[1]} for the targets, "
            "expected names for both, or features [S D] and [T D] of one text model"
        )
    return np.asarray(sources, np.float64), np.asarray(targets, np.float64)


def _pieces(*lists: list[str]) -> list[np.ndarray]:
    """How often each three-letter piece occurs in each name, blanks at its ends."""
    cut = [[_cut(name) for name in names] for names in lists]
    known = sorted({piece for names in cut for pieces in names for piece in pieces})
    place = {piece: i for i, piece in enumerate(known)}
    counts = [np.zeros((len(names), len(known))) for names in cut]
    for rows, names in zip(counts, cut, strict=True):
        for row, pieces in zip(rows, names, strict=True):
            np.add.at(row, [place[piece] for piece in pieces], 1)
    return counts


def _cut(name: str) -> list[str]:
    text = f" {' '.join(name.lower().replace('_', ' ').split())} "
    return [text[i : i + 3] for i in range(max(1, len(text) - 2))]


def _cosines(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """[T S]"""
    unit = [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
            for a in (sources, targets)]  # fmt: skip
    return unit[1] @ unit[0].T
