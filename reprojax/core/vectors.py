"""Vectors of unit length."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def unit(x: Float[Array, "... J"]) -> Float[Array, "... J"]:
    """Divided by its length, which is computed in float32; of zeros, zeros."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = (wide**2).sum(-1, keepdims=True)
    # Not the root's maximum: the root of zero has no gradient.
    return (wide / jnp.sqrt(jnp.maximum(square, 1e-24))).astype(x.dtype)
