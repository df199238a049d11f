"""Steering: activation addition (Turner et al., arXiv 2308.10248) and contrastive
activation addition (Rimsky et al., arXiv 2312.06681). Nothing is learned.

Layers are numbered as in these papers, from 0. Activation addition counts what enters a
block: its layer l is the residual stream in front of block l. Contrastive activation
addition counts what a block puts out: its layer l is the residual stream behind block
l, so that the same place has a number less. A vector and the program that adds it have
the same number.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import (
    Format,
    Manipulation,
    Params,
    Program,
    Scope,
    Tokens,
    last_position,
    last_value,
    padded,
    record,
    reprogram,
    tokens,
)
from reprojax.formats import fixed
from reprojax.models import Model, outputs, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_words
from reprojax.operators import add
from reprojax.recipes.method import Method, needs


def steering(
    model: Model[Words],
    wanted: Sequence[int],
    unwanted: Sequence[int],
    layer: int,
    fill: int | None = None,
) -> Float[Array, "P D"]:
    """What enters a block at each word of one prompt, less that of another one (arXiv
    2308.10248).

    Args:
        wanted, unwanted: ids; a model that begins texts with a token wants it in both.
        layer: the block whose input is taken, from 0, as the paper counts.
        fill: the id behind the shorter one, up to the longer one's length; the paper
            fills with blanks.
    """
    both = [check_words(model, ids, "a prompt") for ids in (wanted, unwanted)]
    short, long = sorted(map(len, both))
    if short < long and fill is None:
        raise ValueError(
            f"prompts of {short} and {long} tokens came, expected as many; give "
            "fill=, the id of a blank, to go behind the shorter one"
        )
    if fill is not None:
        check_words(model, [fill], "fill")
        both = [ids + [fill] * (long - len(ids)) for ids in both]
    look = _seen(model, _place(model, layer, role(model, "blocks")))
    h = look(tokens(jnp.asarray(both, jnp.int32))).value
    h = h.astype(jnp.float32)
    return h[0] - h[1]


def contrast(
    model: Model[Words],
    wanted: Sequence[Sequence[int]],
    unwanted: Sequence[Sequence[int]],
    layer: int,
    *,
    batch: int = 32,
) -> Float[Array, "D"]:
    """What a block puts out at the last word of texts: the mean over those that show a
    behaviour, less the mean over those that do not (arXiv 2312.06681).

    In the paper they are pairs, a question with either answer.

    Args:
        wanted, unwanted: ids of the texts.
        layer: the block whose output is taken, from 0, as the paper counts; the last
            one too.
        batch: texts a call.
    """
    means = []
    look = _seen(model, _place(model, layer, outputs(model)))
    for who, group in (("the wanted texts", wanted), ("the unwanted texts", unwanted)):
        if not len(group):
            raise ValueError(f"{who} are none, expected some of both kinds")
        rows = [check_words(model, ids, who) for ids in group]
        longest, total = max(map(len, rows)), np.zeros(model.width)
        for start in range(0, len(rows), batch):
            x = padded(rows[start : start + batch], length=longest)
            h = last_value(look(x)).astype(jnp.float32)
            total += np.asarray(h, np.float64).sum(0)
        means.append(total / len(rows))
    return jnp.asarray(means[0] - means[1], jnp.float32)


def _seen(model: Model[Words], site: str) -> Callable[[Tokens], Tokens]:
    """What stands at a site; the rest of the model is dropped."""
    look = jax.jit(lambda frozen, x: record(model.forward, [site])(frozen, x)[1])
    return lambda x: look(model.frozen, x)[site]


def _place(model: Model[Words], layer: int, places: Sequence[str]) -> str:
    if not 0 <= layer < len(places):
        raise ValueError(
            f"got the layer {layer}, expected one of 0..{len(places) - 1}, the blocks "
            f"of {model.name}"
        )
    return places[layer]


@needs(Words, "blocks", access="activations")
def activation_addition(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    vector: Float[Array, "..."],
    layer: int,
    coefficient: float = 1.0,
    answer: bool = False,
) -> Program:
    """A fixed vector, times a coefficient, added to the residual stream (arXiv
    2308.10248, 2312.06681).

    Args:
        vector: [P D], such as `steering` gives: added to what enters a block at the
            first P words; where a text is shorter, to those that are written at these
            places too. [D], such as `contrast` gives: added to what a block puts out,
            at every word.
        layer: the block, with the number that its vector was made with.
        align: `label_words(ids)` for a task of classes; None: Tokens of logits.
        coefficient: below 0, away from what was wanted.
        answer: a vector [D] is spared the text that is given, but for its last word,
            from which the answer goes on, as in arXiv 2312.06681.
    """
    vector = jnp.asarray(vector, jnp.float32)
    if vector.ndim not in (1, 2) or vector.shape[-1] != model.width:
        raise ValueError(
            f"got a vector of shape {vector.shape}, expected [{model.width}], or "
            f"[P, {model.width}] for the first P words of {model.name}; make it "
            "with this model's card, by contrast or steering"
        )
    if answer and vector.ndim == 2:
        raise ValueError(
            f"got answer=True with a vector for the first {len(vector)} words, "
            "expected one for every word, [D]; make it by contrast"
        )
    fmt = fixed(coefficient * vector)
    length = len(vector) if vector.ndim == 2 else None
    places = outputs(model) if length is None else role(model, "blocks")
    edit = to_answers(fmt) if answer else add(fmt, length)
    return reprogram(model.forward, {_place(model, layer, places): edit}, align)


def to_answers(fmt: Format) -> Manipulation:
    """A prompt [D] added to the given Tokens' last one, and to all that are written,
    as contrastive activation addition steers answers (arXiv 2312.06681)."""
    everywhere = add(fmt)

    def apply(params: Params, value: Tokens, scope: Scope) -> Tokens:
        moved = everywhere.apply(params, value, scope)
        chosen = value.position >= last_position(value)
        if not value.span.last:  # else all of it was written, or none
            chosen = jnp.full(chosen.shape, not value.span.first)
        h = jnp.where(chosen[..., None], moved.value, value.value)
        return value._replace(value=h)

    return Manipulation(everywhere.init, apply)


METHOD = Method(
    "activation-addition",
    activation_addition,
    enters="what enters a block, or what it puts out",
    source="arXiv 2308.10248, 2312.06681. Nothing is learned.",
)
