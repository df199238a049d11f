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
from reprojax.operators import replace, resize
from reprojax.operators.images import pixels
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
    """Params for one image: steps down the entropy of the surest views' mean answer.

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
    """The rows of least entropy, the surest first: that share of them, at least one."""
    log = jax.nn.log_softmax(logits)
    entropy = -(jnp.exp(log) * log).sum(-1)
    return jnp.argsort(entropy)[: max(1, int(len(logits) * share))]


def mean_entropy(seen: Seen) -> Float[Array, ""]:
    """The entropy of the mean of the rows' probabilities."""
    each = jax.nn.log_softmax(seen.output.astype(jnp.float32))
    mean = jax.nn.logsumexp(each, 0) - jnp.log(len(each))
    return -(jnp.exp(mean) * mean).sum()


def views(
    key: Key, image: Shaped[Given, "h w C"], size: int, count: int = 64
) -> Float[Array, "V H W 3"]:
    """The image, and random crops of it that are resized, mirrored or not.

    A crop has 8 to 100 % of the area and sides of 3:4 to 4:3; where none of ten drawn
    ones fits into the image, it is the whole.
    """
    x = pixels(jnp.asarray(image)[None])
    whole = resize(size).apply(Params(), x, Scope())
    if count == 1:
        return whole
    cut = jax.vmap(partial(_crop, x[0], size))(jax.random.split(key, count - 1))
    cut = jnp.repeat(cut, 3 // cut.shape[-1], axis=-1)
    return jnp.concatenate([whole, cut])


def _crop(x: Float[Array, "h w C"], size: int, key: Key) -> Float[Array, "H W C"]:
    box, mirror = jax.random.split(key)
    top, left, height, width = _box(box, x.shape[0], x.shape[1])
    scale = size / jnp.stack([height, width])
    where = -jnp.stack([top, left]) * scale
    shape = (size, size, x.shape[2])
    cut = jax.image.scale_and_translate(x, shape, (0, 1), scale, where, "linear")
    cut = jnp.clip(cut, 0, 1)
    return jnp.where(jax.random.bernoulli(mirror), cut[:, ::-1], cut)


def _box(key: Key, height: int, width: int) -> tuple[Array, Array, Array, Array]:
    """Top, left, height and width of the first of ten drawn boxes that fits."""
    k = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(k[0], (10,), minval=0.08)
    ratio = (4 / 3) ** jax.random.uniform(k[1], (10,), minval=-1)
    wide, high = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = fits.argmax()
    w = jnp.where(fits.any(), wide[first], width)
    h = jnp.where(fits.any(), high[first], height)
    place = lambda key, room: jnp.floor(jax.random.uniform(key) * (room + 1))
    return place(k[2], height - h), place(k[3], width - w), h, w


METHOD = Method(
    "tpt",
    tpt,
    enters="in front of the names of classes",
    source="arXiv 2209.07511 and azshue/TPT: for each image a step of AdamW at .005 "
    "from 'a photo of a', down the surest tenth of 64 views. What differs: crops are "
    "linear, not bicubic, and never mixed by AugMix, as its code does on fine-grained "
    "sets. The views left out are not differentiated, which changes nothing.",
)
register(METHOD)
