"""Tiny pairs of towers with random weights, and a tokeniser of words."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import tokens
from reprojax.models import Model, Pixels, images
from reprojax.models.image_text import Pair, towers
from reprojax.models.image_text.towers import ImageTower, TextTower
from reprojax.models.language import Words, texts
from reprojax.models.language.card import Special
from reprojax.models.language.layers import Heads
from reprojax.models.language.tokenizer import Tokenizer

WORDS = "a photo of the cat dog bird red blue small large . good with on".split()
BEGIN, END, SIZE, POSITIONS = len(WORDS) + 1, len(WORDS) + 2, 16, 12
VOCABULARY, JOINT, WIDTH, WIDE = len(WORDS) + 3, 6, 8, 12
MEAN = STD = (0.5, 0.5, 0.5)


def _encode(text, special=True):
    known = text.replace(".", " .").split()
    ids = [WORDS.index(word) if word in WORDS else len(WORDS) for word in known]
    return [BEGIN, *ids, END] if special else ids


TOKENIZER = Tokenizer(
    _encode,
    lambda ids: " ".join(WORDS[i] for i in ids if i < len(WORDS)),
    lambda word: WORDS.index(word) if word in WORDS else None,
    lambda i: WORDS[i] if i < len(WORDS) else None,
    VOCABULARY,
)


def drawn(module, x, seed):
    """Random weights of a module for inputs like x."""
    spec = jax.eval_shape(module.init, jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(spec)
    draw = np.random.default_rng(seed)
    value = lambda s: 0.4 * draw.standard_normal(s.shape) + (len(s.shape) == 1)
    return tree.unflatten([jnp.asarray(value(s), jnp.float32) for s in leaves])


@cache
def pair(kind="clip", joint=JOINT, depth=2) -> Pair:
    """CLIP's kind of towers, or SigLIP's."""
    clip = kind == "clip"
    width, joint = (WIDE, joint) if clip else (WIDTH, WIDTH)
    activation = "quick_gelu" if clip else "gelu_pytorch_tanh"
    image = ImageTower(
        8, SIZE, width, depth, 2, 16, joint if clip else None, activation
    )
    heads = Heads(2, 2, WIDTH // 2, causal=clip)
    text = TextTower(
        VOCABULARY, POSITIONS, WIDTH, depth, 16, heads, joint, not clip, activation
    )
    pixels = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    ids = jax.eval_shape(lambda: tokens(jnp.zeros((1, 2), jnp.int32)))
    own = Words("bare", VOCABULARY, POSITIONS, TOKENIZER, Special(BEGIN, (END,), 0))
    return Pair(
        f"small {kind}",
        Model(
            f"small {kind}",
            images(image, SIZE, MEAN, STD),
            drawn(image, pixels, 1),
            Pixels(SIZE, MEAN, STD),
            towers.roles(image),
        ),
        Model(
            f"small {kind}", texts(text), drawn(text, ids, 2), own, towers.roles(text)
        ),
        jnp.log(jnp.float32(10.0)),
        jnp.float32(0.0 if clip else -2.0),
        padding="" if clip else "right",
    )


def pictures(count=4, seed=0):
    """Images [count SIZE SIZE 3], uint8."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
