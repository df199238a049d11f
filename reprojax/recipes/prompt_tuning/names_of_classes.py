"""What recipes share that learn words in the names of a pair's classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import Format, Manipulation, record
from reprojax.formats import learnable
from reprojax.models import Model, Pixels, role
from reprojax.models.image_text.card import of_classes
from reprojax.operators import replace


def check_classes(model: Model[Pixels], targets: int | None) -> None:
    """Raise unless the task has as many classes as the pair has names."""
    if targets is not None and targets != len(model.classes):
        raise ValueError(
            f"got {targets} classes and {model.name} with {len(model.classes)} names, "
            "expected a name for each class of the task, in its order; bind the pair "
            "to them: image_text.classifier(pair, task.classes)"
        )


def rows_of(model: Model[Pixels]) -> list[np.ndarray]:
    """The ids of each of the model's texts, without padding."""
    tokens: Any = jax.tree.map(np.asarray, model.frozen["texts"].tokens)
    pairs = zip(tokens.value, tokens.weight, strict=True)
    return [ids[weight > 0] for ids, weight in pairs]


def first_words(
    model: Model[Pixels], length: int, initial: Format | None, ahead: int = 1
) -> Manipulation:
    """Learned words in place of the first of each text; see `template_words`."""
    return replace(template_words(model, length, initial, ahead), length, at=ahead)


def template_words(
    model: Model[Pixels], length: int, initial: Format | None, ahead: int = 1
) -> Format:
    """Words [P D] for the place of the template's own, such as "a photo of a".

    Args:
        length: P, how many are replaced.
        initial: by default those words themselves.
        ahead: tokens in front of them.

    Raises:
        ValueError: the texts begin with different words, or with fewer.
    """
    rows = [row[ahead : ahead + length].tolist() for row in rows_of(model)]
    shortest = min(map(len, rows_of(model)))
    if any(row != rows[0] for row in rows) or shortest < ahead + length + 1:
        raise ValueError(
            f"got texts whose words from token {ahead} on are {rows[:2]}, expected the "
            f"same {length} in front of each name; take a template such as 'a photo of "
            "a {}.', or another length"
        )
    return _own_words(model, length, ahead) if initial is None else initial


def _own_words(model: Model[Pixels], length: int, ahead: int) -> Format:
    (site,) = role(model, "text_embedding")
    side = model.input.size

    def look(frozen: Any, x: Any) -> Float[Array, "P D"]:
        seen = record(model.forward, [site])(frozen, x)[1]
        vectors = seen[site].value[0, ahead : ahead + length]
        return vectors.astype(jnp.float32)

    x = jnp.zeros((1, side, side, 3), jnp.float32)
    return learnable(jax.jit(look)(model.frozen, x))


def class_features(model: Model[Pixels]) -> Float[Array, "T J"]:
    """Unit features of the model's classes, by its texts as they are."""
    texts = model.frozen["texts"]
    return of_classes(texts.features, texts)
