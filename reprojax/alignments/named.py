"""The published alignments by their names."""

from collections.abc import Callable
from typing import NamedTuple

from reprojax.alignments import (
    bayesian,
    bayesian_plus,
    columns,
    linear,
    mean_probability,
    one_to_one,
    random_map,
)
from reprojax.core import Manipulation
from reprojax.core.estimation import Refresh
from reprojax.core.guards import find


def first(targets: int) -> Manipulation:
    """The model's first classes: the map of arXiv 1806.11146 and 2203.17274."""
    return columns(range(targets))


class Alignment(NamedTuple):
    """An alignment, and when its map is estimated."""

    build: Callable[[int], Manipulation]
    """number of target classes -> manipulation of "output" """
    refresh: Refresh
    probable: bool = True
    """Of log probabilities it makes log probabilities, or weighted means of them."""


ALIGNMENTS: dict[str, Alignment] = {
    "first": Alignment(first, "once"),
    "rlm": Alignment(random_map, "once"),
    "flm": Alignment(one_to_one, "once"),
    "ilm": Alignment(one_to_one, "epoch"),
    "blm": Alignment(bayesian, "epoch"),
    "blm+": Alignment(bayesian_plus, "epoch"),
    "bar": Alignment(mean_probability, "once"),
    "linear": Alignment(
        lambda targets: linear(targets, bias=False), "once", probable=False
    ),
}


def find_alignment(name: str) -> Alignment:
    """The alignment of a name, or an error with the nearest names.

    "blm+15" is BLM+ that counts the 15 largest probabilities of each answer.
    """
    if isinstance(name, str) and name.startswith("blm+") and name[4:].isdecimal():
        k = int(name[4:])
        return Alignment(lambda targets: bayesian_plus(targets, k), "epoch")
    return find("alignment", name, ALIGNMENTS)
