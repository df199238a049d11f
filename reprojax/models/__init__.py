"""Frozen backbones (floor 2): modules, weights, and a card for each."""

from reprojax.models.card import Backbone, card, images, random
from reprojax.models.vision.catalogue import load, names

__all__ = [
    "Backbone",
    "card",
    "images",
    "load",
    "names",
    "random",
]
