"""Black-box tuning, BBT (Sun et al., arXiv 2201.03514): a soft prompt without
gradients, found by evolution in a random subspace."""

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

    z [size] alone is searched for. A is normal, its deviation alpha * deviation /
    (sigma sqrt(size)), as in the published code: points drawn at a step of sigma are as
    far apart as words are. (In the paper A is uniform.) An encoder's prompt stands
    behind its first token, and A z is added behind the layer norm of its embedding, as
    in the published code: in front of it a step would move the first block's input by
    several times as much. On a model that only answers (`black_box_texts.only_scores`)
    and on the model itself the params are the same.

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits, or the
            answers as they are. (For RoBERTa the published code sets the bias of the
            words' scores to zero; this does not.)
        length: P, tokens of the prompt.
        words: ids that the prompt is drawn from, once, by default the vocabulary's
            first 5,000. (In the published code these tokens are 1000, 1001 and so on.)
        deviation: of the numbers in the model's word vectors, its table of words even
            where a norm follows; read from its weights where they are here.
        alpha, sigma: sigma is the search's own first step.
    """
    check_length(model, length)
    if size < 1 or min(alpha, sigma) <= 0:
        raise ValueError(
            f"got size={size}, alpha={alpha} and sigma={sigma}, expected at least 1 "
            "number to be searched for and scales above 0"
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
    """The published one (arXiv 2201.03514): CMA-ES from z = 0, 20 points a step.

    There each point is judged by all training texts (`batch=len(task.train.y)`), and
    8,000 points are judged: a budget of 8,000 queries for each training text. At times
    (every 100 points, or steps where a step is one call) one of the points is judged by
    the validation texts too, and the best of these is the result. Here it is the best
    of the last step's points, `checks` times in a run.
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
