"""Hidden states of texts: keys and values, and steering vectors.

Layers are numbered from 0 as in the papers of these vectors. Activation addition counts
inputs of blocks: its layer l is the residual stream before block l. Contrastive
activation addition counts outputs: its layer l is the residual stream after block l,
the same place as layer l + 1 of the former. Make a vector and add it with one number.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import last_value, padded, tokens
from reprojax.models import Model, outputs, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_words, seen


def keys_and_values(model: Model[Words], ids: Sequence[int]) -> Float[Array, "n P H d"]:
    """Keys and values of a text at every layer, n = 2 a layer; as a prefix they equal
    the text itself in front. A start for few rows (arXiv 2101.00190, section 7.4)."""
    sites = role(model, "kv")
    ids = check_words(model, ids, "a text")
    found = seen(model, sites)(tokens(jnp.asarray([ids], jnp.int32)))
    pieces = [a[0] for site in sites for a in found[site].value]
    return jnp.stack(pieces).astype(jnp.float32)


def steering(
    model: Model[Words],
    wanted: Sequence[int],
    unwanted: Sequence[int],
    layer: int,
    fill: int | None = None,
) -> Float[Array, "P D"]:
    """A block's input at each token of one prompt, minus that of another (arXiv
    2308.10248).

    Args:
        wanted, unwanted: ids, both with the model's first token if it has one.
        layer: the block whose input is taken, from 0, as the paper counts.
        fill: the id that pads the shorter prompt to the longer one's length; the paper
            uses blanks.
    """
    both = [check_words(model, ids, "a prompt") for ids in (wanted, unwanted)]
    short, long = sorted(map(len, both))
    if short < long and fill is None:
        raise ValueError(
            f"got prompts of {short} and {long} tokens, expected equal lengths; give "
            "fill=, the id of a blank, to pad the shorter one"
        )
    if fill is not None:
        check_words(model, [fill], "fill")
        both = [ids + [fill] * (long - len(ids)) for ids in both]
    site = place(model, layer, role(model, "blocks"))
    h = seen(model, [site])(tokens(jnp.asarray(both, jnp.int32)))[site].value
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
    """A block's output at the last token of texts: the mean over those that show a
    behaviour, minus the mean over those that do not (arXiv 2312.06681).

    In the paper they are pairs, a question with either answer.

    Args:
        wanted, unwanted: ids of the texts.
        layer: the block whose output is taken, from 0 to the last, as the paper counts.
        batch: texts a call.
    """
    means = []
    site = place(model, layer, outputs(model))
    look = seen(model, [site])
    for who, group in (("the wanted texts", wanted), ("the unwanted texts", unwanted)):
        if not len(group):
            raise ValueError(f"{who} are none, expected some of both kinds")
        rows = [check_words(model, ids, who) for ids in group]
        longest, total = max(map(len, rows)), np.zeros(model.width)
        for start in range(0, len(rows), batch):
            x = padded(rows[start : start + batch], length=longest)
            h = last_value(look(x)[site]).astype(jnp.float32)
            # float64, because the difference of two means cancels digits
            total += np.asarray(h, np.float64).sum(0)
        means.append(total / len(rows))
    return jnp.asarray(means[0] - means[1], jnp.float32)


def place(model: Model[Words], layer: int, places: Sequence[str]) -> str:
    """The site of a layer."""
    if not 0 <= layer < len(places):
        raise ValueError(
            f"got the layer {layer}, expected one of 0..{len(places) - 1}, the blocks "
            f"of {model.name}"
        )
    return places[layer]
