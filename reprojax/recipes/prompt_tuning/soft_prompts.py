"""Prompt tuning of a language model (Lester et al., arXiv 2104.08691)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Program,
    reprogram,
)
from reprojax.formats import learnable
from reprojax.models import Model, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_length, check_words, vectors
from reprojax.operators import insert
from reprojax.recipes.method import Method, Preset, needs

COMMON = 5000  # a vocabulary of merged pairs begins with its most frequent words


def from_vocabulary(model: Model[Words], ids: Sequence[int] | None = None) -> Format:
    """Starts at words drawn without repetition, while there are enough.

    Args:
        ids: the words to draw from; by default the first 5,000 of the vocabulary, which
            are its most frequent where it was built by frequency (arXiv 2104.08691).
    """
    return learnable(_drawn(model, ids))


def _drawn(model: Model[Words], ids: Sequence[int] | None) -> Any:
    ids = range(min(COMMON, model.input.vocabulary)) if ids is None else ids
    table = vectors(model, check_words(model, ids, "the start"))

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        _check_width(table, shape)
        again = shape[0] > len(table)
        rows = jax.random.choice(key, len(table), shape[:1], replace=again)
        return table[rows].astype(dtype)

    return initial


def from_labels(
    model: Model[Words],
    labels: Sequence[Sequence[int]],
    ids: Sequence[int] | None = None,
) -> Format:
    """Starts at one token a label, the mean of its words; the rest as by
    `from_vocabulary(model, ids)` (arXiv 2104.08691).

    Args:
        labels: the ids of each label, such as `text.labels.label_tokens` gives.
    """
    groups = [check_words(model, label, "a label") for label in labels]
    means = jnp.stack([vectors(model, group).mean(0) for group in groups])
    others = _drawn(model, ids)

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        _check_room(len(means), shape[0], "labels")
        more = others(key, (shape[0] - len(means), *shape[1:]), dtype)
        return jnp.concatenate([means.astype(dtype), more])

    return learnable(initial)


def from_text(model: Model[Words], ids: Sequence[int]) -> Format:
    """Starts at the words of a text, again from its beginning until all are filled."""
    words = vectors(model, check_words(model, ids, "a text"))

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


@needs(Words, "embedding")
def prompt_tuning(
    model: Model[Words],
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
        initial: where it starts, `from_vocabulary(model)` if not given;
            `from_labels`, `from_text`, or any format, such as `learnable(rows)`.
    """
    check_length(model, length)
    (site,) = role(model, "embedding")
    start = from_vocabulary(model) if initial is None else initial
    at = {site: insert(start, length)}
    return reprogram(model.forward, at, align)


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


METHOD = Method(
    "prompt-tuning",
    prompt_tuning,
    preset=Preset(adafactor, 0.3, epochs=100, batch=32),
    enters="in front of the words' vectors",
    source="arXiv 2104.08691, section 3. What differs: epochs, for 30,000 steps "
    "whatever the task.",
)
