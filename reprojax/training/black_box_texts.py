"""Reprogram a language model that only returns scores for a text and added vectors.

>>> oracle = scores(language, label_words(words))  # or a service behind a function
>>> served = only_scores(oracle, language)  # a card for recipes
>>> program = black_box_tuning(served, deviation=.1, length=2, size=4)
>>> fitted = fit_black_box(program, oracle, task, search(), budget=100, batch=4)

A query is a text's ids, with the prompt's placeholders, and vectors that the service
adds to the word embeddings (in an encoder after their layer norm; Sun et al., arXiv
2201.03514). So no weights are needed here, not even the embedding, but a program's edit
of the embedding must be an addition.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import (
    Edit,
    Manipulation,
    PyTree,
    Tokens,
    passthrough,
    reprogram,
    tokens,
)
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language.card import embedded
from reprojax.saving.identity import traced
from reprojax.searches import Oracle
from reprojax.training.black_box import SENT


class Asked(NamedTuple):
    """A query: what is sent, one text a row."""

    text: Tokens
    """Ids [n L]."""
    added: Float[Array, "n L D"]
    """Added to the word vectors where they enter the first block."""


def scores(language: Model[Words], align: Manipulation, *, chunk: int = 64) -> Oracle:
    """A local model as an oracle, for studies: one compiled call a chunk.

    Args:
        align: from Tokens of logits to the answers [n S], such as `label_words(ids)`,
            or `last()` for the whole vocabulary.
    """
    place = embedded(language)
    program = reprogram(language.forward, {"output": align})
    empty = tokens(jnp.zeros((1, 1), jnp.int32))
    params = program.init(jax.random.key(0), language.frozen, empty)

    @jax.jit
    def run(frozen: PyTree, asked: Asked) -> Array:
        def edit(site: str, value: PyTree) -> PyTree:
            if site != place:
                return value
            return value._replace(value=value.value + asked.added)

        return program.apply(params, frozen, asked.text, edit=edit)

    def answer(asked: Asked) -> np.ndarray:
        return np.asarray(run(language.frozen, asked), np.float32)

    nothing = Asked(empty, jnp.zeros((1, 1, language.width)))
    classes = jax.eval_shape(run, language.frozen, nothing).shape[-1]
    code = traced(run, language.frozen, nothing).digest
    source = f"weights {language.fingerprint[:32]}, code {code}"
    return Oracle(answer, classes, name=language.name, source=source, chunk=chunk)


def only_scores(oracle: Oracle, language: Model[Words]) -> Model[Words]:
    """A card for an oracle that takes `Asked`.

    A program on it edits "input" (ids), the site of the embedded words, whose value is
    zeros to which the program adds, and "output", the oracle's answers.

    Args:
        language: gives vocabulary, positions, width and tokeniser, but no weights.
    """
    place = embedded(language)

    def forward(answers: PyTree, x: Tokens, edit: Edit = passthrough) -> PyTree:
        text = edit("input", x)
        _check_length(text.weight.shape[1], language)
        shape = (*text.weight.shape, language.width)
        added: Any = edit(place, text._replace(value=jnp.zeros(shape)))
        if added.value.shape != shape:
            raise ValueError(
                f"got vectors {added.value.shape[1:]} for a text of {shape[1]} words "
                f"to send to {oracle.name}, expected one a word, {shape[1:]}; "
                'insert words at "input", and add to their vectors, as '
                "black_box_tuning does"
            )
        edit(SENT, Asked(text, added.value))
        return edit("output", answers)

    kind = "embedding" if language.input.kind == "causal" else "blocks"
    roles = {"input": ("input",), kind: (place,)}
    return language._replace(name=oracle.name, forward=forward, frozen=(), roles=roles)


def _check_length(length: int, language: Model[Words]) -> None:
    if length > language.input.positions:
        raise ValueError(
            f"got texts of {length} tokens to send, with padding and prompt, expected "
            f"at most {language.input.positions}, the positions of {language.name}; "
            "shorten the prompt, or pad less"
        )
