"""One vector for a whole sequence, by rule: sentence embeddings."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Manipulation, Tokens, stateless


def mean(start: int = 0) -> Manipulation:
    """Tokens [B L D] -> the mean of the real ones [B D], each by its weight.

    Source: Reimers and Gurevych (arXiv 1908.10084). A row without a real token gives
    zeros; of an array [B L D] all rows count alike.

    Args:
        start: what stands before this position counts for nothing, such as a prompt of
            `start` tokens.
    """
    if start < 0:
        raise ValueError(f"mean got start={start}, expected a position from 0")

    def pool(y: Tokens | Float[Array, "B L D"]) -> Float[Array, "B D"]:
        if not isinstance(y, Tokens):
            return y[:, start:].mean(1)
        weight = jnp.where(y.position >= start, y.weight, 0)
        total = jnp.maximum(weight.sum(1, keepdims=True), 1e-9)
        share = (weight / total).astype(y.value.dtype)
        return jnp.einsum("bl,bld->bd", share, y.value)

    return stateless(pool)


def unit(length: float = 1.0) -> Manipulation:
    """y [*B D] -> the same directions, all of one length; zeros stay zeros.

    Between vectors of length 1 a product is a cosine. A longer one makes a softmax of
    cosines as sharp as an inverse temperature would.
    """

    def scale(y: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        square = (y.astype(jnp.float32) ** 2).sum(-1, keepdims=True)
        # not the norm, whose slope at 0 is infinite
        factor = length / jnp.sqrt(jnp.maximum(square, 1e-24))
        return y * factor.astype(y.dtype)

    return stateless(scale)
