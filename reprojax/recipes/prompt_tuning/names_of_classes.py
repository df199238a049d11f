"""What recipes share that learn words in the names of a pair's classes."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import Format, Manipulation, PyTree
from reprojax.models import Model, Pixels
from reprojax.models.image_text.card import of_classes
from reprojax.models.image_text.starts import check_first_words, from_first_words
from reprojax.operators import parts, resize


def check_classes(model: Model[Pixels], targets: int | None) -> None:
    """Raise unless the task has as many classes as the pair has names."""
    if targets is not None and targets != len(model.classes):
        raise ValueError(
            f"got {targets} classes and {model.name} with {len(model.classes)} names, "
            "expected a name for each class of the task, in its order; bind the pair "
            "to them: image_text.classifier(pair, task.classes)"
        )


def ids_of_texts(model: Model[Pixels]) -> list[np.ndarray]:
    """The ids of each of the model's texts, without padding."""
    tokens: Any = jax.tree.map(np.asarray, model.frozen["texts"].tokens)
    pairs = zip(tokens.value, tokens.weight, strict=True)
    return [ids[weight > 0] for ids, weight in pairs]


def template_words(
    model: Model[Pixels], length: int, initial: Format | None, who: str
) -> Format:
    """Words [P D] for the place of the template's own first ones, "a photo of a".

    Args:
        initial: by default those words themselves.
    """
    check_first_words(model, length, who)
    return from_first_words(model) if initial is None else initial


def sized(model: Model[Pixels], augment: bool) -> Manipulation:
    """Images of the model's size; in training random parts of them, if wanted."""
    side = model.input.size
    return parts(side) if augment else resize(side)


def class_features(frozen: PyTree) -> Float[Array, "T J"]:
    """Unit features of a classifier's classes, by its texts as they are."""
    return of_classes(frozen["texts"].features, frozen["texts"])
