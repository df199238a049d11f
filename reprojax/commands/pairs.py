"""A pair of towers as the backbone of the commands: bound to the names of classes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from reprojax import models
from reprojax.commands import controls
from reprojax.commands.controls import Outputs
from reprojax.core import Program
from reprojax.data import Task
from reprojax.data.checks import listed
from reprojax.models import Model, Pixels, image_text
from reprojax.models.image_text import Pair, classifier
from reprojax.models.image_text.card import compare, of_classes, spoken
from reprojax.training.caches import cached
from reprojax.training.dependence import cache_site

BATCH = 100  # images at once, where nothing is trained
ZERO_SHOT, ENSEMBLE, NEAREST = "zero-shot", "zero-shot ensemble", "nearest features"
"""Rows beside a prompt of a pair."""


def load(source: str, *, dtype: Any, **looks: Any) -> Model[Pixels] | Pair:
    """A frozen image model, or a pair of towers, whose looks (size, mean, std) are its
    own."""
    if image_text.is_pair(source):
        return image_text.load(source, dtype=dtype)
    return models.load(source, dtype=dtype, **looks)


def names() -> tuple[str, ...]:
    """What `load` takes without a file: the embedded models and pairs."""
    return (*models.names(), *image_text.names())


def bound(pair: Pair, classes: Sequence[str], templates: Sequence[str]) -> Model[Any]:
    """The pair as a classifier of names of folders, written with spaces.

    Raises:
        ValueError: a name without words, two of the same words, or texts that the pair
            cannot read.
    """
    texts = spoken(classes)
    for name, text in zip(classes, texts, strict=True):
        same = [n for n, own in zip(classes, texts, strict=True) if own == text]
        if not text or len(same) > 1:
            raise ValueError(
                f"got the classes {listed(same)}, whose text is {text!r}, expected "
                "words of its own for each class ('_' and '-' are blanks); rename "
                f"{name!r}"
            )
    return classifier(pair, texts, templates)


def written(templates: Sequence[str]) -> str:
    """Templates as a program's card has them: a line each."""
    return "\n".join(templates)


def read(template: str) -> list[str]:
    """The templates of a program's card."""
    return template.split("\n")


# -- what needs no prompt


class Towers(NamedTuple):
    """A pair, and its classifiers that answer without a prompt."""

    pair: Pair
    unprompted: dict[str, tuple[Model[Any], dict[str, str]]]
    """{row: the classifier, what of a program's card is its own}"""


def towers(pair: Pair, classes: Sequence[str], templates: Sequence[str]) -> Towers:
    """The pair with the classifiers of the given templates, and of its ensemble.

    Raises:
        ValueError: a name in one of them is a text that the pair cannot read.
    """
    found = {}
    for row, own in ((ZERO_SHOT, templates), (ENSEMBLE, pair.ensemble)):
        model = bound(pair, classes, own)
        about = {"template": written(own), "fingerprint": model.fingerprint}
        found[row] = model, about
    return Towers(pair, found)


def unprompted_accuracy(
    model: Model[Any], seen: Mapping[str, Outputs]
) -> dict[str, float]:
    """{split: accuracy} of a pair's classifier on features of the images."""
    named = of_classes(model.frozen["texts"].features, model.frozen["texts"])
    answer = jax.jit(lambda features: compare(model.frozen, features, named))
    found = {n: np.asarray(answer(one.features)).argmax(-1) for n, one in seen.items()}
    return {n: float((found[n] == one.labels).mean()) for n, one in seen.items()}


def nearest(seen: Mapping[str, Outputs]) -> dict[str, float]:
    """{split: accuracy} of the label of the training image whose features point in the
    most similar direction."""
    wide = {n: one.features.astype(np.float32) for n, one in seen.items()}
    given, found = (wide.pop("train"), seen["train"].labels), {}
    for name, asked in wide.items():
        answers = controls.nearest(*given, asked, "cosine")
        found[name] = float((answers == seen[name].labels).mean())
    return found


# -- training


def quicker(
    program: Program, model: Model[Any], task: Task, only: Sequence[str] = ()
) -> tuple[Any, Any, Task]:
    """The arguments of `fit`: with what the images give below the lowest edit computed
    once, if a program learns at texts first and does not read the images there.

    Args:
        only: sites where this is done; by default any.
    """
    given = program, model.frozen, task
    if not in_texts(program, model, task):
        return given
    try:  # to ask is all: what fails while values are computed has to be seen
        site = cache_site(*given[:2], images_of(task))
    except ValueError:  # its prompts are made of the images, as CoCoOp's
        return given
    if only and site not in only:
        return given
    return cached(*given, batch=BATCH, progress=False)


def in_texts(program: Program, model: Model[Any], task: Task) -> bool:
    """Whether a program learns at sites of texts alone."""
    spec = learnable_shapes(program, model, task)
    at = [site for site, leaves in spec.items() if jax.tree.leaves(leaves)]
    return all(site.startswith("text/") for site in at)


def learnable_shapes(program: Program, model: Model[Any], task: Task) -> Any:
    """{site: what a program learns there}, without computing it."""
    x = images_of(task)
    start = lambda key: program.init(key, model.frozen, x)
    return jax.eval_shape(start, jax.random.key(0)).learnable


def images_of(task: Task) -> jax.ShapeDtypeStruct:
    """An image of the task, without its pixels."""
    return jax.ShapeDtypeStruct((1, *task.test.x.shape[1:]), task.test.x.dtype)
