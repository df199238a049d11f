"""A tiny causal model of letters, with random weights and a tokeniser."""

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import tokens
from reprojax.models import Model
from reprojax.models.language import Special, Tokenizer, Words, texts
from reprojax.models.language.card import roles
from reprojax.models.language.layers import Heads
from reprojax.models.language.llama import Llama

LETTERS = "~ abcdefghijklmnop.\n"
TOKENIZER = Tokenizer(
    lambda text, special=True: [LETTERS.index(c) for c in text],
    lambda ids: "".join(LETTERS[i] for i in ids if i),
    lambda token: LETTERS.find(token) if token in LETTERS else None,
    lambda i: LETTERS[i],
    len(LETTERS),
)
V = len(LETTERS)
HEADS = Heads(4, 2, 4, bias=False, out_bias=False, frequencies=(1.0, 0.3))
MODULE = Llama(V, 64, 16, 1, 24, HEADS)


def drawn():
    x = tokens(jnp.zeros((1, 1), int))
    leaves, tree = jax.tree.flatten(jax.eval_shape(MODULE.init, jax.random.key(0), x))
    draw = np.random.default_rng(0)
    value = lambda s: 0.6 * draw.standard_normal(s.shape) + (len(s.shape) == 1)
    return tree.unflatten([jnp.asarray(value(s), jnp.float32) for s in leaves])


NONE = Special(pad=0)
READS = Words("causal", V, 64, TOKENIZER, NONE)
CARD = Model("tiny", texts(MODULE), drawn(), READS, roles(1))
