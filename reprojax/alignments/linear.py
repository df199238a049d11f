"""A learned linear alignment."""

import jax.numpy as jnp
from jax.nn.initializers import Initializer, lecun_normal
from jaxtyping import Array, Float

from reprojax.core import Key, Manipulation, Params, PyTree, Scope


def linear(
    targets: int, *, bias: bool = True, initial: Initializer | None = None
) -> Manipulation:
    """y [B S] -> y @ kernel [S T] + bias [T]; on features it is a linear probe."""
    initial = lecun_normal() if initial is None else initial

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        kernel = initial(key, (y.shape[-1], targets), jnp.float32)
        if bias:
            return Params({"kernel": kernel, "bias": jnp.zeros(targets)})
        return Params({"kernel": kernel})

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        weights = params.learnable
        out = y @ weights["kernel"].astype(y.dtype)
        return out + weights["bias"].astype(y.dtype) if bias else out

    return Manipulation(init, apply)
