"""Ell, the location: frozen models as forwards whose places have names."""

from reprojax.locations.function import black_box
from reprojax.locations.linen import linen
from reprojax.locations.nnx import nnx
from reprojax.locations.torchax import torchax

__all__ = ["black_box", "linen", "nnx", "torchax"]
