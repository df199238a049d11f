"""Alignments by a fixed rule: neither learned nor estimated."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reprojax.core import (
    Key,
    Manipulation,
    Params,
    Scope,
    Tokens,
    chain,
    last_value,
    stateless,
)
from reprojax.core.guards import check_sizes
from reprojax.core.slips import whole_ids


def identity() -> Manipulation:
    """The model's own output: the task's classes are the model's."""
    return stateless(lambda y: y)


def last() -> Manipulation:
    """Tokens [B L V] -> the logits at each row's last real token [B V]."""
    return stateless(last_value)


def at_words() -> Manipulation:
    """Tokens [B P+L V] -> the logits at the task's own L tokens [B L V], without the P
    that a prompt put in front. For tasks whose labels are words to be written."""

    def init(key: Key, value: Tokens, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: Tokens, scope: Scope) -> Float[Array, "B L V"]:
        return value.value[:, -scope.x.weight.shape[1] :]

    return Manipulation(init, apply)


def of_probabilities(alignment: Manipulation) -> Manipulation:
    """An alignment applied to log softmax(y) [*B S] instead of y.

    One source class a target, or a mean of several, then gives log-probabilities over
    *all* source classes, as in adversarial reprogramming's loss. The alignment still
    observes y itself, and its params are the same.
    """

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        log = jax.nn.log_softmax(y.astype(jnp.float32)).astype(y.dtype)
        return alignment.apply(params, log, scope)

    return alignment._replace(apply=apply)


def _check(ids: np.ndarray, y: Array, who: str) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= y.shape[-1]):
        raise ValueError(
            f"{who} got the source classes {ids.min()}..{ids.max()}, expected 0.."
            f"{y.shape[-1] - 1}, the model's; choose among these, or another model"
        )


def columns(ids: Sequence[int] | range | Int[np.ndarray, "T"]) -> Manipulation:
    """One source class for each target class: y [B S] -> y[:, ids] [B T].

    `columns(range(T))`, the first T classes, is the map of Elsayed et al. (arXiv
    1806.11146) and of Bahng et al. (arXiv 2203.17274). Over a vocabulary it is a
    verbaliser.
    """
    chosen = np.asarray(ids, np.int32)
    check_sizes("columns", classes=len(chosen))

    def pick(y: Float[Array, "*B S"]) -> Float[Array, "*B T"]:
        _check(chosen, y, "columns")
        return y[..., chosen]

    return stateless(pick)


def groups(ids: Sequence[Sequence[int]], by: str = "mean") -> Manipulation:
    """The "mean" or "max" over several source classes for each target class."""
    if by not in ("mean", "max"):
        raise ValueError(f"groups got by={by!r}, expected 'mean' or 'max'")
    check_sizes("groups", classes=len(ids))
    if empty := [t for t, group in enumerate(ids) if not len(group)]:
        raise ValueError(
            f"groups got no source class for the target classes {empty}, expected at "
            "least one each"
        )
    chosen = [np.asarray(group, np.int32) for group in ids]

    def pool(y: Float[Array, "*B S"]) -> Float[Array, "*B T"]:
        _check(np.concatenate(chosen), y, "groups")
        reduce = jnp.mean if by == "mean" else jnp.max
        return jnp.stack([reduce(y[..., group], axis=-1) for group in chosen], axis=-1)

    return stateless(pool)


def label_words(ids: Sequence[int]) -> Manipulation:
    """The next token's logits at one label word for each class [B T].

    With the card `models.language.maps.one_word(language)` in place of the model, the
    head computes logits for that token only, which matters for a large vocabulary.

    Args:
        ids: such as `text.labels.one_token_each` gives, which refuses labels that are
            not distinct single tokens.
    """
    found = whole_ids("label_words", ids)
    if len(set(found)) < len(found):
        raise ValueError(
            f"got the label words {found}, expected another one for each class: "
            "classes with the same token cannot be told apart; give other words"
        )
    return chain(last=last(), words=columns(found))


def at_mask(mask: int) -> Manipulation:
    """Tokens [B P+L ...] -> the token [B 1 ...] at the task's own word `mask`.

    The P tokens in front are a prompt's. Followed by `last()` it gives a masked model's
    output; at the site of the features it leaves the head one token a row. A row with
    no mask word, or with several, gives NaN.
    """

    def init(key: Key, value: Tokens, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: Tokens, scope: Scope) -> Tokens:
        own: Tokens = scope.x
        hit = (own.value == mask) & (own.weight > 0)
        place = hit.argmax(1) + value.weight.shape[1] - hit.shape[1]
        one = hit.sum(1) == 1

        def pick(leaf: jax.Array) -> jax.Array:
            found = jax.vmap(lambda row, i: row[i][None])(leaf, place)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return found
            known = one.reshape(-1, *(1,) * (found.ndim - 1))
            return jnp.where(known, found, jnp.nan)

        picked = jax.tree.map(pick, value.value)
        where = place[:, None]
        position = jnp.take_along_axis(value.position, where, 1)
        weight = jnp.take_along_axis(value.weight, where, 1)
        return Tokens(picked, position, weight, value.span)

    return Manipulation(init, apply)


def mean(start: int = 0) -> Manipulation:
    """Tokens [B L D] -> the mean of the real tokens [B D], weighted by their weights.

    Source: Reimers and Gurevych (arXiv 1908.10084). A row without a real token gives
    zeros. For an array [B L D], all tokens have equal weight.

    Args:
        start: leave out tokens before this position, such as a prompt's.
    """
    if start < 0:
        raise ValueError(f"mean got start={start}, expected a position from 0")

    def pool(y: Tokens | Float[Array, "B L D"]) -> Float[Array, "B D"]:
        if not isinstance(y, Tokens):
            return y[:, start:].mean(1)
        weight = jnp.where(y.position >= start, y.weight, 0)
        total = jnp.maximum(weight.sum(1, keepdims=True), 1e-9)
        share = (weight / total).astype(y.value.dtype)
        return jnp.einsum("bl,bld->bd", share, y.value)

    return stateless(pool)


def normalised(length: float = 1.0) -> Manipulation:
    """y [*B D] scaled to one length, direction kept; zeros stay zeros.

    For vectors of length 1 an inner product is a cosine. A greater length acts on a
    softmax of cosines as an inverse temperature.
    """

    def scale(y: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        square = (y.astype(jnp.float32) ** 2).sum(-1, keepdims=True)
        # the square is clipped, not the norm, whose derivative at 0 is infinite
        factor = length / jnp.sqrt(jnp.maximum(square, 1e-24))
        return y * factor.astype(y.dtype)

    return stateless(scale)
