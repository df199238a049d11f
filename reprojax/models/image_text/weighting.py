"""Weights of templates without labels, ZPE (Allingham et al., arXiv 2302.06235)."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from reprojax.core import Given
from reprojax.core.vectors import unit
from reprojax.models.image_text.card import (
    Pair,
    check_names,
    encoded,
    sentences_of,
    text_features,
)


def template_weights(
    pair: Pair,
    classes: Iterable[str],
    templates: Iterable[str],
    features: Float[Given, "N J"],
    general: Float[Given, "M J"] | None = None,
    select: float | None = None,
) -> Float[Array, "T R"]:
    """How much each template's text counts: the `weights` of `classifier`.

    They are the softmax of `template_scores`. The authors' code averages logits by
    them; `classifier` averages unit features, and makes the mean a unit vector again,
    as CLIP's ensembles do.

    Args:
        features: of unlabelled images of the task, by `image_features`.
        general: of images like those that the pair was trained on, of whatever is in
            them.
        select: use only templates whose score is more than that many times the median
            absolute deviation above the median; the paper takes .5 for ImageNet and its
            variants, 2 for fine-grained tasks.
    """
    classes = check_names(classes)
    scores = template_scores(pair, classes, templates, features, general)
    if isinstance(scores, Tracer):
        raise ValueError(
            "template_weights was called within jit, expected a call in front of it: "
            "weights are computed once, and need the scores' values"
        )
    weights = np.asarray(jax.nn.softmax(scores))
    if select is not None:
        weights = weights * _above(np.asarray(scores), select)
    return jnp.asarray(np.kron(np.eye(len(classes)), weights), jnp.float32)


def template_scores(
    pair: Pair,
    classes: Iterable[str],
    templates: Iterable[str],
    features: Float[Given, "N J"],
    general: Float[Given, "M J"] | None = None,
) -> Float[Array, "P"]:
    """The mean over images of the largest logit that a template's texts give them.

    From each logit goes half of its mean over the images, and half of that over the
    general images; without these, all of its mean over the images. So a template does
    not win by logits that are high for every image.
    """
    for given in (features, general):
        _check_features(given)
    classes = check_names(classes)
    of = sentences_of(classes, templates)
    count = len(of[classes[0]])
    texts = [of[name][p] for p in range(count) for name in classes]
    named = unit(text_features(pair, encoded(pair, texts)))
    own = unit(jnp.asarray(features))
    middle = own.mean(0)
    if general is not None:
        middle = (middle + unit(jnp.asarray(general)).mean(0)) / 2

    @jax.jit
    def score(own: Array, middle: Array, named: Array) -> Array:
        return ((own - middle) @ named.T).max(-1).mean()

    rows = named.reshape(count, len(classes), -1)
    # One at a time: all logits of many templates would not fit.
    found = jnp.stack([score(own, middle, row) for row in rows])
    return jnp.exp(pair.scale) * found


def _check_features(features: Any) -> None:
    """Raise unless there are some, and all are finite."""
    if features is None or isinstance(features, Tracer):
        return
    found = np.asarray(features, np.float32)
    if not len(found) or not np.isfinite(found).all():
        raise ValueError(
            f"got features {list(found.shape)}, expected one for each of some images, "
            "all finite; take image_features(pair, images)"
        )


def _above(scores: Float[np.ndarray, "P"], select: float) -> Float[np.ndarray, "P"]:
    """1 where a score is an outlier above the median, else 0."""
    away = scores - np.median(scores)
    spread = np.median(np.abs(away))
    chosen = away > select * spread
    if not chosen.any():
        raise ValueError(
            f"got select={select}, above which no template's score is, expected a "
            f"smaller one: the largest is {away.max() / max(spread, 1e-12):.2g} median "
            "absolute deviations above the median"
        )
    return chosen.astype(np.float32)
