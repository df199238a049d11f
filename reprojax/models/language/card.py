"""The card of a frozen language model, and its forward."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from reprojax.core import Forward, PyTree, passthrough
from reprojax.locations import linen
from reprojax.models.language.tokenizer import Tokenizer
from reprojax.sequence import Tokens

Kind = Literal["causal", "masked", "bare"]


class Special(NamedTuple):
    """Ids that are no words; those that a model lacks are None."""

    bos: int | None = None
    """Before a text."""
    eos: tuple[int, ...] = ()
    """Any of them ends one."""
    pad: int = 0
    """Its weight is 0: where a model has none of its own, any id does."""
    mask: int | None = None


class LanguageModel(NamedTuple):
    """A frozen language model. `roles` names its sites, so that recipes spell none:

    embedding  the vectors of the words, before positions are added
    blocks     the value that enters each block
    kv         what each block attends to: Tokens of (keys, values) [B L h d]
    features   one site: what the head reads, [B L D]
    """

    name: str
    forward: Forward
    """forward(frozen, Tokens of ids, edit) -> Tokens of logits [B L V]"""
    frozen: PyTree
    kind: Kind
    """causal: the next word; masked: the word in its place; bare: vectors, no logits"""
    vocabulary: int
    positions: int
    """The most tokens, prompts among them."""
    width: int
    roles: Mapping[str, tuple[str, ...]]
    tokenizer: Tokenizer | None
    special: Special


def texts(module: nn.Module) -> Forward:
    """A linen module from Tokens to Tokens as forward(frozen, x, edit).

    Its sites are those of `locations.linen`; a `Place` called "kv" in a block's
    attention is the one site "<block>/kv".
    """
    network = linen(module)

    def forward(frozen: PyTree, x: Tokens, edit: Callable = passthrough) -> PyTree:
        check_ids(x)
        x = jax.tree.map(jnp.asarray, x)  # a caller's NumPy arrays are taken too

        def renamed(site: str, value: PyTree) -> PyTree:
            path, _, end = site.rpartition(":")
            if not path.endswith("/attention/kv"):
                return edit(site, value)
            block = path.removesuffix("/attention/kv")
            return edit(f"{block}/kv", value) if end == "out" else value

        return network(frozen, x, edit=renamed)

    return forward


def check_ids(x: Any) -> None:
    """Refuses what is no Tokens of ids [B L]."""
    ids = x.value if isinstance(x, Tokens) else None
    if ids is None or jnp.ndim(ids) != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        came = jax.tree.map(lambda a: f"{jnp.result_type(a)}{list(jnp.shape(a))}", x)
        raise ValueError(
            f"{came} came to a language model, expected Tokens of ids [batch, length]; "
            "call sequence.tokens(ids, weight), or sequence.padded(rows)"
        )


def roles(depth: int) -> dict[str, tuple[str, ...]]:
    """The sites of this package's modules by role."""
    return {
        "input": ("input",),
        "embedding": ("embed:out",),
        "blocks": tuple(f"block_{i}:in" for i in range(depth)),
        "kv": tuple(f"block_{i}/kv" for i in range(depth)),
        "features": ("head:in",),
    }
