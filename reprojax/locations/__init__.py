"""Ell, the location: frozen models as forwards whose places have names."""

from reprojax.locations.function import opaque
from reprojax.locations.linen import linen
from reprojax.locations.nnx import nnx
from reprojax.locations.torchax import torchax

__all__ = ["linen", "nnx", "opaque", "torchax"]
