"""Frozen models (floor 2): networks, weights, and a card for each."""

from reprojax.models.card import Arrays, Input, Model, Series, card, outputs, role
from reprojax.models.vision.catalogue import load, names
from reprojax.models.vision.pixels import Pixels, images, random

__all__ = [
    "Arrays",
    "Input",
    "Model",
    "Pixels",
    "Series",
    "card",
    "images",
    "load",
    "names",
    "outputs",
    "random",
    "role",
]
