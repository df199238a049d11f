"""LoR-VP: a low-rank prompt over the whole image (Jin et al., arXiv 2502.00896)."""

from functools import partial

from reprojax.alignments import linear
from reprojax.core import Manipulation, Program, chain, reprogram, until
from reprojax.core.initial import linear_kernel
from reprojax.formats import low_rank_channels
from reprojax.models import Model, Pixels, role
from reprojax.operators import add, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
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
        align: a map of the model's answers, such as ILM; with `targets` instead, a
            linear head on the features is learned, as in the published script.
        rank: of each colour's matrix; 4 of 224 x 224 pixels have 5,376 numbers.
    """
    prompt = add(low_rank_channels(rank))
    at = {"input": chain(resize=resize(model.input.size), prompt=prompt)}
    head = aligned(align, targets, partial(linear, initial=linear_kernel))
    features = until(model.forward, role(model, "features")[0])
    return reprogram(features if align is None else model.forward, at, head)


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
