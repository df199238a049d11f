"""Steering: activation addition (Turner et al., arXiv 2308.10248) and contrastive
activation addition (Rimsky et al., arXiv 2312.06681). Nothing is learned.

How layers are numbered is said in `models.language.states`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Manipulation, Program, reprogram
from reprojax.formats import fixed
from reprojax.models import Model, outputs, role
from reprojax.models.language import Words
from reprojax.models.language.states import place
from reprojax.operators import add, to_answers
from reprojax.recipes.method import Method, needs
from reprojax.recipes.registry import register


@needs(Words, "blocks", access="activations")
def activation_addition(
    model: Model[Words],
    align: Manipulation | None = None,
    *,
    vector: Float[Array, "..."],
    layer: int,
    coefficient: float = 1.0,
    answer: bool = False,
) -> Program:
    """A fixed vector, times a coefficient, added to the residual stream (arXiv
    2308.10248, 2312.06681).

    Args:
        vector: [P D], such as `steering` gives: added to what enters a block at the
            first P words; where a text is shorter, to those that are written at these
            places too. [D], such as `contrast` gives: added to what a block puts out,
            at every word.
        layer: the block, with the number that its vector was made with.
        align: `label_words(ids)` for a task of classes; None: Tokens of logits.
        coefficient: below 0, away from what was wanted.
        answer: a vector [D] is spared the text that is given, but for its last word,
            from which the answer goes on, as in arXiv 2312.06681.
    """
    vector = jnp.asarray(vector, jnp.float32)
    if vector.ndim not in (1, 2) or vector.shape[-1] != model.width:
        raise ValueError(
            f"got a vector of shape {vector.shape}, expected [{model.width}], or "
            f"[P, {model.width}] for the first P words of {model.name}; make it "
            "with this model's card, by contrast or steering"
        )
    if answer and vector.ndim == 2:
        raise ValueError(
            f"got answer=True with a vector for the first {len(vector)} words, "
            "expected one for every word, [D]; make it by contrast"
        )
    fmt = fixed(coefficient * vector)
    length = len(vector) if vector.ndim == 2 else None
    places = outputs(model) if length is None else role(model, "blocks")
    edit = to_answers(fmt) if answer else add(fmt, length)
    return reprogram(model.forward, {place(model, layer, places): edit}, align)


METHOD = Method(
    "activation-addition",
    activation_addition,
    enters="what enters a block, or what it puts out",
    source="arXiv 2308.10248, 2312.06681. Nothing is learned.",
)
register(METHOD)
