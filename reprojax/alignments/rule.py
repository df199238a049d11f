"""Alignments by rule: nothing learned, nothing estimated."""

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


def identity() -> Manipulation:
    """The answer as it is: the task's classes are the model's."""
    return stateless(lambda y: y)


def last() -> Manipulation:
    """Of Tokens [B L V] the answer at the last real token [B V]: the next word's."""
    return stateless(last_value)


def own() -> Manipulation:
    """Of Tokens [B P+L V] the answers at the task's own L tokens [B L V], behind the P
    that a prompt put in front: what a task whose words are to be written is learned by.
    """

    def init(key: Key, value: Tokens, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: Tokens, scope: Scope) -> Float[Array, "B L V"]:
        return value.value[:, -scope.x.weight.shape[1] :]

    return Manipulation(init, apply)


def of_probabilities(alignment: Manipulation) -> Manipulation:
    """An alignment of log softmax(y) [*B S] in place of y.

    One source class a target, or a mean of several, then gives log probabilities among
    *all* source classes, as adversarial reprogramming's loss wants them. What the
    alignment observes is y as it came; its own params stay what they were.
    """

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        log = jax.nn.log_softmax(y.astype(jnp.float32)).astype(y.dtype)
        return alignment.apply(params, log, scope)

    return alignment._replace(apply=apply)


def _check(ids: np.ndarray, y: Array, who: str) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= y.shape[-1]):
        raise ValueError(
            f"{who} names the source classes {ids.min()}..{ids.max()}, expected 0.."
            f"{y.shape[-1] - 1}, the model's; choose fewer, or another model"
        )


def columns(ids: Sequence[int] | range | Int[np.ndarray, "T"]) -> Manipulation:
    """One source class for each target class: y [B S] -> y[:, ids] [B T].

    `columns(range(T))`, the first T classes, is the map of Elsayed et al. (arXiv
    1806.11146) and of Bahng et al. (arXiv 2203.17274); over a vocabulary it is a
    verbaliser.
    """
    chosen = np.asarray(ids, np.int32)
    check_sizes("columns", classes=len(chosen))

    def pick(y: Float[Array, "*B S"]) -> Float[Array, "*B T"]:
        _check(chosen, y, "columns")
        return y[..., chosen]

    return stateless(pick)


def groups(ids: Sequence[Sequence[int]], by: str = "mean") -> Manipulation:
    """Several source classes for each target class, by their "mean" or "max" answer."""
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
