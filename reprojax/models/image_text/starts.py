"""What a classifier's texts begin with: the words that prompts stand in place of."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import Format, Key, Params, PyTree, Scope
from reprojax.models.card import Model, role
from reprojax.models.language.layers import rows_of, table_at
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


def from_first_words(model: Model[Pixels], words: int | None = None) -> Format:
    """Start at the vectors [P D] of these words, without positions, of the weights with
    which the program begins.

    Args:
        words: how many of them; zeros stand in front. By default all P.
    """
    site = role(model, "text_embedding")[0].removeprefix("text/")

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        count = shape[0] if words is None else words
        ids = scope.frozen["texts"].tokens.value[:1, 1 : 1 + count]
        own = rows_of(table_at(scope.frozen["text"], site), ids)[0]
        wide = own.astype(jnp.float32)
        return Params(jnp.pad(wide, ((shape[0] - count, 0), (0, 0))))

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "P D"]:
        return params.learnable

    return Format(init, read)
