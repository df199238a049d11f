"""Ell, the location: adapters that make a frozen model a forward with named sites."""

from reprojax.locations.equinox import equinox
from reprojax.locations.function import opaque
from reprojax.locations.haiku import haiku
from reprojax.locations.keras import keras
from reprojax.locations.linen import linen
from reprojax.locations.nnx import nnx
from reprojax.locations.torchax import torchax

__all__ = ["equinox", "haiku", "keras", "linen", "nnx", "opaque", "torchax"]
