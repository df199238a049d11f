"""P-tuning v2 of a language model (Liu et al., arXiv 2110.07602)."""

from jaxtyping import Array

from reprojax.alignments import last, linear
from reprojax.core import (
    Manipulation,
    Program,
    chain,
    first_value,
    reprogram,
    stateless,
    until,
)
from reprojax.models import Model, role
from reprojax.models.language import Words
from reprojax.operators import dropout
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.prompt_tuning.prefixes import prefixed
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adamw_linear


@needs(Words, "kv", "features")
def p_tuning_v2(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    length: int = 8,
    hidden: int | None = None,
    start: Array | None = None,
    drop: float = 0.1,
) -> Program:
    """Learned keys and values at each layer, and a learned head (arXiv 2110.07602).

    What differs from `prefix_tuning`: the prefix itself is learned, without an MLP; a
    linear head on the model's features predicts the classes, without label words; and
    encoders are prompted like decoders. The head reads an encoder's first token or a
    causal model's last one. (The published code first applies BERT's pooler, a frozen
    pretrained layer with tanh, to the first token. Cards here have no pooler, because
    masked language models are saved without it.)

    Args:
        align: of the features, Tokens [B L D], instead of that head.
        targets: T, the classes that the head tells apart.
        length: P, keys of each layer. The paper searches it: 8 for BoolQ, 128 for RTE.
        hidden: units of an MLP as in prefix tuning, which by the paper helps some tasks
            and harms others.
        start: the initial prefix [2 layers, length, heads, size], such as
            `keys_and_values`; by default small and random.
        drop: dropout rate on prefix and features, in training only.
    """
    (features,) = role(model, "features")
    at = prefixed(model, length, hidden, start, 0.02, drop)
    read = last() if model.input.kind == "causal" else stateless(first_value)

    def head(targets: int) -> Manipulation:
        return chain(read=read, drop=dropout(drop), head=linear(targets))

    align = aligned(align, targets, head)
    return reprogram(until(model.forward, features), at, align)


METHOD = Method(
    "p-tuning-v2",
    p_tuning_v2,
    preset=Preset(adamw_linear, 5e-3, epochs=100, batch=32),
    enters="keys and values of each layer",
    source="arXiv 2110.07602; the published script's for RTE with RoBERTa-large "
    "(BoolQ's rate is 7e-3). What differs: no clipping. 100 steps of it took the loss "
    "of a tiny decoder from .68 to .29, and of a tiny encoder of random weights from "
    ".80 to .68; at .1 that went to .02.",
)
register(METHOD)
