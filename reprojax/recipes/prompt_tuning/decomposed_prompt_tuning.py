"""Decomposed prompt tuning, DePT (Shi and Lipani, arXiv 2309.05173)."""

from reprojax.core import Format, Manipulation, Program, chain, reprogram
from reprojax.formats import low_rank
from reprojax.models import Model, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_length
from reprojax.models.language.starts import from_vocabulary
from reprojax.operators import add, insert
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import two_rates


@needs(Words, "embedding")
def decomposed_prompt_tuning(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    length: int = 40,
    rank: int = 45,
    words: int = 256,
    initial: Format | None = None,
) -> Program:
    """A short learned prompt, and A B added to the text's word vectors by position
    (arXiv 2309.05173). In a model 768 wide the defaults have as many parameters as a
    prompt of 100 tokens.

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits.
        length: tokens of the prompt.
        rank: of A B, see `low_rank`.
        words: how many of a text's first positions have a row in A, generated tokens
            included; at most the positions that the prompt leaves. Later tokens are not
            changed.
        initial: the prompt's initial value, as in `prompt_tuning`.
    """
    check_length(model, length)
    (site,) = role(model, "embedding")
    if words < 1:
        raise ValueError(f"got words={words}, expected at least 1 position of a text")
    places = min(words, model.input.positions - length)
    start = from_vocabulary(model) if initial is None else initial
    both = chain(words=add(low_rank(rank), places), prompt=insert(start, length))
    return reprogram(model.forward, {site: both}, align)


METHOD = Method(
    "decomposed-prompt-tuning",
    decomposed_prompt_tuning,
    preset=Preset(two_rates, 0.3, epochs=100, batch=32),
    enters="on the words' vectors, and in front",
    source="arXiv 2309.05173; rates, decay and batch: the published script, which "
    "searches its rates on two grids. What differs: epochs for its 40,000 steps, no "
    "warm-up over 500 of them, no clipping.",
)
register(METHOD)
