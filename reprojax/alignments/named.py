"""Published alignments by name."""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reprojax.alignments import (
    bayesian,
    bayesian_plus,
    columns,
    favourites,
    linear,
    mean_probability,
    one_to_one,
    random_map,
    ridge,
)
from reprojax.core import Manipulation
from reprojax.core.estimation import Refresh
from reprojax.core.guards import check_sizes, find


def first(targets: int) -> Manipulation:
    """The model's first classes: the map of arXiv 1806.11146 and 2203.17274."""
    return columns(range(targets))


def displaced(targets: int) -> Manipulation:
    """The model's first classes in an order in which none stands at its own place.

    Source: REFINE (arXiv 2502.18508), whose code draws such an order; here it is drawn
    once for each number of classes.
    """
    check_sizes("displaced", 2, targets=targets)
    random, order = np.random.default_rng(targets), np.arange(targets)
    while (order == np.arange(targets)).any():
        order = random.permutation(targets)
    return columns(order)


class Alignment(NamedTuple):
    """An alignment, and when to estimate its map."""

    build: Callable[[int], Manipulation]
    """number of target classes -> manipulation of "output" """
    refresh: Refresh
    probable: bool = True
    """Whether it maps log-probabilities to log-probabilities, or to weighted means."""
    summary: str = ""
    """What a target class is given, and the paper."""


ALIGNMENTS: dict[str, Alignment] = {
    "first": Alignment(
        first,
        "once",
        summary="the source class of its own number (arXiv 1806.11146, 2203.17274)",
    ),
    "rlm": Alignment(
        random_map, "once", summary="a source class at random (arXiv 2211.11635)"
    ),
    "flm": Alignment(
        one_to_one,
        "once",
        summary="the source class that its images get most often, estimated before "
        "training (arXiv 2211.11635)",
    ),
    "ilm": Alignment(
        one_to_one,
        "epoch",
        summary="as flm, estimated again after each epoch (arXiv 2211.11635)",
    ),
    "favourites": Alignment(
        favourites,
        "once",
        summary="the source class that its images get most often, even if others have "
        "it too, estimated before training (arXiv 2212.10556)",
    ),
    "blm": Alignment(
        bayesian,
        "epoch",
        summary="all source classes, weighted by how often its images get them, "
        "estimated after each epoch (arXiv 2410.24018)",
    ),
    "blm+": Alignment(
        bayesian_plus,
        "epoch",
        summary="as blm, counting each answer's K largest probabilities: .15 of the "
        "number of classes, or as in blm+15 (arXiv 2410.24018)",
    ),
    "bar": Alignment(
        mean_probability,
        "once",
        summary="the mean probability of several source classes (arXiv 2007.08714)",
    ),
    "displaced": Alignment(
        displaced,
        "once",
        summary="the source class of another number (arXiv 2502.18508)",
    ),
    "ridge": Alignment(
        ridge,
        "epoch",
        probable=False,
        summary="a weighted sum of the logits in closed form: ridge regression on the "
        "labels, estimated after each epoch",
    ),
    "linear": Alignment(
        lambda targets: linear(targets, bias=False),
        "once",
        probable=False,
        summary="a learned weighted sum of the logits",
    ),
}


def find_alignment(name: str) -> Alignment:
    """The alignment of a name; an unknown one raises ValueError with the nearest names.

    "blm+15" is BLM+ with k = 15: it counts each answer's 15 largest probabilities.
    "flm5", "ilm5" and "bar5" give a target class five source classes, whose logits, or
    for BAR probabilities, are averaged.
    """
    kind, number = _split(name)
    if kind == "blm+":
        return Alignment(lambda targets: bayesian_plus(targets, number), "epoch")
    if kind in SEVERAL:
        build, own = SEVERAL[kind], ALIGNMENTS[kind]
        return own._replace(build=lambda targets: build(targets, number))
    return find("alignment", name, ALIGNMENTS)


SEVERAL = {"flm": one_to_one, "ilm": one_to_one, "bar": mean_probability}
"""Maps of several source classes a target class, as in "ilm5"."""


def _split(name: str) -> tuple[str, int]:
    """The name and the number behind it; ("", 0) without one."""
    found = re.fullmatch(r"(.*\D)([1-9]\d*)", name) if isinstance(name, str) else None
    return (found[1], int(found[2])) if found else ("", 0)
