"""What a method is besides its program: its needs and its paper's training settings."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from types import UnionType
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import numpy as np
import optax

from reprojax.core import Manipulation, Params, Program
from reprojax.core.names import kinds_text
from reprojax.models import Model, role
from reprojax.searches import Search
from reprojax.training.losses import Loss, cross_entropy
from reprojax.training.runs import Evaluated


class Preset(NamedTuple):
    """The paper's training settings, where the paper or its code states them."""

    optimizer: Callable[[float, int, int], optax.GradientTransformation]
    """(learning rate, steps an epoch, epochs) -> optimiser with its schedule."""
    learning_rate: float
    epochs: int
    batch: int
    loss: Loss = cross_entropy
    sites: tuple[str, ...] = ()
    """What the loss reads besides the answer: `fit(record_sites=...)`."""
    evaluated: Evaluated | None = None
    """What of the optimiser's state is evaluated: `fit(evaluated=...)`."""


class BlackBox(NamedTuple):
    """The paper's search for a model that only answers, under a budget of queries."""

    search: Callable[[float, int], Search]
    """(learning rate, steps an epoch) -> search"""
    learning_rate: float
    batch: int
    loss: Callable[[np.ndarray, int], Loss]
    """(training labels, number of target classes) -> loss"""


Access = Literal["gradients", "activations", "answers", "texts"]
P = ParamSpec("P")
R = TypeVar("R")


class Needs(NamedTuple):
    """What a method needs of a frozen model."""

    input: type | UnionType = object
    """The kind of its input: `Pixels`, `Pixels | Series`; any by default."""
    roles: tuple[str, ...] = ()
    """Sites that its card names."""
    access: Access = "gradients"
    """Gradients through it, values inside it, its answers to inputs, or to texts."""

    @property
    def of_texts(self) -> bool:
        """Whether it needs the text tower of a pair."""
        return any(name.startswith("text_") for name in self.roles)


def needs(
    input: type | UnionType, *roles: str, access: Access = "gradients"
) -> Callable[[Callable[P, Program]], Callable[P, Program]]:
    """Mark a recipe `(model, align=None, **sizes) -> Program` with what it needs.

    The marked recipe checks its arguments before it builds anything. An integer in
    place of the alignment is a number of classes: recipe(model, 10) means recipe(model,
    targets=10).

    Raises:
        ValueError: when called, if the model is not a card, its kind of input is wrong,
            it lacks one of the roles, or the alignment is not a Manipulation.
    """
    own = Needs(input, roles, access)

    def mark(recipe: Callable[P, Program]) -> Callable[P, Program]:
        counted = "targets" in signature(recipe).parameters

        @wraps(recipe)
        def build(*args: P.args, **kw: P.kwargs) -> Program:
            named = zip(("model", "align"), args, strict=False)
            given: dict[str, Any] = {**dict(named), **kw}
            _check_model(recipe.__name__, given.get("model"), own)
            number = given.get("align")
            if isinstance(number, int) and counted and "targets" not in kw:
                given |= {"align": None, "targets": number}
                return recipe(**given)  # pyright: ignore[reportCallIssue]
            _check_align(recipe.__name__, given.get("align"))
            return recipe(*args, **kw)

        build.needs = own  # pyright: ignore[reportAttributeAccessIssue]
        return build

    return mark


def on_texts(recipe: Callable[P, R]) -> Callable[P, R]:
    """Mark a recipe whose frozen model is a `Language`, which takes and gives texts.
    It is built from a template, without the model."""
    recipe.needs = Needs(access="texts")  # pyright: ignore[reportFunctionMemberAccess]
    return recipe


def _check_model(who: str, model: Any, own: Needs) -> None:
    if not isinstance(model, Model):
        raise ValueError(
            f"{who} got {type(model).__name__} for the model, expected a card: "
            "models.load(name), or models.card(network, frozen, ...) of your own"
        )
    if not isinstance(model.input, own.input):
        raise ValueError(
            f"{who} got {model.name}, whose input is {type(model.input).__name__}, "
            f"expected a model of {kinds_text(own.input)}; `recipes.methods(model)` "
            "lists what fits a model"
        )
    for name in own.roles:
        role(model, name, who)


def _check_align(who: str, align: Any) -> None:
    if align is not None and not isinstance(align, Manipulation):
        raise ValueError(
            f"{who} got {align!r:.60} for the alignment, expected one, such as "
            f"alignments.bayesian(10); of a number of classes: {who}(model, targets=10)"
        )


def aligned(
    align: Manipulation | None,
    targets: int | None,
    own: Callable[[int], Manipulation],
) -> Manipulation:
    """The given alignment, or else the method's own for that many classes."""
    if (align is None) == (targets is None):
        came = "neither" if align is None else "both"
        raise ValueError(
            f"got {came} of align and targets, expected one: an alignment, or the "
            "number of classes for the method's own: recipe(model, targets=10)"
        )
    return own(targets) if align is None else align  # pyright: ignore[reportArgumentType]


class Method(NamedTuple):
    """A recipe with its name, its paper and the paper's settings."""

    name: str
    build: Callable[..., Program]
    """(model, align=None, **sizes) -> program"""
    source: str
    """The paper, the origin of the preset, and what differs from the paper."""
    enters: str
    """Where the prompt enters: "before normalisation", "in front of the words", ..."""
    preset: Preset | BlackBox | None = None
    """None: the method has nothing to train or search."""
    alignment: str | None = None
    """The paper's own of `ALIGNMENTS`; None: the recipe has one, or needs none."""
    probable: bool = False
    """Whether its loss takes log-probabilities, which not all alignments give."""
    start: Callable[..., Params] | None = None
    """(program, model, training split, seed) -> first params, if they depend on the
    training images, such as clusters of these; None: `program.init` draws them."""
    template: str | None = None
    """Of a pair's texts, if learned words stand for all but the name: "{}."; "" if the
    pair is bound to descriptions instead; None: any template of the caller's."""

    @property
    def needs(self) -> Needs:
        """What `needs` marked the recipe with; without a mark, no requirements."""
        return getattr(self.build, "needs", Needs())
