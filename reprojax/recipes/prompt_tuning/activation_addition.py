"""Steering: activation addition (Turner et al., arXiv 2308.10248) and contrastive
activation addition (Rimsky et al., arXiv 2312.06681). Nothing is learned.

`models.language.states` defines how layers are numbered.
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
        vector: [P D], such as `steering` gives, is added to a block's input at the
            first P positions, also to generated tokens there if the text is shorter.
            [D], such as `contrast` gives, is added to a block's output at every token.
        layer: the block, numbered as for `contrast` and `steering`.
        align: `label_words(ids)` for a task of classes; None: Tokens of logits.
        coefficient: a negative one steers away from the vector's meaning.
        answer: add the vector [D] only to the last token of the given text and to the
            generated tokens, not to the rest of the text, as in arXiv 2312.06681.
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
