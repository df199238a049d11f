"""Training loops and their parts (floor 3)."""

from reprojax.training.loop import Fitted, fit

__all__ = [
    "Fitted",
    "fit",
]
