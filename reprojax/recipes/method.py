"""What a method is besides its program: what it needs, and how its paper trains it."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar

import jax.numpy as jnp
import numpy as np
import optax

from reprojax.alignments import columns
from reprojax.core import Manipulation, Program
from reprojax.core.estimation import Refresh
from reprojax.models import Model
from reprojax.searches import Search
from reprojax.training.losses import Loss, cross_entropy


class Preset(NamedTuple):
    """The paper's own training settings, as far as they could be read."""

    optimizer: Callable[[float, int, int], optax.GradientTransformation]
    """(learning rate, steps an epoch, epochs) -> optimiser with its schedule."""
    learning_rate: float
    epochs: int
    batch: int
    loss: Loss = cross_entropy


class BlackBox(NamedTuple):
    """The paper's own search, where the model only answers and a budget ends it."""

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

    input: type = object
    """The kind of its input: `Pixels`, `Words`; any by default."""
    roles: tuple[str, ...] = ()
    """Sites that its card names."""
    access: Access = "gradients"
    """Gradients through it; values inside it; its answers to inputs, or to texts."""


def needs(
    input: type, *roles: str, access: Access = "gradients"
) -> Callable[[Callable[P, Program]], Callable[P, Program]]:
    """Marks a recipe `(model, align=None, **sizes) -> Program` by what it needs, and
    has what it is called with checked before anything is built. A whole number in the
    alignment's place is a number of classes: recipe(model, 10) is recipe(model,
    targets=10).

    Raises:
        ValueError: no model's card, one of another kind of input, one that does not
            name the roles; what is no alignment in the place of one.
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
    """Marks a recipe whose frozen model is a `Language`, which is asked by texts: it is
    built from a template, without the model."""
    recipe.needs = Needs(access="texts")  # pyright: ignore[reportFunctionMemberAccess]
    return recipe


def _check_model(who: str, model: Any, own: Needs) -> None:
    if not isinstance(model, Model):
        raise ValueError(
            f"{who} got {type(model).__name__} for the model, expected a card: "
            "models.load(name), or models.card(network, frozen, ...) of one's own"
        )
    if not isinstance(model.input, own.input):
        raise ValueError(
            f"{who} got {model.name}, whose input is {type(model.input).__name__}, "
            f"expected a model of {own.input.__name__}; `recipes.methods(model)` lists "
            "what fits a model"
        )
    if lacking := [name for name in own.roles if not model.roles.get(name)]:
        raise ValueError(
            f"{model.name} has the roles {sorted(model.roles)}, expected "
            f"{lacking[0]!r} among them for {who}; name its sites in the card's roles"
        )


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
    """The alignment that was given, or the method's own for that many classes."""
    if (align is None) == (targets is None):
        came = "neither" if align is None else "both"
        raise ValueError(
            f"{came} of align and targets came, expected one: an alignment, or the "
            "number of classes for the method's own: recipe(model, targets=10)"
        )
    return own(targets) if align is None else align  # pyright: ignore[reportArgumentType]


def first(targets: int) -> Manipulation:
    """The model's first classes: the map of arXiv 1806.11146 and 2203.17274."""
    return columns(range(targets))


class Method(NamedTuple):
    """A recipe under its name, with its paper and its paper's settings."""

    name: str
    build: Callable[..., Program]
    """(model, align=None, **sizes) -> program"""
    source: str
    """The paper, where the preset is from, and what differs from it."""
    enters: str
    """Where the prompt enters: "before normalisation", "in front of the words", ..."""
    preset: Preset | BlackBox | None = None
    """None: nothing is searched for."""
    alignment: str | None = None
    """The paper's own of `ALIGNMENTS`; None: the recipe brings one, or needs none."""
    probable: bool = False
    """Whether its loss is of log probabilities, which not every alignment gives."""

    @property
    def needs(self) -> Needs:
        """What `needs` marked the recipe with; nothing in particular if it did not."""
        return getattr(self.build, "needs", Needs())


class Alignment(NamedTuple):
    """An alignment, and when its map is estimated."""

    build: Callable[[int], Manipulation]
    """number of target classes -> manipulation of "output" """
    refresh: Refresh
    probable: bool = True
    """Of log probabilities it makes log probabilities, or weighted means of them."""


def adam_in_steps(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam, its rate times .1 after 50 % and again after 72 % of the epochs.

    The schedule of iterative label mapping (arXiv 2211.11635).
    """
    at = {int(0.5 * epochs) * steps: 0.1, int(0.72 * epochs) * steps: 0.1}
    return optax.adam(optax.piecewise_constant_schedule(learning_rate, at))


def adam_decayed(b1: float = 0.9) -> Callable[..., optax.GradientTransformation]:
    """Adam, its rate times .96 every two epochs.

    The schedule of adversarial reprogramming (arXiv 1806.11146).
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        rate = optax.exponential_decay(learning_rate, 2 * steps, 0.96, staircase=True)
        return optax.adam(rate, b1=b1)

    return optimizer


def sgd_cosine(
    warmup: int | float, clip: float | None = None
) -> Callable[..., optax.GradientTransformation]:
    """SGD, momentum .9, a warm-up and a cosine to zero.

    The schedule of visual prompting (arXiv 2203.17274), of VPT (arXiv 2203.12119) with
    another warm-up and a clip. Step k of a warm-up of n has (k + 1) / n of the rate.

    Args:
        warmup: its steps, but a tenth of the run at most (1000, as published, would be
            all of a short run, which never came to its rate); or, below 1, its share.
        clip: the largest norm of a gradient.
    """

    def optimizer(
        learning_rate: float, steps: int, epochs: int
    ) -> optax.GradientTransformation:
        total = steps * epochs
        warm = int(total * warmup) if warmup < 1 else min(warmup, total // 10)

        def schedule(step: Any) -> Any:
            part = (step - warm) / max(total - warm, 1)
            down = (1 + jnp.cos(jnp.pi * part)) / 2
            up = (step + 1) / max(warm, 1)
            return learning_rate * jnp.where(step < warm, up, down)

        sgd = optax.sgd(schedule, momentum=0.9)
        return optax.chain(optax.clip_by_global_norm(clip), sgd) if clip else sgd

    return optimizer
