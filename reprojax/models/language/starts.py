"""Initial values of soft prompts: vectors of the model's own words."""

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

COMMON = 5000  # byte-pair vocabularies begin with their most frequent words


def from_vocabulary(model: Model[Words], ids: Sequence[int] | None = None) -> Format:
    """Start at the vectors of random words, distinct if there are enough.

    Args:
        ids: the words to draw from; by default the first 5,000 of the vocabulary, its
            most frequent if it was built by frequency (arXiv 2104.08691).
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
    """Start with one vector for each label, the mean of its words, and fill up as
    `from_vocabulary(model, ids)` does (arXiv 2104.08691).

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
    """Start at the words of a text, repeated to fill the prompt."""
    words = vectors(model, check_words(model, ids, "a text"))

    def initial(key: Key, shape: tuple[int, ...], dtype: Any) -> Float[Array, "P D"]:
        _check_width(words, shape)
        _check_room(len(words), shape[0], "words of a text")
        return words[jnp.arange(shape[0]) % len(words)].astype(dtype)

    return learnable(initial)


def _check_width(rows: Array, shape: tuple[int, ...]) -> None:
    if rows.shape[1:] != shape[1:]:
        raise ValueError(
            f"got a start {rows.shape[1]} wide for a model {shape[1]} wide, expected "
            "one of this model; make it with this model's card"
        )


def _check_room(count: int, length: int, what: str) -> None:
    if count > length:
        raise ValueError(
            f"got {count} {what} as the start of a prompt of {length} tokens, "
            "expected at most that many; shorten it, or make the prompt longer"
        )


def drawn_words(model: Model[Words], ids: Sequence[int] | None = None) -> Format:
    """Fixed ids [P] of random words, distinct if there are enough.

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
    """Standard deviation of the entries of the model's word vectors, or the given one,
    for a model without weights here."""
    if given is not None:
        if not given > 0:
            raise ValueError(f"got a deviation of {given}, expected one above 0")
        return float(given)
    if not jax.tree.leaves(model.frozen):
        raise ValueError(
            f"got {model.name} without weights, expected deviation=, that of the "
            "numbers in its word vectors, which sets the prompt's scale"
        )
    return float(vectors(model, range(model.input.vocabulary)).std())
