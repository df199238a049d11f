"""The words of the vocabulary nearest to a soft prompt."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from reprojax.core import Forward, Params, PyTree, tokens, until
from reprojax.models.card import Model
from reprojax.models.language import Words
from reprojax.models.language.card import role

Metric = Literal["cosine", "euclidean"]
BLOCK = 4096  # words of a vocabulary to compare at a time


class Near(NamedTuple):
    """A word of the vocabulary near a vector."""

    id: int
    word: str
    """The tokeniser's text for it; its id if there is no tokeniser."""
    similarity: float
    """The cosine; for "euclidean", minus the distance."""


def nearest_words(
    language: Model[Words],
    prompt: Params | Float[Array | np.ndarray, "P D"],
    count: int = 5,
    metric: Metric = "cosine",
) -> list[tuple[Near, ...]]:
    """The words nearest to each vector of a soft prompt, nearest first.

    A prompt near to words need not mean them (arXiv 2112.08348).

    Args:
        prompt: the params of `prompt_tuning`, or vectors.
    """
    (site,) = role(language, "embedding")
    rows = _vectors(language, prompt, site)
    if not 0 < count <= language.input.vocabulary or metric not in (
        "cosine",
        "euclidean",
    ):
        raise ValueError(
            f"got count={count} and metric={metric!r}, expected 1 to "
            f"{language.input.vocabulary}, the vocabulary of {language.name}, and "
            "'cosine' or 'euclidean'"
        )
    how = (language.forward, site, language.input.vocabulary, count, metric)
    ids, found = map(np.asarray, _nearest(*how, language.frozen, rows))
    return [
        tuple(
            Near(int(i), _word(language, int(i)), float(similarity))
            for i, similarity in zip(*row, strict=True)
        )
        for row in zip(ids, found, strict=True)
    ]


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _nearest(
    forward: Forward,
    site: str,
    vocabulary: int,
    count: int,
    metric: Metric,
    frozen: PyTree,
    rows: Float[Array, "P D"],
) -> tuple[Int[Array, "P n"], Float[Array, "P n"]]:
    """Compares block by block, so that the table is not copied."""
    block = min(BLOCK, vocabulary)
    ids = jnp.arange(-(-vocabulary // block) * block).reshape(-1, block)

    def words(ids: Int[Array, "N"]) -> Float[Array, "N D"]:
        x = tokens(jnp.minimum(ids, vocabulary - 1)[:, None])
        return until(forward, site)(frozen, x).value[:, 0].astype(jnp.float32)

    def similarity(ids: Int[Array, "N"]) -> Float[Array, "P N"]:
        table, own = words(ids), rows
        if metric == "cosine":
            table, own = (_unit(a) for a in (table, own))
        # An accelerator's fast products could swap words of similar distance.
        product = jnp.matmul(own, table.T, precision="highest")
        if metric == "euclidean":
            square = lambda a: jnp.square(a).sum(-1)
            product = 2 * product - square(own)[:, None] - square(table)
        return jnp.where(ids < vocabulary, product, -jnp.inf)

    found = jax.lax.map(similarity, ids)
    best, chosen = jax.lax.top_k(jnp.concatenate(list(found), -1), count)
    if metric == "euclidean":  # exact: differences of squares lose small distances
        away = jax.vmap(words)(chosen) - rows[:, None]
        best = -jnp.linalg.norm(away, axis=-1)
    return chosen, best


def _unit(a: Float[Array, "N D"]) -> Float[Array, "N D"]:
    return a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-30)


def _word(language: Model[Words], i: int) -> str:
    text = language.input.tokenizer
    return str(i) if text is None else text.decode([i]) or text.token(i) or str(i)


def _vectors(language: Model[Words], prompt: Any, site: str) -> Float[Array, "P D"]:
    found = prompt.learnable.get(site) if isinstance(prompt, Params) else prompt
    shape = getattr(found, "shape", ())
    if len(shape) != 2 or shape[1] != language.width:
        raise ValueError(
            f"got a prompt of {jax.tree.map(jnp.shape, found)}, expected vectors "
            f"[P, {language.width}] at {site!r} of {language.name}; "
            f"record(program.apply, [{site!r}]) shows what another format makes"
        )
    if not bool(jnp.isfinite(found).all()):
        raise ValueError(
            "got a prompt with numbers that are not finite, expected that of a run "
            "that did not diverge"
        )
    return jnp.asarray(found, jnp.float32)
