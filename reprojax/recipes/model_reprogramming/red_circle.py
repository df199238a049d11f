"""The red circle, a fixed prompt in pixels (Shtedritski et al., arXiv 2304.06712)."""

from reprojax.alignments import bayesian
from reprojax.core import Manipulation, Program, chain, reprogram
from reprojax.models import Model, Pixels
from reprojax.operators import circle, resize
from reprojax.recipes.method import Method, aligned, needs
from reprojax.recipes.registry import register


@needs(Pixels, access="answers")
def red_circle(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    radius: float = 0.25,
    width: float = 0.02,
) -> Program:
    """A red circle on the image, drawn and not learned (arXiv 2304.06712).

    It enters before normalisation, in the middle, or, with boxes [B 4] (top, left,
    bottom, right, in shares of the side) as the call's context, around these. The paper
    reads a pair of towers, whose classifier is a model like any other:
    `models.image_text.classifier`.

    Args:
        radius, width: of the circle and of its line, in shares of the image's side.
    """
    ring = circle(radius=radius, width=width)
    at = {"input": chain(resize=resize(model.input.size), circle=ring)}
    return reprogram(model.forward, at, aligned(align, targets, bayesian))


METHOD = Method(
    "red-circle",
    red_circle,
    alignment="blm",
    enters="before normalisation",
    source="arXiv 2304.06712. Nothing is learned. The circle's sizes are ours: the "
    "paper's code is not published.",
)
register(METHOD)
