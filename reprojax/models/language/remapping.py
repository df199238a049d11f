"""Learned maps from a task's symbols, its letters, to words (arXiv 1809.01829)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from reprojax.core import WHOLE, Key, Manipulation, Params, PyTree, Scope, Tokens
from reprojax.core.initial import uniform
from reprojax.models import Model, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_words
from reprojax.models.language.layers import rows_of, table_at


def remap(
    model: Model[Words],
    letters: int,
    *,
    width: int = 5,
    words: Sequence[int] | None = None,
    temperatures: tuple[float, float] = (2.0, 0.01),
    steps: int = 500,
) -> Manipulation:
    """At the embedding: the vectors [B L D] of words chosen for the task's letters
    (arXiv 1809.01829).

    A letter's word depends on the letters beside it, within `width`; beyond the text's
    ends, and at padding, there are none. In training (with a key) the vectors are
    Gumbel softmax mixtures of words, whose temperature falls linearly. Without a key
    they are those of the most likely words: the tap "words" has their ids, and the
    answer equals the bare model's to these ids. A letter outside 0..letters - 1 gives
    NaN.

    Args:
        words: ids to choose from; by default the whole vocabulary, for which a batch
            has a score for each word, letter and row.
        temperatures: the first and the last one.
        steps: training steps from one to the other. The paper takes 15 epochs. Each
            part of an accumulated batch counts.
    """
    _check_sizes(letters, width, temperatures, steps)
    chosen = None if words is None else check_words(model, words, "words=")
    count = model.input.vocabulary if chosen is None else len(chosen)
    table = _table(model)

    def init(key: Key, value: Tokens, scope: Scope) -> Params:
        k, draw = jax.random.split(key), uniform(width * letters)
        fixed: dict[str, Array] = {"step": jnp.zeros((), jnp.int32)}
        if chosen is not None:
            fixed["words"] = jnp.asarray(chosen, jnp.int32)
        scores = {
            "kernel": draw(k[0], (width, letters, count)),
            "bias": draw(k[1], (count,)),
        }
        return Params(scores, fixed)

    def apply(params: Params, value: Tokens, scope: Scope) -> Tokens:
        _check_whole(value, scope.x)
        scores, known = _scores(params.learnable, scope.x)
        ids = params.fixed.get("words", jnp.arange(count))
        if scope.key is None:
            # an id outside every table, so its vector is NaN
            best = jnp.where(known, ids[scores.argmax(-1)], model.input.vocabulary)
            best = scope.tap("words", best)
            return value._replace(value=rows_of(table(scope.frozen), best))
        step = params.fixed["step"]
        scope.tap("fixed", {**params.fixed, "step": step + 1})
        share = jnp.minimum(step / steps, 1)
        temperature = temperatures[0] + share * (temperatures[1] - temperatures[0])
        noisy = scores + jax.random.gumbel(scope.key, scores.shape)
        mixed = jax.nn.softmax(noisy / temperature)
        rows = table(scope.frozen)[ids]
        return value._replace(value=mixed.astype(rows.dtype) @ rows)

    return Manipulation(init, apply)


def _table(model: Model[Words]) -> Callable[[PyTree], Float[Array, "V D"]]:
    """frozen -> the rows of the embedding."""
    (site,) = role(model, "embedding")
    found = table_at(model.frozen, site).shape
    if found != (model.input.vocabulary, model.width):
        raise ValueError(
            f"the embedding of {model.name} at {site} has the shape {found}, expected "
            f"{(model.input.vocabulary, model.width)}, a row for each word; make the "
            "vectors of words with a flax.linen.Embed"
        )
    return partial(table_at, site=site)


def _scores(net: PyTree, x: Tokens) -> tuple[Float[Array, "B L N"], Bool[Array, "B L"]]:
    """Scores of each word for each letter, and which letters are known."""
    kernel, reach = net["kernel"], len(net["kernel"]) // 2
    known = (x.value >= 0) & (x.value < kernel.shape[1])
    total = jnp.zeros((*x.value.shape, kernel.shape[2])) + net["bias"]
    for i, rows in enumerate(kernel):
        ids, there = _beside(x, i - reach)
        total += jnp.where(there[..., None], rows[ids], 0)
    return jnp.where(known[..., None], total, jnp.nan), known


def _beside(x: Tokens, shift: int) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """The letter that many positions on, and whether there is one."""
    wanted = x.position[:, :, None] + shift
    match = (x.position[:, None, :] == wanted) & (x.weight > 0)[:, None, :]
    return jnp.take_along_axis(x.value, match.argmax(2), 1), match.any(2)


def _check_sizes(
    letters: int, width: int, temperatures: tuple[float, float], steps: int
) -> None:
    if letters < 1 or width < 1 or not width % 2:
        raise ValueError(
            f"got letters={letters} and width={width}, expected at least one letter, "
            "and an odd width: the letter itself and equally many on both sides"
        )
    if min(temperatures) <= 0 or steps < 1:
        raise ValueError(
            f"got temperatures={temperatures} and steps={steps}, expected "
            "temperatures above 0 and at least one step"
        )


def _check_whole(value: Tokens, x: Any) -> None:
    if value.span != WHOLE or value.weight.shape != x.weight.shape:
        raise ValueError(
            f"got vectors of {value.weight.shape[1]} words for a text of "
            f"{x.weight.shape[1]} letters (whole: {value.span == WHOLE}), expected a "
            "vector for each letter of whole texts; put a prompt after the remapping "
            "in a chain at the embedding, and read the answer by labels"
        )
