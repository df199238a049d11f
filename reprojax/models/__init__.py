"""Frozen backbones (floor 2): modules, weights, and a card for each."""

from reprojax.models.backbone import Backbone, fingerprint, images, random
from reprojax.models.catalogue import load, names

__all__ = ["Backbone", "fingerprint", "images", "load", "names", "random"]
