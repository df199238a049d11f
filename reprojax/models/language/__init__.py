"""Frozen language models (floor 2): modules, weights, tokenisers, and their cards."""

from reprojax.models.language.card import Special, Words, texts
from reprojax.models.language.catalogue import load, names
from reprojax.models.language.tokenizer import Tokenizer

__all__ = [
    "Special",
    "Tokenizer",
    "Words",
    "load",
    "names",
    "texts",
]
