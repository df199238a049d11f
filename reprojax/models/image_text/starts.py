"""What a classifier's texts begin with: the words that prompts stand in place of."""

import jax
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import record
from reprojax.models.card import Model, role
from reprojax.models.vision.pixels import Pixels


def check_first_words(model: Model[Pixels], length: int, who: str) -> None:
    """Raise unless all texts have the same `length` words behind their first token.

    A prompt in place of other words would replace names of classes.
    """
    ids = np.asarray(model.frozen["texts"].tokens.value)[:, 1 : 1 + length]
    same = ids.shape[1] == length and (ids == ids[:1]).all()
    if not 0 < length or not same:
        count = int((ids == ids[:1]).all(0).cumprod().sum())
        raise ValueError(
            f"{who} got texts that begin with {count} common words for a prompt of "
            f"{length} in their place, expected at least {length}; call "
            'classifier(pair, names, ["a photo of a {}."]), with X for each word that '
            "is missing, or make the prompt shorter"
        )


def first_words(model: Model[Pixels], length: int) -> Float[Array, "P D"]:
    """The vectors of these words at the text tower's embedding, without positions."""
    site = role(model, "text_embedding")[0]

    @jax.jit
    def look(frozen, x):
        return record(model.forward, [site])(frozen, x)[1][site].value[
            0, 1 : 1 + length
        ]

    x = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), model.input.example())
    return look(model.frozen, x)
