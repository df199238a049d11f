"""Context optimisation, CoOp (Zhou et al., arXiv 2109.01134)."""

from typing import Literal

from jax.nn.initializers import normal

from reprojax.core import Format, Manipulation, Program, chain, reprogram
from reprojax.formats import learnable, of_each
from reprojax.models import Model, Pixels, role
from reprojax.operators import insert
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    ids_of_texts,
    sized,
)
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_by_epochs

Place = Literal["end", "middle", "front"]


@needs(Pixels, "text_embedding")
def coop(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 16,
    place: Place = "end",
    each: bool = False,
    initial: Format | None = None,
    ahead: int = 1,
    behind: int = 2,
    augment: bool = False,
) -> Program:
    """Learned words around the names of the classes (arXiv 2109.01134).

    The model is a pair with its texts, which hold only a name and a full stop:
    `image_text.classifier(pair, names, ["{}."])`.

    Args:
        length: P, learned words.
        place: where the name stands: behind the words, in the middle, or before them.
        each: words of its own for each text, [T P D], instead of the same for all.
        initial: by default N(0, .02^2); `starts.from_text(pair.text, ids)` for words.
        ahead: tokens in front of the name: 1 where a token begins a text (CLIP), else 0
            (SigLIP).
        behind: tokens behind the name: a full stop, and the token that ends a text.
        augment: in training, a random part of each image and a mirror, as published.
    """
    check_classes(model, targets)
    fmt = learnable(normal(0.02)) if initial is None else initial
    fmt = of_each(fmt, len(model.frozen["texts"].features)) if each else fmt
    (site,) = role(model, "text_embedding")
    words = _around(fmt, length, place, ahead, behind)
    if place != "end":
        _check_ends(model, behind)
    at = {"input": sized(model, augment), site: words}
    return reprogram(model.forward, at, align)


def _around(
    fmt: Format, length: int, place: Place, ahead: int, behind: int
) -> Manipulation:
    if place == "end":
        return insert(fmt, length, at=ahead)
    if place == "front":
        return insert(fmt, length, at=-behind)
    if place != "middle" or length < 2:
        raise ValueError(
            f"coop got place={place!r} for {length} words, expected 'end', 'front', or "
            "'middle' of at least two words; take another place"
        )
    half = length // 2
    return chain(
        before=insert(fmt, half, at=ahead),
        behind=insert(fmt, length - half, at=-behind),
    )


def _check_ends(model: Model[Pixels], behind: int) -> None:
    """Raise if the texts do not end alike, or if they end in padding that counts."""
    rows = ids_of_texts(model)
    ends = {tuple(row[-behind:].tolist()) for row in rows}
    if len(ends) > 1 or any(row[-1] in row[:-1] for row in rows):
        raise ValueError(
            f"got texts whose last {behind} tokens are {sorted(ends)[:3]}, expected "
            "the same ones behind each name, the last of which ends a text; take "
            "place='end', or texts of the template '{}.'"
        )


METHOD = Method(
    "coop",
    coop,
    preset=Preset(sgd_by_epochs, 0.002, epochs=200, batch=32),
    enters="in front of the names of classes",
    template="{}.",
    source="arXiv 2109.01134 and KaiyangZhou/CoOp: 16 words, 200 epochs for 16 and 8 "
    "images a class; 100 for 4 and 2, 50 for one and for ImageNet. Its parts and "
    "mirrors of images are `augment`. What differs: in evaluation, images are resized "
    "without a crop at the centre.",
)
register(METHOD)
