"""Lambda, the configuration: where a prompt's numbers come from."""

from reprojax.formats.fixed import fixed, from_context
from reprojax.formats.learnable import border, learnable, subspace, through

__all__ = [
    "border",
    "fixed",
    "from_context",
    "learnable",
    "subspace",
    "through",
]
