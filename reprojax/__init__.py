"""reprojax: y = O_omega . f . I_{lambda, tau, ell}(x, c), with f frozen.

The vocabulary is here; the parts of the formula are in `formats` (lambda), `locations`
(ell), `operators` (tau) and `alignments` (omega), and the published methods in `recipes`.
"""

from reprojax.core import (
    Format,
    Forward,
    Manipulation,
    Params,
    Program,
    Scope,
    chain,
    passthrough,
    reprogram,
    shared,
    stateless,
)
from reprojax.sequence import Tokens
from reprojax.taps import given, informed, record, sites, until

__version__ = "0.1.0"

__all__ = [
    "Format",
    "Forward",
    "Manipulation",
    "Params",
    "Program",
    "Scope",
    "Tokens",
    "chain",
    "given",
    "informed",
    "passthrough",
    "record",
    "reprogram",
    "shared",
    "sites",
    "stateless",
    "until",
]
