"""Knowledge-guided context optimisation, KgCoOp (Yao et al., arXiv 2303.13283)."""

from jaxtyping import Array, Float

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    reprogram,
)
from reprojax.models import Model, Pixels, role
from reprojax.models.image_text.card import of_classes
from reprojax.operators import replace
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    class_features,
    sized,
    template_words,
)
from reprojax.recipes.registry import register
from reprojax.training.losses import Loss, Seen, cross_entropy
from reprojax.training.optimizers import sgd_by_epochs

FEATURES = "text/features"
APART = f"{FEATURES}/apart"


@needs(Pixels, "text_embedding")
def kgcoop(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 4,
    initial: Format | None = None,
    hand_written: Model[Pixels] | None = None,
    augment: bool = False,
) -> Program:
    """Learned words that stay near a hand-written text (arXiv 2303.13283).

    They take the place of the template's own, "a photo of a", and start there. The loss
    `guided()` reads how far each class's feature is from that of the hand-written text.

    Args:
        length: P, words of the template that are replaced.
        initial: by default the template's own words.
        hand_written: the pair with other texts for the same classes, such as "a photo
            of a {}, a type of pet."; by default the model's own.
        augment: in training, a random part of each image and a mirror, as published.
    """
    check_classes(model, targets)
    (site,) = role(model, "text_embedding")
    guide = None if hand_written is None else class_features(hand_written.frozen)
    if hand_written is not None and hand_written.classes != model.classes:
        raise ValueError(
            f"got hand-written texts for {list(hand_written.classes)[:3]}, expected "
            f"those of the model's classes, {list(model.classes)[:3]}; bind the pair "
            "to them"
        )
    words = replace(template_words(model, length, initial, "kgcoop"), length, at=1)
    at = {"input": sized(model, augment), site: words}
    return reprogram(model.forward, at | {FEATURES: near(guide)}, align)


def near(features: Float[Array, "T J"] | None) -> Manipulation:
    """The texts' features unchanged; taps "apart" [T], 1 - cos with given features
    (KgCoOp, arXiv 2303.13283).

    None: with those of the model's texts as they are.
    """

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        own = class_features(scope.frozen) if features is None else features
        return Params(fixed=own)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        found = of_classes(value, scope.frozen["texts"])
        scope.tap("apart", 1 - (found * params.fixed.astype(found.dtype)).sum(-1))
        return value

    return Manipulation(init, apply)


def guided(weight: float = 8.0) -> Loss:
    """Cross entropy + weight * the mean of "apart" over the classes (KgCoOp, arXiv
    2303.13283)."""

    def loss(seen: Seen) -> Array:
        return cross_entropy(seen) + weight * seen.recorded[APART].mean()

    return loss


METHOD = Method(
    "kgcoop",
    kgcoop,
    preset=Preset(
        sgd_by_epochs, 0.002, epochs=100, batch=128, loss=guided(), sites=(APART,)
    ),
    enters="in front of the names of classes",
    source="arXiv 2303.13283 and htyao89/KgCoOp: a weight of 8, 'a photo of a', 100 "
    "epochs of batches of 128, for 16 images a class. Its parts and mirrors of "
    "images are `augment`. What differs: the hand-written texts are the model's own "
    "unless others are given.",
)
register(METHOD)
