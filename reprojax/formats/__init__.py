"""Lambda, the configuration: where a prompt's numbers come from."""

from reprojax.formats.fixed import fixed, from_context
from reprojax.formats.learnable import border, learnable, subspace, through
from reprojax.formats.made import low_rank, low_rank_channels, reparametrised

__all__ = [
    "border",
    "fixed",
    "from_context",
    "learnable",
    "low_rank",
    "low_rank_channels",
    "reparametrised",
    "subspace",
    "through",
]
