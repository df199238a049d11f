"""Test-time prompt tuning, TPT (Shu et al., arXiv 2209.07511)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Shaped

from reprojax.core import (
    Format,
    Given,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    reprogram,
)
from reprojax.models import Model, Pixels, role
from reprojax.operators import parts, replace, resize
from reprojax.recipes.method import Method, needs
from reprojax.recipes.prompt_tuning.names_of_classes import (
    check_classes,
    template_words,
)
from reprojax.recipes.registry import register
from reprojax.training.losses import Seen
from reprojax.training.steps import begin, train_step

ADAMW = optax.adamw(0.005, weight_decay=0.01)


@needs(Pixels, "text_embedding")
def tpt(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 4,
    initial: Format | None = None,
) -> Program:
    """Learned words that are tuned anew for each test image (arXiv 2209.07511).

    They take the place of the template's own, "a photo of a", and start there. `tuned`
    makes the params for one image from `views` of it; no label is needed.

    Args:
        length: P, words of the template that are replaced.
        initial: by default the template's own words.
    """
    check_classes(model, targets)
    (site,) = role(model, "text_embedding")
    words = replace(template_words(model, length, initial, "tpt"), length, at=1)
    at = {"input": resize(model.input.size), site: words}
    return reprogram(model.forward, at, align)


def tuned(
    program: Program,
    params: Params,
    frozen: PyTree,
    views: Shaped[Given, "V H W C"],
    *,
    share: float = 0.1,
    steps: int = 1,
    optimizer: optax.GradientTransformation = ADAMW,
) -> Params:
    """Params for one image: steps down the entropy of the surest views' mean answer
    (TPT, arXiv 2209.07511).

    The params given stay as they are, for the next image.

    Args:
        share: how many of the views count, those with the least entropy at the start.
    """
    sure = surest(_answers(program, params, frozen, views), share)
    chosen = jnp.asarray(views)[sure]
    state = begin(program, optimizer, frozen, chosen, params=params)
    blank = jnp.zeros(len(chosen), jnp.int32)  # labels, which are not read
    for _ in range(steps):
        state = train_step(
            program, optimizer, mean_entropy, (), state, frozen, chosen, blank
        )
    return state.params


@partial(jax.jit, static_argnums=0)
def _answers(program: Program, params: Params, frozen: PyTree, x: PyTree) -> Any:
    return program.apply(params, frozen, x)


def surest(logits: Float[Array, "V T"], share: float) -> Int[Array, "N"]:
    """The rows of least entropy, the surest first: that share of them, at least one
    (TPT, arXiv 2209.07511)."""
    log = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(log) * log).sum(-1)
    return jnp.argsort(entropy)[: max(1, int(len(logits) * share))]


def mean_entropy(seen: Seen) -> Float[Array, ""]:
    """The entropy of the mean of the rows' probabilities (TPT, arXiv 2209.07511)."""
    each = jax.nn.log_softmax(seen.output.astype(jnp.float32))
    mean = jax.nn.logsumexp(each, 0) - jnp.log(len(each))
    return -(jnp.exp(mean) * mean).sum()


def views(
    key: Key, image: Shaped[Given, "h w C"], size: int, count: int = 64
) -> Float[Array, "V H W 3"]:
    """The image, and random parts of it that are resized, mirrored or not (TPT, arXiv
    2209.07511)."""
    whole = resize(size).apply(Params(), jnp.asarray(image)[None], Scope())
    many = jnp.repeat(jnp.asarray(image)[None], count - 1, 0)
    return jnp.concatenate([whole, parts(size).apply(Params(), many, Scope(key=key))])


METHOD = Method(
    "tpt",
    tpt,
    enters="in front of the names of classes",
    source="arXiv 2209.07511 and azshue/TPT: for each image a step of AdamW at .005 "
    "from 'a photo of a', down the surest tenth of 64 views. What differs: parts are "
    "linear, not bicubic, and never mixed by AugMix, as its code does on fine-grained "
    "sets. The views left out are not differentiated, which changes nothing.",
)
register(METHOD)
