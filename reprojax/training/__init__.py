"""Training loops, and what they are made of (floor 3)."""

from reprojax.training.loop import Fitted, fit

__all__ = [
    "Fitted",
    "fit",
]
