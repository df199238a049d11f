"""The card of a language model: its input, its sites, and checks on it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Edit, Forward, PyTree, Tokens, passthrough, record, tokens
from reprojax.core.faults import value_text
from reprojax.core.slips import shown, whole_ids
from reprojax.locations import linen
from reprojax.models.card import Model, role
from reprojax.models.language.tokenizer import Tokenizer

Kind = Literal["causal", "masked", "bare"]


class Special(NamedTuple):
    """Ids of special tokens; None if the model lacks one."""

    bos: int | None = None
    """Precedes a text."""
    eos: tuple[int, ...] = ()
    """Each of them ends a text."""
    pad: int = 0
    """Its weight is 0, so any id serves if a model has none of its own."""
    mask: int | None = None


class Words(NamedTuple):
    """Tokens of ids [B L] of a vocabulary."""

    kind: Kind
    """causal: predicts the next token; masked: the token itself; bare: no logits"""
    vocabulary: int
    positions: int
    """The most tokens of a sequence, prompts included."""
    tokenizer: Tokenizer | None = None
    special: Special = Special()

    def example(self) -> Tokens:
        return jax.eval_shape(lambda: tokens(jnp.zeros((1, 2), jnp.int32)))

    def forward(self, network: nn.Module | Forward) -> Forward:
        return texts(network) if isinstance(network, nn.Module) else network


def texts(module: nn.Module) -> Forward:
    """A linen module from Tokens to Tokens as forward(frozen, x, edit).

    The edit of "input" may turn any other kind of x into Tokens of ids. Its sites are
    those of `locations.linen`, but a `Place` called "kv" in a block's attention becomes
    the one site "<block>/kv".
    """
    network = linen(module)

    def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        # a caller's arrays may be NumPy's
        x = jax.tree.map(lambda a: jnp.asarray(a) if hasattr(a, "dtype") else a, x)

        def renamed(site: str, value: PyTree) -> PyTree:
            if site == "input":
                return check_ids(edit(site, value))
            path, _, end = site.rpartition(":")
            if not path.endswith("/attention/kv"):
                return edit(site, value)
            block = path.removesuffix("/attention/kv")
            return edit(f"{block}/kv", value) if end == "out" else value

        return network(frozen, x, edit=renamed)

    return forward


def check_ids(x: Any) -> Tokens:
    """Raise unless it is Tokens of ids [B L]."""
    ids = x.value if isinstance(x, Tokens) else None
    if ids is None or jnp.ndim(ids) != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
        leaves = jax.tree.leaves(x)
        texts = [one for one in leaves if isinstance(one, str)]
        came = shown(texts[0]) if texts else value_text(x)
        raise ValueError(
            f"a language model got {came}, expected Tokens of ids [batch, length]; "
            "call core.tokens(ids, weight), or core.padded(rows); of texts, "
            "core.padded([tokenizer.encode(text) for text in ...])"
        )
    return x


def roles(depth: int) -> dict[str, tuple[str, ...]]:
    """{role: sites} of this package's modules."""
    return {
        "input": ("input",),
        "embedding": ("embed:out",),
        "blocks": tuple(f"block_{i}:in" for i in range(depth)),
        "kv": tuple(f"block_{i}/kv" for i in range(depth)),
        "features": ("head:in",),
    }


def embedded(language: Model[Words]) -> str:
    """The site of the word vectors where the first block gets them.

    In an encoder it follows the embedding's layer norm, so that an addition there is
    not normalised. A causal model adds at most positions after its embedding.
    """
    if language.input.kind == "causal":
        return role(language, "embedding")[0]
    return role(language, "blocks")[0]


def check_words(language: Model[Words], ids: Sequence[int], who: str) -> list[int]:
    """The ids; raise if there are none, or if some are not the model's."""
    found = whole_ids(who, ids)
    if not found or min(found) < 0 or max(found) >= language.input.vocabulary:
        came = f"the ids {min(found)}..{max(found)}" if found else "no ids"
        raise ValueError(
            f"{who} got {came}, expected some of 0..{language.input.vocabulary - 1}, "
            f"the vocabulary of {language.name}; encode the text with its own tokenizer"
        )
    return found


def check_length(language: Model[Words], length: int) -> None:
    """Raise unless a prompt of that length is not empty and leaves room for a text."""
    if not 0 < length < language.input.positions:
        raise ValueError(
            f"got a prompt of {length} tokens, expected 1 to "
            f"{language.input.positions - 1}, because {language.name} has "
            f"{language.input.positions} positions for it and the text together; take "
            "another length"
        )


def vectors(language: Model[Words], ids: Sequence[int]) -> Float[Array, "N D"]:
    """The vectors of words at the model's own embedding, in float32."""
    (site,) = role(language, "embedding")
    table = tokens(jnp.asarray(ids, jnp.int32)[:, None])
    return seen(language, [site])(table)[site].value[:, 0].astype(jnp.float32)


def seen(
    language: Model[Words], sites: Sequence[str]
) -> Callable[[Tokens], dict[str, Tokens]]:
    """x -> {site: value} of the model; XLA removes the rest of it."""
    look = jax.jit(lambda frozen, x: record(language.forward, sites)(frozen, x)[1])
    return lambda x: look(language.frozen, x)
