"""A learned patch on the image (Bahng et al., arXiv 2203.17274)."""

from typing import Any

from jax.nn.initializers import normal

from reprojax.alignments.named import first
from reprojax.core import Manipulation, Program, reprogram
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.models.vision.sizes import scaled
from reprojax.operators import add_patch, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import sgd_cosine


@needs(Pixels)
def fixed_patch(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    side: int | None = None,
) -> Program:
    """A learned patch on the upper left corner of the image (arXiv 2203.17274).

    It enters after normalisation.

    Args:
        side: of the patch in pixels; by default 30 in 224, which are 2,700 numbers.
    """
    return _patched(model, align, targets, side, moving=False)


@needs(Pixels)
def random_patch(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    side: int | None = None,
) -> Program:
    """A learned patch at a random place of the image in training, and in its middle in
    evaluation (arXiv 2203.17274).

    It enters after normalisation. All images of a batch have it at one place.

    Args:
        side: of the patch in pixels; by default 30 in 224, which are 2,700 numbers.
    """
    return _patched(model, align, targets, side, moving=True)


def _patched(
    model: Model[Pixels],
    align: Manipulation | None,
    targets: int | None,
    side: int | None,
    moving: bool,
) -> Program:
    side = scaled(30, model) if side is None else side
    patch = add_patch(learnable(normal(1.0)), side, moving)
    at = {"input": resize(model.input.size), "normalized": patch}
    return reprogram(model.forward, at, aligned(align, targets, first))


_SOURCE = (
    "arXiv 2203.17274. hjbahng/visual_prompting: as `vp`, with --method fixed_patch or "
    "random_patch."
)
_WHAT: dict[str, Any] = {"alignment": "first", "enters": "after normalisation"}
_WHAT["preset"] = Preset(sgd_cosine(warmup=1000), 40.0, epochs=1000, batch=128)
FIXED = Method("vp-fixed-patch", fixed_patch, source=_SOURCE, **_WHAT)
register(FIXED)
RANDOM = Method(
    "vp-random-patch",
    random_patch,
    source=f"{_SOURCE} What differs: that code draws a place in evaluation too, so its "
    "accuracy is another one each time; here the patch is in the middle.",
    **_WHAT,
)
register(RANDOM)
