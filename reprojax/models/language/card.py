"""The card of a frozen language model, and its forward."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import (
    Edit,
    Forward,
    PyTree,
    Tokens,
    passthrough,
    record,
    tokens,
)
from reprojax.core.faults import value_text
from reprojax.core.slips import refuse_card, shown, whole_ids
from reprojax.locations import linen
from reprojax.models.language.tokenizer import Tokenizer

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

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            do = "take a recipe of language models, such as prompt_tuning"
            refuse_card(self, name, ("size", "mean", "std", "classes"), do)


def texts(module: nn.Module) -> Forward:
    """A linen module from Tokens to Tokens as forward(frozen, x, edit).

    Its sites are those of `locations.linen`; a `Place` called "kv" in a block's
    attention is the one site "<block>/kv".
    """
    network = linen(module)

    def forward(frozen: PyTree, x: Tokens, edit: Edit = passthrough) -> PyTree:
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
        leaves = jax.tree.leaves(x)
        texts = [one for one in leaves if isinstance(one, str)]
        came = shown(texts[0]) if texts else value_text(x)
        raise ValueError(
            f"{came} came to a language model, expected Tokens of ids [batch, length]; "
            "call core.tokens(ids, weight), or core.padded(rows); of texts, "
            "core.padded([tokenizer.encode(text) for text in ...])"
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


def check_language(came: Any) -> None:
    """Raise at what is no card of a language model, such as one of images."""
    if not isinstance(came, LanguageModel):
        raise ValueError(
            f"a recipe of language models got {shown(came)}, expected a LanguageModel; "
            "models.language.load gives one; for images take a recipe such as padding, "
            "watermark or vpt_deep"
        )


def role(language: LanguageModel, name: str) -> tuple[str, ...]:
    """The sites of a role of the card."""
    check_language(language)
    if not language.roles.get(name):
        raise ValueError(
            f"{language.name} has the roles {sorted(language.roles)}, expected "
            f"{name!r} among them; name its sites in the card's roles"
        )
    return language.roles[name]


def embedded(language: LanguageModel) -> str:
    """The site of the words' vectors as the first block gets them.

    An encoder's embedding ends with a layer norm, and what is added there stands behind
    it; a causal model adds at most positions to its embedding's vectors.
    """
    if language.kind == "causal":
        return role(language, "embedding")[0]
    return role(language, "blocks")[0]


def outputs(language: LanguageModel) -> tuple[str, ...]:
    """The sites of what each block puts out. Behind the last one there is no block that
    it enters, so they are not the inputs moved by one."""
    blocks = role(language, "blocks")
    if not all(site.endswith(":in") for site in blocks):
        raise ValueError(
            f"got the blocks {list(blocks)} of {language.name}, expected sites such as "
            "'block_0:in', beside which 'block_0:out' is; name them so in the card's "
            "roles"
        )
    return tuple(site.removesuffix(":in") + ":out" for site in blocks)


def check_words(language: LanguageModel, ids: Sequence[int], who: str) -> list[int]:
    """The ids, if there are any and all are the model's."""
    found = whole_ids(who, ids)
    if not found or min(found) < 0 or max(found) >= language.vocabulary:
        came = f"the ids {min(found)}..{max(found)}" if found else "no ids"
        raise ValueError(
            f"{who} got {came}, expected some of 0..{language.vocabulary - 1}, the "
            f"vocabulary of {language.name}; encode the text with its own tokenizer"
        )
    return found


def check_length(language: LanguageModel, length: int) -> None:
    """Raise unless there is a prompt, and room for a text beside it."""
    if not 0 < length < language.positions:
        raise ValueError(
            f"a prompt of {length} tokens came, expected 1 to "
            f"{language.positions - 1}, as {language.name} has {language.positions} "
            "positions for it and the text together; take another length"
        )


def vectors(language: LanguageModel, ids: Sequence[int]) -> Float[Array, "N D"]:
    """What the model's own embedding makes of words, in float32."""
    (site,) = role(language, "embedding")

    @jax.jit  # the rest of the model is dropped
    def look(frozen: Any, ids: Array) -> Array:
        return record(language.forward, [site])(frozen, tokens(ids))[1][site].value

    table = jnp.asarray(ids, jnp.int32)[:, None]
    return look(language.frozen, table)[:, 0].astype(jnp.float32)
