"""Observed coordinates of a program: (lambda, ell, tau, omega)."""

from reprojax.taxonomy.programs import (
    FORMATS,
    LOCATIONS,
    OMEGAS,
    OPERATORS,
    Cell,
    Description,
    Row,
    cells,
    describe,
    grid,
)
from reprojax.taxonomy.texts import describe_texts

__all__ = [
    "Cell",
    "Description",
    "FORMATS",
    "LOCATIONS",
    "OMEGAS",
    "OPERATORS",
    "Row",
    "cells",
    "describe",
    "describe_texts",
    "grid",
]
