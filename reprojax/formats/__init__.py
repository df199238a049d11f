"""Lambda, the configuration: where a prompt's numbers come from."""

from reprojax.formats.clusters import nearest_prototype, with_prototypes
from reprojax.formats.fixed import fixed, from_context
from reprojax.formats.learnable import border, learnable, of_each, subspace, through
from reprojax.formats.made import (
    low_rank,
    low_rank_channels,
    projected,
    pruned,
    reparametrised,
)
from reprojax.formats.pools import begin_task, components, pool

__all__ = [
    "begin_task",
    "border",
    "components",
    "fixed",
    "from_context",
    "learnable",
    "low_rank",
    "low_rank_channels",
    "of_each",
    "pool",
    "nearest_prototype",
    "projected",
    "pruned",
    "reparametrised",
    "subspace",
    "through",
    "with_prototypes",
]
