"""Generation and scoring by a program of Tokens, on caches that are values.

A cache is {kv site: Tokens of (keys, values)}. The model has no cache of its own: an
outermost edit at the kv sites gives each layer the earlier keys and values. It sees
them after every manipulation, so every kind of manipulation decodes correctly: inserted
keys are in the cache, and edits of every token are applied to new tokens, too.
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
