"""Generation and scoring by a program of Tokens, on caches that are values.

A cache is {kv site: Tokens of (keys, values)}. The model knows of none: an edit outside
of all of the program's own hands a layer what stood there before. It sees keys and
values behind every manipulation, so each kind is right by itself: what is inserted
stands in the cache, and what is done to every token is done to new ones too.
"""

from reprojax.decoding.judging import score
from reprojax.decoding.reading import Cache, prefill, share
from reprojax.decoding.sampling import Sampling, choose, warp
from reprojax.decoding.writing import Completion, State, decode, each, generate, start

__all__ = [
    "Cache",
    "Completion",
    "Sampling",
    "State",
    "choose",
    "decode",
    "each",
    "generate",
    "prefill",
    "score",
    "share",
    "start",
    "warp",
]
