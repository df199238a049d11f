"""A vision transformer and a language model with random weights, and programs on them.

The weights are drawn on the device, in the type that is asked for. Sizes are those of
ViT-B/16 and SmolLM2-135M, or tiny ones with the same parts.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.nn.initializers import normal

from experiments.benchmarks.language_torch import SMOLLM2
from experiments.benchmarks.steppers import floor, floor_of_words
from reprojax import Program
from reprojax.alignments import bayesian, label_words
from reprojax.core import tokens
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.models.language import Words, texts
from reprojax.models.language import card as language_card
from reprojax.models.language.llama import plan
from reprojax.models.language.maps import one_word
from reprojax.models.vision import vit
from reprojax.models.weights import HALF
from reprojax.recipes.model_reprogramming import padding
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning, vpt_deep

TARGETS, WORDS, PROMPT, PREFIX = 10, (5, 6), 20, 10


class Sizes(NamedTuple):
    """Of the models, and of what they are given."""

    matrix: int
    """Rows and columns of the product that says what the device can do."""
    vit: vit.ViT
    pixels: int
    inner: int
    """Side of the image within padding's border."""
    images: int
    llama: Mapping[str, Any]
    """As transformers' config has it."""
    texts: int
    length: int
    """Words of a text."""
    each: tuple[int, int]
    """Images and texts of each program of a population."""
    programs: tuple[int, ...]
    """How many of them."""


FULL = Sizes(
    8192,
    vit.ViT(16, 768, 12, 12, 3072, 1000),
    224,
    128,
    128,
    {**SMOLLM2, "num_hidden_layers": 30},
    64,
    128,
    (8, 4),
    (1, 4, 16),
)
_SMALL = dict(
    vocab_size=101,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    num_hidden_layers=1,
)
TINY = Sizes(
    *(128, vit.ViT(8, 32, 1, 2, 64, 20), 32, 16, 4),
    *({**SMOLLM2, **_SMALL}, 4, 8, (2, 2), (1, 3)),
)


class Workload(NamedTuple):
    """A frozen model on one batch, its floor, and the programs that are trained."""

    frozen: Any
    x: Any
    y: jax.Array
    floor: Callable
    """Jitted: forward and gradient at the input, no gradient of a weight."""
    given: tuple
    """Its arguments."""
    programs: Mapping[str, Program]
    units: int
    """Images, or words, of a row."""
    each: int
    """Rows of each program of a population, which are all of the first kind."""

    def first_rows(self) -> tuple[Any, jax.Array]:
        """Those of a population."""
        return jax.tree.map(lambda a: a[: self.each], (self.x, self.y))


def of_images(sizes: Sizes, dtype: str) -> Workload:
    """Padding with BLM, and VPT-deep."""
    card, size = backbone(sizes, dtype), sizes.pixels
    x = np.random.default_rng(0).integers(0, 256, (sizes.images, 32, 32, 3), np.uint8)
    pixels = jax.random.uniform(jax.random.key(1), (sizes.images, size, size, 3))
    programs = {
        "padding": padding(card, bayesian(TARGETS), inner=sizes.inner),
        "VPT-deep": vpt_deep(card, targets=TARGETS),
    }
    y = jnp.arange(sizes.images, dtype=jnp.int32) % TARGETS
    given = pixels, card.frozen
    about = floor(card), given, programs, 1, sizes.each[0]
    return Workload(card.frozen, jnp.asarray(x), y, *about)


def of_words(sizes: Sizes, dtype: str) -> Workload:
    """Prompt tuning and prefix tuning without an MLP; the head judges the last word."""
    card, words = one_word(language(sizes, dtype)), label_words(WORDS)
    shape = sizes.texts, sizes.length
    ids = np.random.default_rng(0).integers(0, card.input.vocabulary, shape, np.int32)
    x, start = tokens(jnp.asarray(ids)), learnable(normal(0.02))
    programs = {
        "prompt tuning": prompt_tuning(card, words, length=PROMPT, initial=start),
        "prefix tuning": prefix_tuning(card, words, length=PREFIX, hidden=None),
    }
    y = jnp.arange(sizes.texts, dtype=jnp.int32) % len(WORDS)
    given = jnp.zeros((*shape, card.width), dtype), card.frozen, x
    about = floor_of_words(card), given, programs, sizes.length, sizes.each[1]
    return Workload(card.frozen, x, y, *about)


KINDS: dict[str, tuple[str, Callable[[Sizes, str], Workload]]] = {
    "ViT-B/16": ("images", of_images),
    "SmolLM2-135M": ("words", of_words),
}
"""{model: (what is counted, how it is made)}"""


def backbone(sizes: Sizes, dtype: str) -> Model[Pixels]:
    """The vision transformer."""
    module, size = sizes.vit, sizes.pixels
    frozen = drawn(module, jnp.zeros((1, size, size, 3)), dtype)
    reads, classes = Pixels(size, HALF, HALF), map(str, range(module.classes))
    roles = vit.roles(module.depth)
    return Model("vit", reads.forward(module), frozen, reads, roles, tuple(classes))


def language(sizes: Sizes, dtype: str) -> Model[Words]:
    """The language model."""
    depth = sizes.llama["num_hidden_layers"]
    # Of the tensors it reads the names alone: one a layer, none of a bias.
    module = plan(sizes.llama, {str(i): np.empty(0) for i in range(depth)})
    frozen = drawn(module, tokens(jnp.zeros((1, 1), jnp.int32)), dtype)
    reads = Words("causal", module.vocabulary, module.positions)
    return Model("llama", texts(module), frozen, reads, language_card.roles(depth))


def drawn(module: nn.Module, x: Any, dtype: str) -> Any:
    """Random weights, with which values keep their size: scales are 1, biases 0."""
    spec: Any = jax.eval_shape(module.init, jax.random.key(0), x)
    flat = flatten_dict(spec)
    keys = jax.random.split(jax.random.key(0), len(flat))
    made = {}
    for (path, leaf), key in zip(flat.items(), keys, strict=True):
        shape, std = leaf.shape, 0.02
        if path[-1] == "kernel":
            std = prod(shape[:-1] if len(shape) == 4 else shape[:1]) ** -0.5
        elif path[-1] in ("scale", "bias"):
            std = 0.0
        made[path] = _normal(key, std, shape, dtype) + (path[-1] == "scale")
    return unflatten_dict(made)


@partial(jax.jit, static_argnums=(2, 3))  # one compilation for all of a shape
def _normal(key: jax.Array, std: float, shape: tuple[int, ...], dtype: str) -> Any:
    return (std * jax.random.normal(key, shape, dtype)).astype(dtype)
