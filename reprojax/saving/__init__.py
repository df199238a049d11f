"""Files that outlive a run: programs, checkpoints, logs, identities (floor 1)."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reprojax.saving.checkpoints import Checkpoints
    from reprojax.saving.programs import Card, Saved, load, save

HOMES = {"Checkpoints": "checkpoints"} | dict.fromkeys(
    ("Card", "Saved", "load", "save"), "programs"
)


def __getattr__(name: str) -> Any:
    # Imported on first use, because `data` reads files without jax.
    if name in HOMES:
        return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Card", "Checkpoints", "Saved", "load", "save"]
