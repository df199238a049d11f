"""Omega, the alignment: how the model's answer becomes the task's."""

from reprojax.alignments.calibration import calibrated
from reprojax.alignments.centring import centred
from reprojax.alignments.linear import linear
from reprojax.alignments.masked import at_mask
from reprojax.alignments.pooling import mean, unit
from reprojax.alignments.rule import (
    columns,
    groups,
    identity,
    label_words,
    last,
    of_probabilities,
    own,
)
from reprojax.alignments.several import several
from reprojax.alignments.statistical import (
    bayesian,
    bayesian_map,
    bayesian_plus,
    one_to_one,
    one_to_one_map,
    pair_counts,
    random_map,
    soft_pair_counts,
)

__all__ = [
    "at_mask",
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
    "own",
    "pair_counts",
    "random_map",
    "several",
    "soft_pair_counts",
    "unit",
]
