"""Generation and scoring by a program of Tokens, on caches that are values.

A cache is {kv site: Tokens of (keys, values)}. The model knows of none: an edit outside
of all of the program's own hands a layer what stood there before. It sees keys and
values behind every manipulation, so each kind is right by itself: what is inserted
stands in the cache, and what is done to every token is done to new ones too.
"""

from reprojax.decoding.judging import log_probabilities
from reprojax.decoding.reading import Cache, prefill, share
from reprojax.decoding.sampling import Sampling, sample, warp
from reprojax.decoding.writing import (
    DecodingState,
    Written,
    begin_writing,
    decode_words,
    each,
    generate,
)

__all__ = [
    "Cache",
    "DecodingState",
    "Sampling",
    "Written",
    "begin_writing",
    "decode_words",
    "each",
    "generate",
    "log_probabilities",
    "prefill",
    "sample",
    "share",
    "warp",
]
