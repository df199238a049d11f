"""LoR-VP: a low-rank prompt over the whole image (Jin et al., arXiv 2502.00896)."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.alignments import linear
from reprojax.core import Key, Manipulation, Program, chain, reprogram, until
from reprojax.core.initial import uniform
from reprojax.formats import low_rank_channels
from reprojax.models import Model, Pixels, role
from reprojax.operators import add, resize
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels, "features")
def low_rank_visual_prompting(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    rank: int = 4,
) -> Program:
    """A learned image of low rank, added to the whole image (arXiv 2502.00896).

    It enters before normalisation, and starts at zero.

    Args:
        align: a map of the model's answers, such as ILM; without one a linear head on
            the features is learned for `targets` classes, as in the published script.
        rank: of each colour's matrix; 4 of 224 x 224 pixels have 5,376 numbers.
    """
    prompt = add(low_rank_channels(rank))
    at = {"input": chain(resize=resize(model.input.size), prompt=prompt)}
    if align is not None:
        return reprogram(model.forward, at, align)
    if targets is None:
        raise ValueError(
            "got neither align nor targets, expected one: an alignment of the model's "
            "answers, or the number of classes for a head on features: "
            "low_rank_visual_prompting(model, targets=10)"
        )
    head = linear(targets, initial=_as_in_torch)
    features = until(model.forward, role(model, "features")[0])
    return reprogram(features, at, head)


def _as_in_torch(
    key: Key, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None
) -> Float[Array, "D T"]:
    return uniform(shape[0])(key, shape, dtype)


METHOD = Method(
    "lor-vp",
    low_rank_visual_prompting,
    preset=Preset(sgd_cosine(warmup=0, decay=1e-4), 0.02, epochs=20, batch=256),
    enters="before normalisation",
    source="arXiv 2502.00896. jincan333/LoR-VP: rank 4, B zero and A N(0, .01^2), SGD "
    "at .02, momentum .9, decay 1e-4, a cosine of 20 epochs, batches of 256, a linear "
    "head on features. The head's bias starts at zero here. (As published, the script "
    "compares its prompt's name in other letters, and so trains the head alone.)",
)
register(METHOD)
