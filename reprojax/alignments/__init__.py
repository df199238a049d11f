"""Omega, the alignment: maps the model's output to the task's."""

from reprojax.alignments.closed_form import ridge
from reprojax.alignments.descriptions import (
    nearest_texts,
    related_classes,
    reweighted,
)
from reprojax.alignments.heads import heads
from reprojax.alignments.linear import linear
from reprojax.alignments.rule import (
    at_mask,
    at_words,
    columns,
    groups,
    identity,
    label_words,
    last,
    mean,
    normalised,
    of_probabilities,
)
from reprojax.alignments.semantic import semantic
from reprojax.alignments.statistical import (
    bayesian,
    bayesian_map,
    bayesian_plus,
    calibrated,
    centred,
    favourites,
    favourites_map,
    mean_probability,
    one_to_one,
    one_to_one_map,
    pair_counts,
    random_map,
    soft_pair_counts,
)
from reprojax.alignments.voting import voting

__all__ = [
    "at_mask",
    "mean_probability",
    "bayesian",
    "bayesian_map",
    "bayesian_plus",
    "voting",
    "calibrated",
    "centred",
    "columns",
    "groups",
    "identity",
    "label_words",
    "last",
    "linear",
    "mean",
    "of_probabilities",
    "one_to_one",
    "one_to_one_map",
    "at_words",
    "pair_counts",
    "favourites",
    "favourites_map",
    "random_map",
    "ridge",
    "semantic",
    "heads",
    "soft_pair_counts",
    "nearest_texts",
    "normalised",
    "related_classes",
    "reweighted",
]
