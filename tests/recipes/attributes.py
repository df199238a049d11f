"""Descriptions of three classes, of two kinds, for the tests' small pair."""

from functools import cache

import numpy as np
from small_pairs import pair

from reprojax.models.image_text import of_descriptions

NAMES = ["cat", "dog", "bird"]
LOOKS = {
    "cat": ["a red cat", "the small cat on blue", "cat with blue", "a photo of red"],
    "dog": ["a large dog", "the red dog", "dog on the small bird", "good dog"],
    "bird": ["blue bird", "a small bird", "the bird with red", "large blue"],
}
APART = {
    "cat": ["a cat good", "cat", "small red", "the blue cat"],
    "dog": ["the large", "large red dog", "a dog", "dog with cat"],
    "bird": ["red bird on blue", "bird", "the small blue bird", "a bird good"],
}
X = np.random.default_rng(3).integers(0, 256, (12, 12, 12, 3), dtype=np.uint8)
Y = np.arange(12) % 3


@cache
def model():
    return of_descriptions(pair(), NAMES, LOOKS, APART)


@cache
def looks():
    """The first kind alone."""
    return of_descriptions(pair(), NAMES, LOOKS)
