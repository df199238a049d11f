"""A learned linear alignment."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer, lecun_normal
from jaxtyping import Array, Float, Int

from reprojax.core import Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes


def linear(
    targets: int,
    *,
    bias: bool = True,
    standardised: bool = False,
    initial: Initializer | None = None,
    initial_bias: float = 0.0,
) -> Manipulation:
    """y [B S] -> y @ kernel [S T] + bias [T]; on features it is a linear probe.

    Args:
        standardised: first shift and scale each column of y to mean 0 and variance 1,
            estimated on the training images before the first step. The family of maps
            stays the same, but the features' scale no longer decides which learning
            rate diverges.
        initial: initialiser of the kernel; by default `lecun_normal()`.
        initial_bias: initial value of each entry of the bias.
    """
    check_sizes("linear", targets=targets)
    initial = lecun_normal() if initial is None else initial

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        size = y.shape[-1]
        weights = {"kernel": initial(key, (size, targets), jnp.float32)}
        if bias:
            weights["bias"] = jnp.full(targets, initial_bias, jnp.float32)
        middle = {"mean": jnp.zeros(size), "deviation": jnp.ones(size)}
        middle["known"] = jnp.zeros((), bool)
        return Params(weights, middle if standardised else ())

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        weights = params.learnable
        if standardised:
            middle = params.fixed
            y = ((y - middle["mean"]) / middle["deviation"]).astype(y.dtype)
        out = y @ weights["kernel"].astype(y.dtype)
        return out + weights["bias"].astype(y.dtype) if bias else out

    if standardised:
        return Manipulation(init, apply, _moments, _standardise)
    return Manipulation(init, apply)


def _moments(
    params: Params, y: Float[Array, "B S"], labels: Int[Array, "B"]
) -> dict[str, Any]:
    real = (labels >= 0).astype(jnp.float32)
    wide = y.astype(jnp.float32)  # sums of squares lose their digits in bfloat16
    return {"count": real.sum(), "sum": real @ wide, "squares": real @ wide**2}


def _standardise(params: Params, sums: dict[str, Any]) -> Params:
    mean = sums["sum"] / sums["count"]
    variance = sums["squares"] / sums["count"] - mean**2
    deviation = jnp.sqrt(jnp.maximum(variance, 0))
    deviation = jnp.where(
        deviation > 1e-6, deviation, 1.0
    )  # a constant feature has deviation 0
    new = {"mean": mean, "deviation": deviation, "known": jnp.ones((), bool)}
    # Estimated once: a later change would change what the trained kernel computes.
    keep = lambda old, new: jnp.where(params.fixed["known"], old, new)
    return params._replace(fixed=jax.tree.map(keep, params.fixed, new))
