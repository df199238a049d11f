"""Omega, the alignment: maps the model's output to the task's."""

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
from reprojax.alignments.statistical import (
    bayesian,
    bayesian_map,
    bayesian_plus,
    calibrated,
    centred,
    mean_probability,
    one_to_one,
    one_to_one_map,
    pair_counts,
    random_map,
    soft_pair_counts,
)

__all__ = [
    "at_mask",
    "mean_probability",
    "bayesian",
    "bayesian_map",
    "bayesian_plus",
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
    "random_map",
    "heads",
    "soft_pair_counts",
    "normalised",
]
