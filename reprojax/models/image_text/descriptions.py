"""A pair as a classifier of descriptions: several texts of each class."""

from collections.abc import Iterable, Mapping

from reprojax.models.card import Model
from reprojax.models.image_text.card import (
    Pair,
    check_names,
    check_sentences,
    classifier,
)
from reprojax.models.vision.pixels import Pixels

Sentences = Mapping[str, Iterable[str]]


def of_descriptions(
    pair: Pair, classes: Iterable[str], *kinds: Sentences, count: int | None = None
) -> Model[Pixels]:
    """The pair as a model whose answers are the texts themselves, logits [B K T m]
    in a row: kind by kind, in a kind class by class.

    For `attrvr`, whose kinds are what a class looks like, and what sets it apart.

    Args:
        kinds: {class: texts} for each.
        count: m, the first texts of each class, repeated if it has fewer; by default as
            many as every class has.

    Raises:
        ValueError: no kinds, or a class without texts.
    """
    classes = check_names(classes)
    if not kinds:
        raise ValueError(
            "of_descriptions got no sentences, expected {class: texts}, for one kind "
            "or more"
        )
    listed = [check_sentences(classes, kind) for kind in kinds]
    least = min(len(kind[name]) for kind in listed for name in classes)
    count = least if count is None else count
    if count < 1:
        raise ValueError(f"got count={count} texts a class, expected at least 1")
    texts = {
        f"{name} {k}.{i}": [kind[name][i % len(kind[name])]]
        for k, kind in enumerate(listed)
        for name in classes
        for i in range(count)
    }
    return classifier(pair, list(texts), sentences=texts)
