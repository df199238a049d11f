"""DAM-VP: a prompt for each cluster of images (Huang et al., arXiv 2303.08138)."""

from typing import Any

import jax
import numpy as np
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from reprojax.alignments import columns, linear
from reprojax.core import Manipulation, Params, Program, part, put, reprogram, until
from reprojax.data import Split
from reprojax.formats import border, learnable, nearest_prototype, with_prototypes
from reprojax.models import Model, Pixels, role
from reprojax.models.vision.sizes import scaled
from reprojax.operators import add, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.queries import asking, queries
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine

SITE = "normalized"


@needs(Pixels, "features")
def diversity_aware_prompting(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    clusters: int = 8,
    width: int | None = None,
) -> Program:
    """Strips over an image's edges, one set for each cluster (arXiv 2303.08138).

    An image takes the set of the prototype nearest to its frozen feature, which costs a
    second pass of the model. They enter after normalisation. `first_params` finds the
    clusters in the training images; without it all images share one set.

    Args:
        align: of the features [B D]: by default a learned linear head; `most_active`
            takes as many features as there are classes, and learns no head.
        clusters: how many there may be.
        width: of the strips in pixels; by default 30 in 224.
    """
    width = scaled(30, model) if width is None else width
    strips = border(learnable(normal(1.0)), width)
    to_size = resize(model.input.size)
    at = {"input": to_size, SITE: add(nearest_prototype(strips, clusters))}
    features = until(model.forward, role(model, "features")[0])
    program = reprogram(features, at, aligned(align, targets, linear))
    return asking(program, model, to_size)


def first_params(
    program: Program,
    model: Model[Pixels],
    train: Split,
    seed: int = 0,
    *,
    threshold: float | None = None,
    prompt: Any = None,
) -> Params:
    """The program's first params, with the prototypes of the training images (DAM-VP,
    arXiv 2303.08138).

    The features of the first 1,000 images are clustered bottom up by their average
    distance; a prototype is its cluster's mean.

    Args:
        threshold: clusters farther apart than this stay apart, as in the paper, which
            has one for each model (10 to 31). By default the distance that leaves as
            many clusters as the program has prompts.
        prompt: strips that all clusters start from, such as `meta_prompt` gives.
    """
    params = program.init(jax.random.key(seed), model.frozen, train.x[:2])
    own = part(params, SITE)
    few = train._replace(x=train.x[:1000], y=train.y[:1000])
    rows = queries(model, few)
    found = prototypes(rows, len(own.fixed["prototypes"]), threshold)
    own = with_prototypes(own, found)
    if prompt is not None:
        own = own._replace(learnable=_everywhere(prompt, own.learnable))
    return put(params, SITE, own)


def _everywhere(prompt: Any, like: Any) -> Any:
    """One prompt's numbers for all clusters."""
    spread = lambda one, all_of: jax.numpy.broadcast_to(one, all_of.shape)
    return {**like, "prompts": jax.tree.map(spread, prompt, like["prompts"])}


def prototypes(
    features: Float[np.ndarray, "N D"], most: int, threshold: float | None = None
) -> Float[np.ndarray, "K D"]:
    """The means of clusters by average linkage, in the order of their first rows
    (DAM-VP, arXiv 2303.08138)."""
    from scipy.cluster.hierarchy import average, fcluster

    if len(features) < 2:
        return features
    tree = average(np.asarray(features, np.float64))
    if threshold is None:
        labels = fcluster(tree, most, "maxclust")
    else:
        labels = fcluster(tree, threshold, "distance")
    names, first = np.unique(labels, return_index=True)
    if len(names) > most:
        raise ValueError(
            f"a threshold of {threshold} leaves {len(names)} clusters, expected at "
            f"most {most}, the program's; take a larger threshold, or more clusters="
        )
    ordered = names[np.argsort(first)]
    return np.stack([features[labels == name].mean(0) for name in ordered])


def most_active(model: Model[Pixels], targets: int, seed: int = 0) -> Manipulation:
    """The features that vary most over 512 images of noise, one for each class.

    The paper's way without a head (DAM-VP, arXiv 2303.08138). The features' order is
    theirs in the model.
    """
    key = jax.random.key(seed)
    size = model.input.size
    noise = jax.random.normal(key, (512, size, size, 3))
    spread = jax.jit(lambda frozen, x: _of_normalised(model, frozen, x).std(0))
    order = np.argsort(-np.asarray(spread(model.frozen, noise)), kind="stable")
    return columns(np.sort(order[:targets]))


def _of_normalised(model: Model[Pixels], frozen: Any, x: Any) -> Float[Array, "B D"]:
    """The features of what stands after normalisation."""
    forward = until(model.forward, role(model, "features")[0])
    put = lambda site, value: x if site == SITE else value
    blank = jax.numpy.zeros(x.shape)
    return forward(frozen, blank, edit=put)


METHOD = Method(
    "dam-vp",
    diversity_aware_prompting,
    preset=Preset(sgd_cosine(warmup=0.2), 0.1, epochs=50, batch=128),
    enters="after normalisation",
    start=first_params,
    source="arXiv 2303.08138. shikiw/DAM-VP: SGD, momentum .9, a fifth of the run "
    "warms up, then a cosine, 50 epochs, batches of 128; its rates are in the paper's "
    "tables, one for each set. What differs: the rate, .1; eight clusters, in place of "
    "a threshold for each model; strips that start at N(0, 1), in place of a meta "
    "prompt, which `meta_prompt` learns. (That code trains a head without momentum, "
    "since a key is misspelt, and at the prompts' rate, since its schedule sets all "
    "rates.)",
)
register(METHOD)
