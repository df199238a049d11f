"""The program that a file names, built again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.alignments import label_words
from reprojax.core import Params, Program, PyTree, tokens
from reprojax.core.guards import nearest
from reprojax.core.trees import fingerprint
from reprojax.formats import learnable
from reprojax.models.card import Backbone
from reprojax.models.language import LanguageModel
from reprojax.recipes import find_alignment, find_method
from reprojax.recipes.model_reprogramming import additive_prompt
from reprojax.recipes.prompt_tuning import (
    black_box_tuning,
    decomposed_prompt_tuning,
    loreft,
    p_tuning_v2,
    prefix_tuning,
    prompt_tuning,
)
from reprojax.saving.programs import Card, Saved, check_backbone


def rebuild(saved: Saved, backbone: Backbone | LanguageModel) -> tuple[Program, Params]:
    """The program of a recipe that a file names, with its params.

    `card.method` and `card.arguments` say which; among the arguments "alignment" is a
    name of `recipes.ALIGNMENTS`, or None for the recipe's own. Of a language model the
    method is one of `ON_TEXT`, and the argument "labels" holds the ids of
    `label_words`; without them it writes. Refuses a backbone of other weights, or one
    that treats pixels otherwise.
    """
    check_backbone(saved.card, backbone.name, fingerprint(backbone.frozen))
    on = _on_text if isinstance(backbone, LanguageModel) else _on_images
    program, x = on(saved.card, backbone)
    return program, saved.params_for(program, backbone.frozen, x)


def _on_images(card: Card, backbone: Any) -> tuple[Program, PyTree]:
    came = (backbone.size, tuple(backbone.mean), tuple(backbone.std))
    expected = (card.size, tuple(card.mean), tuple(card.std))
    if came != expected:
        raise ValueError(
            f"{backbone.name} came with (size, mean, std) = {came}, expected "
            f"{expected}, with which the program was made; call models.load(..., "
            "size=..., mean=..., std=...)"
        )
    arguments = dict(card.arguments)
    name, targets = arguments.pop("alignment", None), len(card.classes)
    align = None if name is None else find_alignment(name).build(targets)
    program = find_method(card.method).build(backbone, targets, align, **arguments)
    return program, jax.ShapeDtypeStruct((1, *card.image), jnp.uint8)


def _headless(recipe: Callable[..., Program], **more: Any) -> Callable[..., Program]:
    """One that needs no number of targets."""
    return lambda language, targets, align, **sizes: recipe(
        language, align, **sizes, **more
    )


_blank = learnable(jax.nn.initializers.zeros)  # no start is drawn, to be thrown away


ON_TEXT: dict[str, Callable[..., Program]] = {
    "prompt-tuning": _headless(prompt_tuning, initial=_blank),
    "prefix-tuning": _headless(prefix_tuning),
    "p-tuning-v2": p_tuning_v2,
    "loreft": _headless(loreft),
    "decomposed-prompt-tuning": _headless(decomposed_prompt_tuning, initial=_blank),
    "black-box-tuning": _headless(black_box_tuning),
    "additive-prompt": _headless(additive_prompt),
}
"""What `rebuild` knows of language models: (language, targets, align, **sizes)."""


def _on_text(card: Card, language: Any) -> tuple[Program, PyTree]:
    if card.method not in ON_TEXT:
        raise ValueError(
            f"the card's method is {card.method!r}, expected one of "
            f"{', '.join(ON_TEXT)}{nearest(card.method, ON_TEXT)}; build the program "
            "yourself and call saved.params_for(program, frozen, x)"
        )
    arguments = dict(card.arguments)
    labels = arguments.pop("labels", None)
    align = None if labels is None else label_words(labels)
    targets = len(card.classes)
    program = ON_TEXT[card.method](language, targets, align, **arguments)
    return program, jax.eval_shape(lambda: tokens(jnp.zeros((1, 1), jnp.int32)))
