"""Prompt tuning of a language model (Lester et al., arXiv 2104.08691)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from reprojax.alignments import columns, last
from reprojax.core import Format, Key, Manipulation, Program, chain, reprogram
from reprojax.formats import learnable
from reprojax.models.language import LanguageModel
from reprojax.operators import insert
from reprojax.recipes.method import Preset
from reprojax.sequence import tokens
from reprojax.taps import record

COMMON = 5000  # a vocabulary of merged pairs begins with its most frequent words


def role(language: LanguageModel, name: str) -> tuple[str, ...]:
    """The sites of a role of the card."""
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
    found = [int(i) for i in ids]
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


def from_vocabulary(
    language: LanguageModel, ids: Sequence[int] | None = None
) -> Format:
    """Starts at words drawn without repetition, while there are enough.

    Args:
        ids: the words to draw from; by default the first 5,000 of the vocabulary, which
            are its most frequent where it was built by frequency (arXiv 2104.08691).
    """
    return learnable(_drawn(language, ids))


def _drawn(language: LanguageModel, ids: Sequence[int] | None) -> Any:
    ids = range(min(COMMON, language.vocabulary)) if ids is None else ids
    table = vectors(language, check_words(language, ids, "the start"))

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        _check_width(table, shape)
        again = shape[0] > len(table)
        rows = jax.random.choice(key, len(table), shape[:1], replace=again)
        return table[rows].astype(dtype)

    return initial


def from_labels(
    language: LanguageModel,
    labels: Sequence[Sequence[int]],
    ids: Sequence[int] | None = None,
) -> Format:
    """Starts at one token a label, the mean of its words; the rest as by
    `from_vocabulary(language, ids)` (arXiv 2104.08691).

    Args:
        labels: the ids of each label, such as `text.labels.label_tokens` gives.
    """
    groups = [check_words(language, label, "a label") for label in labels]
    means = jnp.stack([vectors(language, group).mean(0) for group in groups])
    others = _drawn(language, ids)

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        _check_room(len(means), shape[0], "labels")
        more = others(key, (shape[0] - len(means), *shape[1:]), dtype)
        return jnp.concatenate([means.astype(dtype), more])

    return learnable(initial)


def from_text(language: LanguageModel, ids: Sequence[int]) -> Format:
    """Starts at the words of a text, again from its beginning until all are filled."""
    words = vectors(language, check_words(language, ids, "a text"))

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        _check_width(words, shape)
        _check_room(len(words), shape[0], "words of a text")
        return words[jnp.arange(shape[0]) % len(words)].astype(dtype)

    return learnable(initial)


def _check_width(rows: Array, shape: tuple[int, ...]) -> None:
    if rows.shape[1:] != shape[1:]:
        raise ValueError(
            f"a start {rows.shape[1]} wide came to a model {shape[1]} wide, expected "
            "one of this model; make it with this model's card"
        )


def _check_room(count: int, length: int, what: str) -> None:
    if count > length:
        raise ValueError(
            f"{count} {what} came as the start of a prompt of {length} tokens, "
            "expected no more than these; shorten it, or make the prompt longer"
        )


def label_words(ids: Sequence[int]) -> Manipulation:
    """The next word's logits at one word for each class [B T].

    With the card `model_reprogramming.one_word(language)` in the model's place the head
    judges that word alone, which saves much where the vocabulary is large.

    Args:
        ids: such as `text.labels.one_token_each` gives, which refuses labels that a
            single token does not tell apart.
    """
    found = [int(i) for i in ids]
    if len(set(found)) < len(found):
        raise ValueError(
            f"the label words {found} came, expected another one for each class, as "
            "two that are one token are told apart by nothing; give other words"
        )
    return chain(last=last(), words=columns(found))


def prompt_tuning(
    language: LanguageModel,
    align: Manipulation | None = None,
    *,
    length: int = 20,
    initial: Format | None = None,
) -> Program:
    """Learned tokens in front of a text's embeddings (arXiv 2104.08691).

    They take the first positions, and the text moves on; padding may be on either side.

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits, to be
            written from by the engine.
        length: P, tokens of the prompt. The paper takes 100 and finds little gain
            above 20.
        initial: where it starts, `from_vocabulary(language)` if not given;
            `from_labels`, `from_text`, or any format, such as `learnable(rows)`.
    """
    check_length(language, length)
    (site,) = role(language, "embedding")
    start = from_vocabulary(language) if initial is None else initial
    at = {site: insert(start, length)}
    return reprogram(
        language.forward, at | ({} if align is None else {"output": align})
    )


def adafactor(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adafactor of a constant rate that is not scaled by the size of the params, with
    the decays of prompt tuning (arXiv 2104.08691)."""
    return optax.adafactor(
        learning_rate,
        decay_rate=0.8,
        multiply_by_parameter_scale=False,
        weight_decay_rate=1e-5,
    )


# The paper's (section 3). What differs: epochs, for 30,000 steps whatever the task.
PRESET = Preset(adafactor, 0.3, epochs=100, batch=32)
