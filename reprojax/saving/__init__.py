"""What outlives a run: program files, checkpoints, logs, identities (floor 1)."""

from reprojax.saving.checkpoints import Checkpoints
from reprojax.saving.programs import Card, Saved, load, save

__all__ = [
    "Card",
    "Checkpoints",
    "Saved",
    "load",
    "save",
]
