"""Controls: what a learned prompt has to beat."""

from reprojax.alignments import bayesian, linear
from reprojax.core import Manipulation, Program, reprogram, until
from reprojax.models import Model, Pixels, role
from reprojax.operators import resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adam


@needs(Pixels)
def no_prompt(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
) -> Program:
    """The image resized, and an alignment: no prompt (arXiv 2211.11635)."""
    align = aligned(align, targets, bayesian)
    return reprogram(model.forward, {"input": resize(model.input.size)}, align)


@needs(Pixels, "features")
def linear_probe(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
) -> Program:
    """A linear head on the frozen features [D] (arXiv 2211.11635 reports it beside)."""
    features = until(model.forward, role(model, "features")[0])
    align = aligned(align, targets, lambda n: linear(n, standardised=True))
    return reprogram(features, {"input": resize(model.input.size)}, align)


NO_PROMPT = Method(
    "no-prompt",
    no_prompt,
    alignment="blm",
    enters="nowhere",
    source="arXiv 2211.11635. Nothing is learned: a map is estimated.",
)
register(NO_PROMPT)
PROBE = Method(
    "linear-probe",
    linear_probe,
    preset=Preset(adam, 1e-2, epochs=50, batch=128),
    enters="nowhere",
    source="arXiv 2211.11635 reports it beside its prompts. The preset is ours.",
)
register(PROBE)
