"""Prompt-aligned gradients, ProGrad (Zhu et al., arXiv 2205.14865)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    chain,
    reprogram,
)
from reprojax.core.vectors import unit
from reprojax.models import Model, Pixels, role
from reprojax.models.image_text.starts import check_first_words, from_first_words
from reprojax.operators import insert, replace
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    class_features,
    sized,
)
from reprojax.recipes.registry import register
from reprojax.training.losses import Loss, Seen, cross_entropy
from reprojax.training.optimizers import sgd_by_epochs

FEATURES, IMAGE = "text/features", "image/features"
TEACHER = f"{FEATURES}/teacher"


@needs(Pixels, "text_embedding", "features")
def prograd(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 16,
    words: int = 4,
    initial: Format | None = None,
    augment: bool = False,
) -> Program:
    """Learned words whose gradient does not act against zero-shot (arXiv 2205.14865).

    They take the place of the template's own, "a photo of a", and of room in front of
    these; they start as zeros and the words. `agreeing` makes the optimiser of the
    method, and `two_losses` its loss.

    Args:
        length: P, learned words.
        words: how many of them stand in place of the template's.
        initial: by default zeros in front of the template's own words.
        augment: in training, a random part of each image and a mirror, as published.
    """
    check_classes(model, targets)
    if not 0 < words <= length:
        raise ValueError(
            f"prograd got words={words} of {length} in place of the template's, "
            f"expected 1 to {length}; give a larger length"
        )
    check_first_words(model, words, "prograd")
    (site,) = role(model, "text_embedding")
    start = from_first_words(model, words) if initial is None else initial
    prompt = replace(start, length, at=1)
    if room := length - words:
        prompt = chain(room=insert(_blank(), room, at=1), words=prompt)
    at = {"input": sized(model, augment), site: prompt}
    at |= {FEATURES: with_teacher()}
    return reprogram(model.forward, at, align)


def _blank() -> Format:
    """Zeros, in whose place learned words stand."""

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        return Params(fixed=jnp.zeros(shape))

    def read(params: Params, value: PyTree, scope: Scope) -> Array:
        return params.fixed

    return Format(init, read)


def with_teacher() -> Manipulation:
    """The texts' features unchanged; taps "teacher" [T J], the classes' unit features
    times the pair's scale (ProGrad, arXiv 2205.14865).

    The learnable number "which" chooses the loss of `two_losses`; no gradient moves it.
    """

    def init(key: Key, spec: PyTree, scope: Scope) -> Params:
        return Params({"which": jnp.zeros(())}, class_features(scope.frozen))

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        scope.tap("teacher", jnp.exp(scope.frozen["scale"]) * params.fixed)
        return value

    return Manipulation(init, apply)


def two_losses(temperature: float = 1.0) -> Loss:
    """Cross entropy with the labels; where "which" is 1, with zero-shot's answer
    (ProGrad, arXiv 2205.14865).

    The second is that of both divided by the temperature, times its square.
    """

    def loss(seen: Seen) -> Array:
        which = jax.lax.stop_gradient(seen.learnable[FEATURES]["which"])
        image = unit(seen.recorded[IMAGE].astype(jnp.float32))
        teacher = image @ seen.recorded[TEACHER].T.astype(jnp.float32)
        student = seen.output.astype(jnp.float32)
        right = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
        general = -(right * jax.nn.log_softmax(student / temperature)).sum(-1)
        kept = (1 - which) * cross_entropy(seen)
        return kept + which * temperature**2 * general

    return loss


def agreeing(
    inner: optax.GradientTransformation, strength: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """An optimiser for `two_losses`: no leaf moves against its second gradient
    (ProGrad, arXiv 2205.14865).

    Where the product of a leaf's two gradients is negative, the first loses `strength`
    times its part along the second. The training step hands on the loss as a function,
    which computes the whole batch: `accumulate` saves no memory of the second gradient,
    and with `augment` that one is of other random parts of the images.
    """
    inner = optax.with_extra_args_support(inner)

    def update(
        grads: PyTree, state: Any, params: PyTree = None, *, value_fn: Any, **extra: Any
    ) -> tuple[PyTree, Any]:
        other = jax.grad(value_fn)(_chosen(params, 1.0))
        grads = jax.tree.map(lambda a, b: _projected(a, b, strength), grads, other)
        return inner.update(grads, state, params, **extra)

    made: Any = update  # optax's protocol does not name the extra arguments
    return optax.GradientTransformationExtraArgs(inner.init, made)


def _projected(a: Array, b: Array, strength: float) -> Array:
    along = (a * b).sum()
    part = along / jnp.maximum((b * b).sum(), 1e-30) * b
    return jnp.where(along < 0, a - strength * part, a)


def _chosen(learnable: PyTree, which: float) -> PyTree:
    own = learnable[FEATURES] | {"which": jnp.full((), which)}
    return {**learnable, FEATURES: own}


def agreeing_sgd(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """`agreeing` around CoOp's SGD (ProGrad, arXiv 2205.14865)."""
    return agreeing(sgd_by_epochs(learning_rate, steps, epochs))


METHOD = Method(
    "prograd",
    prograd,
    preset=Preset(
        agreeing_sgd,
        0.002,
        epochs=100,
        batch=32,
        loss=two_losses(),
        sites=(IMAGE, TEACHER),
    ),
    enters="in front of the names of classes",
    source="arXiv 2205.14865 and BeierZhu/Prompt-align: 16 words that end in the "
    "template's own, strength 1, temperature 1, batches of 32, 100 epochs for 4 images "
    "a class. Its parts and mirrors of images are `augment`.",
)
register(METHOD)
