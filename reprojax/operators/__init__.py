"""Tau, the operator: how a prompt is combined with the value at a site."""

from reprojax.operators.additive import add, frame, to_answers
from reprojax.operators.concatenative import (
    in_depth,
    insert,
    pad,
    prefix,
    replace,
    shift,
)
from reprojax.operators.images import augmented, crop, flip, parts, resize
from reprojax.operators.low_rank import low_rank_edit
from reprojax.operators.parametric import (
    dropout,
    dropped,
    masked_add,
    mlp,
    network,
    scale_and_shift,
)
from reprojax.operators.patches import add_patch, circle
from reprojax.operators.scaling import scaled_in_frame

__all__ = [
    "add",
    "add_patch",
    "augmented",
    "circle",
    "crop",
    "dropout",
    "dropped",
    "flip",
    "frame",
    "in_depth",
    "insert",
    "low_rank_edit",
    "masked_add",
    "mlp",
    "network",
    "pad",
    "parts",
    "prefix",
    "replace",
    "resize",
    "scale_and_shift",
    "scaled_in_frame",
    "shift",
    "to_answers",
]
