"""Learned edits of a language model's hidden states: LoReFT (arXiv 2404.03592)."""

from collections.abc import Sequence

from reprojax.core import Manipulation, Program, reprogram
from reprojax.models import Model, outputs
from reprojax.models.language import Words
from reprojax.operators import low_rank_edit
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adamw_linear


@needs(Words, "blocks")
def loreft(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    rank: int = 8,
    first: int = 7,
    last: int = 7,
    tied: bool = True,
    layers: Sequence[int] | None = None,
) -> Program:
    """Low-rank edits of the outputs of blocks, one for each block (arXiv 2404.03592).

    If a beginning is shared (`decoding.share`), the query must hold all of the last
    tokens that are edited, and the whole prompt at least 2 * first tokens; otherwise
    the answer is NaN.

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits.
        rank, first, last: see `low_rank_edit`.
        tied: one edit for a block's first and last tokens (our default); pyreft's
            default is one for each end.
        layers: the blocks to edit, from 0; by default all, as in pyreft.
    """
    places = outputs(model)
    chosen = range(len(places)) if layers is None else layers
    if not chosen or min(chosen) < 0 or max(chosen) >= len(places):
        raise ValueError(
            f"got the layers {list(chosen)}, expected some of 0..{len(places) - 1}, "
            f"the blocks of {model.name}"
        )
    if first < 0 or last < 0 or not first + last:
        raise ValueError(
            f"got first={first} and last={last}, expected numbers of tokens from 0, "
            "not both 0"
        )
    edit = low_rank_edit(rank, first, last, tied=tied)
    at: dict[str, Manipulation] = {places[i]: edit for i in chosen}
    return reprogram(model.forward, at, align)


METHOD = Method(
    "loreft",
    loreft,
    preset=Preset(adamw_linear, 5e-3, epochs=5, batch=32),
    enters="what blocks put out, at a text's ends",
    source="arXiv 2404.03592; AdamW on a falling line, without decay: pyreft's. What "
    "differs: no warm-up and no clipping; rate, epochs and batch are ours, there they "
    "are searched for each task.",
)
register(METHOD)
