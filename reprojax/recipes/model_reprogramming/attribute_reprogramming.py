"""Attributes of classes instead of their names, AttrVR (Cai et al., arXiv
2501.13982)."""

from functools import partial

from reprojax.alignments import nearest_texts
from reprojax.core import Manipulation, Program
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import scaled
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.model_reprogramming.label_mapping import padding
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels, "text_embedding")
def attrvr(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    inner: int | None = None,
    nearest: int = 3,
    share: float = 0.5,
) -> Program:
    """The image inside a learned border; an image's class is that of the nearest
    attributes (arXiv 2501.13982).

    The model is `image_text.of_descriptions(pair, classes, descriptive, distinctive)`.
    The border is that of `padding`: before normalisation, sigmoid(0) at first.

    Args:
        inner: side of the image in pixels; by default 192 in 224.
        nearest: how many attributes of a class and kind count for an image.
        share: the weight of the descriptive ones, of 1.
    """
    inner = scaled(192, model) if inner is None else inner
    own = partial(nearest_texts, count=nearest, shares=(share, 1 - share))
    return padding(model, aligned(align, targets, own), inner=inner)


METHOD = Method(
    "attrvr",
    attrvr,
    preset=Preset(sgd_cosine(warmup=0), 40.0, epochs=200, batch=64),
    enters="before normalisation",
    template="",
    source="arXiv 2501.13982. tmlr-group/AttrVR: SGD, momentum .9, rate 40, no decay, "
    "a cosine by steps, 200 epochs of batches of 64 (16 with one example a class), 20 "
    "attributes of each kind, three of which count. There images are resized by "
    "cubics, cropped at random and mirrored.",
)
register(METHOD)
