"""Black-box tuning, BBT (Sun et al., arXiv 2201.03514): a soft prompt found without
gradients, by evolution in a random subspace."""

from collections.abc import Sequence

import jax

from reprojax.core import Manipulation, Program, reprogram
from reprojax.formats import learnable, subspace
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language.card import check_length, embedded
from reprojax.models.language.starts import deviation_of, drawn_words
from reprojax.operators import add, insert
from reprojax.recipes.method import BlackBox, Method, needs
from reprojax.recipes.registry import register
from reprojax.searches import Search, cma_es
from reprojax.training.losses import hinge


@needs(Words, access="answers")
def black_box_tuning(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    length: int = 50,
    size: int = 500,
    words: Sequence[int] | None = None,
    deviation: float | None = None,
    alpha: float = 1.0,
    sigma: float = 1.0,
) -> Program:
    """Words in front of a text, and A z added to their vectors (arXiv 2201.03514).

    Only z [size] is searched. A is normal with deviation alpha * deviation / (sigma
    sqrt(size)), as in the published code, so that points at a step of sigma are as far
    apart as word vectors. (In the paper A is uniform.) In an encoder the prompt follows
    the first token, and A z is added after the embedding's layer norm, as in the
    published code: added before it, a step would move the first block's input several
    times as far. The params are the same for the model itself and for one that only
    answers (`black_box_texts.only_scores`).

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits, or
            unchanged answers. (For RoBERTa the published code zeroes the bias of the
            words' scores; this does not.)
        length: P, tokens of the prompt.
        words: ids from which the prompt is drawn, once; by default the vocabulary's
            first 5,000. (In the published code they are 1000, 1001 and so on.)
        deviation: standard deviation of the word vectors, before any norm; by default
            read from the model's weights, where it has them.
        alpha, sigma: sigma is the search's initial step size.
    """
    check_length(model, length)
    if size < 1 or min(alpha, sigma) <= 0:
        raise ValueError(
            f"got size={size}, alpha={alpha} and sigma={sigma}, expected a size of at "
            "least 1 and scales above 0"
        )
    at = 0 if model.input.kind == "causal" else 1  # behind [CLS]
    start = drawn_words(model, words)
    scale = alpha * deviation_of(model, deviation) / sigma
    nothing = learnable(jax.nn.initializers.zeros)
    sites: dict[str, Manipulation] = {
        "input": insert(start, length, at=at),
        embedded(model): add(subspace(size, nothing, scale), length, at=at),
    }
    return reprogram(model.forward, sites, align)


def search(sigma: float = 1.0) -> Search:
    """The published search (arXiv 2201.03514): CMA-ES from z = 0, 20 points a step.

    The paper judges 8,000 points by all training texts each (`batch=len(task.train.y)`
    and a budget of 8,000 queries for each training text). Every 100 points (or steps)
    it judges one by the validation texts, too, and returns the best of these. Here, at
    each of `checks`, that one is the best point of the last step.
    """
    return cma_es(sigma, population=20, result="point")


METHOD = Method(
    "black-box-tuning",
    black_box_tuning,
    preset=BlackBox(
        lambda sigma, steps: search(sigma),
        1.0,
        batch=16,
        loss=lambda y, targets: hinge(),
    ),
    enters="placeholders, and their vectors",
    source="arXiv 2201.03514: CMA-ES of 20 points at a step of 1, a hinge loss of "
    "margin 2. There a point is judged by all training texts, 16 a class.",
)
register(METHOD)
