"""Controls: what a learned prompt has to beat."""

from reprojax.alignments import bayesian, linear
from reprojax.core import Manipulation, Program, reprogram, until
from reprojax.models import Backbone
from reprojax.operators import resize


def no_prompt(
    backbone: Backbone, targets: int, align: Manipulation | None = None
) -> Program:
    """The image resized, and an alignment: no prompt (arXiv 2211.11635)."""
    align = bayesian(targets) if align is None else align
    return reprogram(
        backbone.forward, {"input": resize(backbone.size), "output": align}
    )


def linear_probe(backbone: Backbone, targets: int) -> Program:
    """A linear head on the frozen features [D] (arXiv 2211.11635 reports it beside)."""
    features = until(backbone.forward, backbone.roles["features"][0])
    return reprogram(
        features,
        {"input": resize(backbone.size), "output": linear(targets, standardised=True)},
    )
