"""Prompt tuning of a language model (Lester et al., arXiv 2104.08691)."""

from reprojax.core import Format, Manipulation, Program, reprogram
from reprojax.models import Model, role
from reprojax.models.language import Words
from reprojax.models.language.card import check_length
from reprojax.models.language.starts import from_vocabulary
from reprojax.operators import insert
from reprojax.recipes.method import Method, Preset, needs
from reprojax.recipes.registry import register
from reprojax.training.optimizers import adafactor


@needs(Words, "embedding")
def prompt_tuning(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    length: int = 20,
    initial: Format | None = None,
) -> Program:
    """Learned tokens in front of a text's embeddings (arXiv 2104.08691).

    They take the first positions and shift the text; padding may be on either side.

    Args:
        align: `label_words(ids)` for a task of classes; None: Tokens of logits, from
            which `decoding` writes.
        length: P, tokens of the prompt. The paper takes 100 and finds little gain
            above 20.
        initial: the initial value, by default `from_vocabulary(model)`;
            `from_labels`, `from_text`, or any format, such as `learnable(rows)`.
    """
    check_length(model, length)
    (site,) = role(model, "embedding")
    start = from_vocabulary(model) if initial is None else initial
    at = {site: insert(start, length)}
    return reprogram(model.forward, at, align)


METHOD = Method(
    "prompt-tuning",
    prompt_tuning,
    preset=Preset(adafactor, 0.3, epochs=100, batch=32),
    enters="in front of the words' vectors",
    source="arXiv 2104.08691, section 3. What differs: epochs, for 30,000 steps "
    "whatever the task.",
)
register(METHOD)
