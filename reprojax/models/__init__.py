"""Frozen backbones (floor 2): modules, weights, and a card for each."""

from reprojax.models.backbone import Backbone, card, fingerprint, images, random
from reprojax.models.catalogue import load, names

__all__ = ["Backbone", "card", "fingerprint", "images", "load", "names", "random"]
