"""The registry: methods and alignments by name, and programs rebuilt from their files.

The command line, `rebuild`, the tables of the documents and the taxonomy read it. One
call adds a method of your own, which is then used like ours:

>>> adam = lambda rate, steps, epochs: optax.adam(rate)
>>> preset = Preset(adam, .01, epochs=10, batch=64)
>>> own = recipes.register(Method("mine", mine, "our report", "at the input", preset))
>>> program = recipes.build("mine", backbone, targets=3)
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.alignments import label_words
from reprojax.alignments.named import find_alignment
from reprojax.core import Params, Program, PyTree
from reprojax.core.guards import find
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.models.image_text import Pair
from reprojax.recipes.method import BlackBox, Method, Preset
from reprojax.saving.programs import Card, Saved, check_backbone

_BLANK = learnable(jax.nn.initializers.zeros)  # cheap: the saved params replace it

METHODS: dict[str, Method] = {}
"""{name: method}; `register` adds to it."""


def register(method: Method) -> Method:
    """Add a method of your own under its name, and return it.

    Raises:
        ValueError: another method has the name; it is not a `Method`; or its preset,
            recipe or alignment is of a wrong kind.
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
            f"a method named {method.name!r} is registered already, expected another "
            f"name for {method.build.__name__}"
        )
    return method


def methods(model: Model[Any] | type | None = None) -> dict[str, Method]:
    """All methods, or those that fit a model, or a kind of input such as `Pixels`.

    A kind alone has no text tower; `Pair` has one, besides `Pixels`.
    """
    if model is None:
        return dict(METHODS)
    towers = model is Pair
    kind = model if isinstance(model, type) else type(model.input)
    kind = Pixels if towers else kind
    roles = None if isinstance(model, type) else model.roles

    def fits(method: Method) -> bool:
        own = method.needs
        if roles is None:
            named = towers or not own.of_texts
        else:
            named = all(roles.get(name) for name in own.roles)
        return own.access != "texts" and issubclass(kind, own.input) and named

    return {name: method for name, method in METHODS.items() if fits(method)}


def find_method(name: str) -> Method:
    """The method of a name; raise with the nearest names if there is none."""
    do = "; register one of your own first (for a command: --methods FILE)"
    return find("method", name, METHODS, do)


def build(
    name: str,
    model: Model[Any],
    targets: int,
    alignment: str | None = None,
    **arguments: Any,
) -> Program:
    """The program of a method, by its name, for that number of classes.

    Args:
        alignment: a name of `ALIGNMENTS`; by default the method's own.
        arguments: of the recipe. "labels" are ids for `label_words` instead of an
            alignment; without them a language model's recipe gives Tokens of logits.
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
    """The program of the registered method that a file names, with its params.

    `card.method` and `card.arguments` are the arguments of `build`. A model with other
    weights or another treatment of pixels raises ValueError.

    Args:
        x: a row of the task's input, or its spec, if it differs from the model's input;
            by default the card's image, or the model's own example.
        context: of that row, if shapes of the program's params depend on it.
    """
    card = saved.card
    check_backbone(card, model.name, model.fingerprint)
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
            f"got {model.name} with (size, mean, std) = {came}, expected {expected}, "
            "with which the program was trained; call models.load(..., size=..., "
            "mean=..., std=...)"
        )


def _row(card: Card, model: Model[Any]) -> PyTree:
    """The spec of the program's input: the task's images, or what the model reads."""
    if card.image:
        return jax.ShapeDtypeStruct((1, *card.image), jnp.uint8)
    return model.input.example()
