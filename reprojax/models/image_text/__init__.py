"""Pairs of an image tower and a text tower: CLIP, SigLIP, and one of our own."""

from reprojax.models.image_text.card import Pair, classifier, image_features, random
from reprojax.models.image_text.catalogue import is_pair, load, names
from reprojax.models.image_text.descriptions import of_descriptions
from reprojax.models.image_text.templates import read_sentences
from reprojax.models.image_text.weighting import template_weights

__all__ = [
    "Pair",
    "classifier",
    "of_descriptions",
    "image_features",
    "is_pair",
    "load",
    "names",
    "random",
    "read_sentences",
    "template_weights",
]
