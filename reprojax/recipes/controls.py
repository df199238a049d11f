"""Controls: what a learned prompt has to beat."""

from typing import Any

from reprojax.alignments import bayesian, linear
from reprojax.core import Manipulation, Program, reprogram, until
from reprojax.models import Arrays, Model, Pixels, Series, role
from reprojax.operators import resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam


@needs(Pixels | Series | Arrays, access="answers")
def map_only(
    model: Model[Any],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
) -> Program:
    """A label map alone, without a prompt (arXiv 2211.11635)."""
    align = aligned(align, targets, bayesian)
    return reprogram(model.forward, _resized(model), align)


@needs(Pixels | Series | Arrays, "features", access="activations")
def linear_probe(
    model: Model[Any],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
) -> Program:
    """A linear head on frozen features [D], without a prompt (arXiv 2211.11635)."""
    features = until(model.forward, role(model, "features")[0])
    align = aligned(align, targets, lambda n: linear(n, standardised=True))
    return reprogram(features, _resized(model), align)


def _resized(model: Model[Any]) -> dict[str, Manipulation]:
    pixels = isinstance(model.input, Pixels)
    return {"input": resize(model.input.size)} if pixels else {}


MAP_ONLY = Method(
    "map-only",
    map_only,
    alignment="blm",
    enters="nowhere",
    source="arXiv 2211.11635. Nothing is learned: a map is estimated.",
)
register(MAP_ONLY)
PROBE = Method(
    "linear-probe",
    linear_probe,
    preset=Preset(adam, 1e-2, epochs=50, batch=128),
    enters="nowhere",
    source="arXiv 2211.11635 reports it beside its prompts. The preset is ours.",
)
register(PROBE)
