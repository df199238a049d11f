"""The register: every method and alignment by name, and programs built again by it.

The command line, `rebuild`, the tables of the documents and the taxonomy read it. One
of your own joins by one call, and is then used as ours are:

    recipes.register(Method("mine", mine, source="...", enters="at the input",
                            preset=Preset(lambda rate, steps, epochs: optax.adam(rate),
                                          .01, epochs=10, batch=64)))
"""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from reprojax.alignments import (
    bayesian,
    bayesian_plus,
    label_words,
    linear,
    mean_probability,
    one_to_one,
    random_map,
)
from reprojax.core import Params, Program, PyTree
from reprojax.core.guards import nearest
from reprojax.core.trees import fingerprint
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.recipes.controls import NO_PROMPT, PROBE
from reprojax.recipes.method import Alignment, BlackBox, Method, Preset, first
from reprojax.recipes.model_reprogramming.additive_prompts import METHOD as ADDITIVE
from reprojax.recipes.model_reprogramming.adversarial_reprogramming import METHOD as AR
from reprojax.recipes.model_reprogramming.black_box_reprogramming import METHOD as BAR
from reprojax.recipes.model_reprogramming.label_mapping import PADDING, WATERMARK
from reprojax.recipes.model_reprogramming.sample_specific_masks import METHOD as SMM
from reprojax.recipes.model_reprogramming.visual_prompting import METHOD as VP
from reprojax.recipes.model_reprogramming.vocabulary_remapping import (
    METHOD as REMAPPING,
)
from reprojax.recipes.prompt_instruction.in_context import FEW_SHOT, KATE, ZERO_SHOT
from reprojax.recipes.prompt_instruction.reasoning import (
    CHAIN_OF_THOUGHT,
    SELF_CONSISTENCY,
    ZERO_SHOT_CHAIN_OF_THOUGHT,
)
from reprojax.recipes.prompt_tuning.activation_addition import METHOD as STEERING
from reprojax.recipes.prompt_tuning.black_box_tuning import METHOD as BBT
from reprojax.recipes.prompt_tuning.black_box_visual_prompting import METHOD as BLACKVIP
from reprojax.recipes.prompt_tuning.decomposed_prompt_tuning import METHOD as DEPT
from reprojax.recipes.prompt_tuning.hidden_edits import METHOD as LOREFT
from reprojax.recipes.prompt_tuning.p_tuning_v2 import METHOD as V2
from reprojax.recipes.prompt_tuning.prefixes import METHOD as PREFIX
from reprojax.recipes.prompt_tuning.soft_prompts import METHOD as PROMPT
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import DEEP, SHALLOW
from reprojax.saving.programs import Card, Saved, check_backbone

T = TypeVar("T")
_BLANK = learnable(jax.nn.initializers.zeros)  # no start is drawn, to be thrown away

METHODS: dict[str, Method] = {}
"""By name; `register` adds to them."""

ALIGNMENTS: dict[str, Alignment] = {
    "first": Alignment(first, "once"),
    "rlm": Alignment(random_map, "once"),
    "flm": Alignment(one_to_one, "once"),
    "ilm": Alignment(one_to_one, "epoch"),
    "blm": Alignment(bayesian, "epoch"),
    "blm+": Alignment(bayesian_plus, "epoch"),
    "bar": Alignment(mean_probability, "once"),
    "linear": Alignment(
        lambda targets: linear(targets, bias=False), "once", probable=False
    ),
}


def register(method: Method) -> Method:
    """Adds a method of your own under its name, and gives it back.

    Raises:
        ValueError: a name that is taken by another method; what is no `Method`, or
            whose parts are not what they should be.
    """
    if not isinstance(method, Method) or not callable(method.build):
        raise ValueError(
            f"got {method!r:.80}, expected a Method(name, recipe, source=..., "
            "enters=...), its recipe a function (model, align=None, **sizes) -> Program"
        )
    if not isinstance(method.preset, Preset | BlackBox | None):
        raise ValueError(
            f"{method.name} got the preset {method.preset!r:.60}, expected "
            "Preset(optimizer, learning_rate, epochs, batch), BlackBox(...) or None"
        )
    if method.alignment is not None:
        find_alignment(method.alignment)
    if METHODS.setdefault(method.name, method) != method:
        raise ValueError(
            f"a method {method.name!r} is there already, expected another name for "
            f"{method.build.__name__}"
        )
    return method


def methods(model: Model[Any] | type | None = None) -> dict[str, Method]:
    """All methods, or those that fit a model, or a kind of input such as `Pixels`."""
    if model is None:
        return dict(METHODS)
    kind = model if isinstance(model, type) else type(model.input)
    roles = None if isinstance(model, type) else model.roles

    def fits(method: Method) -> bool:
        own = method.needs
        named = roles is None or all(roles.get(name) for name in own.roles)
        return own.access != "texts" and issubclass(kind, own.input) and named

    return {name: method for name, method in METHODS.items() if fits(method)}


def _find(kind: str, name: str, table: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in table:
        raise ValueError(
            f"no {kind} {name!r}{nearest(str(name), table)}; expected one of "
            f"{', '.join(table)}"
        )
    return table[name]


def find_method(name: str) -> Method:
    """The method of a name, or an error with the nearest names."""
    return _find("method", name, METHODS)


def find_alignment(name: str) -> Alignment:
    """The alignment of a name, or an error with the nearest names.

    "blm+15" is BLM+ that counts the 15 largest probabilities of each answer.
    """
    if isinstance(name, str) and name.startswith("blm+") and name[4:].isdecimal():
        k = int(name[4:])
        return Alignment(lambda targets: bayesian_plus(targets, k), "epoch")
    return _find("alignment", name, ALIGNMENTS)


def build(
    name: str,
    model: Model[Any],
    targets: int,
    alignment: str | None = None,
    **arguments: Any,
) -> Program:
    """The program of a method by its name, for so many classes.

    Args:
        alignment: a name of `ALIGNMENTS`; by default the method's own.
        arguments: of the recipe. "labels" are the ids of `label_words`, in the place of
            an alignment; a recipe of language models without them writes.
    """
    method = find_method(name)
    labels = arguments.pop("labels", None)
    if alignment is not None:
        align = find_alignment(alignment).build(targets)
        return method.build(model, align, **arguments)
    if labels is not None:
        return method.build(model, label_words(labels), **arguments)
    if "targets" in inspect.signature(method.build).parameters:
        arguments["targets"] = targets
    return method.build(model, **arguments)


def rebuild(
    saved: Saved, model: Model[Any], x: PyTree = None, context: PyTree = None
) -> tuple[Program, Params]:
    """The program of a registered method that a file names, with its params.

    `card.method` and `card.arguments` say which, as `build` takes them. Refuses a model
    of other weights, or one that treats pixels otherwise.

    Args:
        x: a row of the task's input, or its spec, where it is not what the model reads;
            by default the card's image, or the model's own example.
        context: of that row, where the program's params hang on its shape.
    """
    card = saved.card
    check_backbone(card, model.name, fingerprint(model.frozen))
    _check_pixels(card, model)
    given = dict(card.arguments)
    if "initial" in inspect.signature(find_method(card.method).build).parameters:
        given.setdefault("initial", _BLANK)
    program = build(card.method, model, len(card.classes), **given)
    x = _row(card, model) if x is None else x
    return program, saved.params_for(program, model.frozen, x, context)


def _check_pixels(card: Card, model: Model[Any]) -> None:
    if not isinstance(model.input, Pixels):
        return
    came = (model.input.size, tuple(model.input.mean), tuple(model.input.std))
    expected = (card.size, tuple(card.mean), tuple(card.std))
    if came != expected:
        raise ValueError(
            f"{model.name} came with (size, mean, std) = {came}, expected "
            f"{expected}, with which the program was made; call models.load(..., "
            "size=..., mean=..., std=...)"
        )


def _row(card: Card, model: Model[Any]) -> PyTree:
    """The spec of the program's input: the task's images, or what the model reads."""
    if card.image:
        return jax.ShapeDtypeStruct((1, *card.image), jnp.uint8)
    return model.input.example()


for _method in (
    AR,
    VP,
    PADDING,
    WATERMARK,
    SMM,
    SHALLOW,
    DEEP,
    BAR,
    BLACKVIP,
    NO_PROMPT,
    PROBE,
    PROMPT,
    PREFIX,
    V2,
    LOREFT,
    STEERING,
    BBT,
    REMAPPING,
    DEPT,
    ADDITIVE,
    ZERO_SHOT,
    FEW_SHOT,
    KATE,
    CHAIN_OF_THOUGHT,
    ZERO_SHOT_CHAIN_OF_THOUGHT,
    SELF_CONSISTENCY,
):
    register(_method)
