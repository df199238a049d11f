"""Where a prompt of words starts: at the vectors of the model's own words."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Format, Key, Params, PyTree, Scope
from reprojax.formats import learnable
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language.card import check_words, vectors

COMMON = 5000  # a vocabulary of merged pairs begins with its most frequent words


def from_vocabulary(model: Model[Words], ids: Sequence[int] | None = None) -> Format:
    """Starts at words drawn without repetition, while there are enough.

    Args:
        ids: the words to draw from; by default the first 5,000 of the vocabulary, which
            are its most frequent where it was built by frequency (arXiv 2104.08691).
    """
    return learnable(_drawn(model, ids))


def _common(model: Model[Words], ids: Sequence[int] | None) -> list[int]:
    ids = range(min(COMMON, model.input.vocabulary)) if ids is None else ids
    return check_words(model, ids, "the start")


def _drawn(model: Model[Words], ids: Sequence[int] | None) -> Any:
    table = vectors(model, _common(model, ids))

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


def drawn_words(model: Model[Words], ids: Sequence[int] | None = None) -> Format:
    """Ids [P] that stay as they were drawn, not repeated while there are enough.

    Args:
        ids: the words to draw from, as in `from_vocabulary`.
    """
    ids = _common(model, ids)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        again = shape[0] > len(ids)
        table = jnp.asarray(ids, jnp.int32)
        return Params(fixed=jax.random.choice(key, table, shape, replace=again))

    def read(params: Params, value: PyTree, scope: Scope) -> Array:
        return params.fixed

    return Format(init, read)


def deviation_of(model: Model[Words], given: float | None = None) -> float:
    """Of the numbers in the model's word vectors; given, where its weights are not
    here."""
    if given is not None:
        if not given > 0:
            raise ValueError(f"got a deviation of {given}, expected one above 0")
        return float(given)
    if not jax.tree.leaves(model.frozen):
        raise ValueError(
            f"{model.name} came without weights, expected deviation=, that of the "
            "numbers in its word vectors, from which the prompt's scale follows"
        )
    return float(vectors(model, range(model.input.vocabulary)).std())
