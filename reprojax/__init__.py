"""reprojax: y = O_omega . f . I_{lambda, tau, ell}(x, c), with f frozen.

The vocabulary is here. The parts of the formula are in `formats` (lambda), `locations`
(ell), `operators` (tau) and `alignments` (omega); the published methods in `recipes`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from reprojax.core import (
    Format,
    Forward,
    Manipulation,
    Params,
    Program,
    Scope,
    Tokens,
    chain,
    given,
    informed,
    passthrough,
    record,
    reprogram,
    shared,
    sites,
    stateless,
    until,
)

if TYPE_CHECKING:
    from reprojax.saving.programs import load, save
    from reprojax.taxonomy import describe

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use: these need flax, and most programs do without them.
    if name in ("save", "load"):
        return getattr(importlib.import_module("reprojax.saving.programs"), name)
    if name == "describe":
        return importlib.import_module("reprojax.taxonomy.programs").describe
    raise AttributeError(f"module 'reprojax' has no attribute {name!r}")


__all__ = [
    "Format",
    "Forward",
    "Manipulation",
    "Params",
    "Program",
    "Scope",
    "Tokens",
    "chain",
    "describe",
    "given",
    "informed",
    "load",
    "passthrough",
    "record",
    "reprogram",
    "save",
    "shared",
    "sites",
    "stateless",
    "until",
]
