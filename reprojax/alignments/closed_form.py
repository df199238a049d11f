"""A linear map in closed form: ridge regression on the labels."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import Key, Manipulation, Params, PyTree, Scope
from reprojax.core.guards import check_sizes


def ridge(targets: int, strength: float = 0.1) -> Manipulation:
    """y [B S] -> y @ kernel [S T] + bias [T], estimated, not learned.

    Kernel and bias minimise |y @ kernel + bias - one-hot label|^2 + penalty |kernel|^2
    (Hoerl and Kennard 1970). Their sums over a pass add up over batches and devices, as
    a label map's counts do. They hold S x S numbers: 4 MB for 1,000 source classes.
    Before it is estimated it picks the first T source classes.

    The answers are near 0 and 1, so a softmax of them stays almost even, and the cross
    entropy goes on pulling at rows that are right already. That is wanted: a kernel
    estimated on few rows fits them, and answers ten times as large left a prompt
    nothing to learn (docs/principles.md).

    Args:
        strength: the penalty is this share of the mean variance of y's columns, times
            the number of rows, so that it does not depend on the logits' scale.
    """
    check_sizes("ridge", targets=targets)
    if not strength > 0:
        raise ValueError(
            f"ridge got strength={strength}, expected a number above 0: without a "
            "penalty few rows have no single solution; take .1, or learn linear(...)"
        )

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        kernel = jnp.eye(y.shape[-1], targets)
        return Params(fixed={"kernel": kernel, "bias": jnp.zeros(targets)})

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        own = jax.tree.map(lambda a: a.astype(y.dtype), params.fixed)
        return y @ own["kernel"] + own["bias"]

    def observe(
        params: Params, y: Float[Array, "B S"], labels: Int[Array, "B"]
    ) -> dict[str, Any]:
        real = (labels >= 0).astype(jnp.float32)[:, None]
        # A row without an example may hold anything; 0 * NaN would be NaN.
        x = jnp.where(real > 0, y.astype(jnp.float32), 0)
        right = jax.nn.one_hot(labels, targets)
        sums = {"rows": real.sum(), "x": x.sum(0), "labels": right.sum(0)}
        return sums | {"xx": x.T @ x, "xy": x.T @ right}

    def refresh(params: Params, sums: dict[str, Any]) -> Params:
        return params._replace(fixed=_solved(sums, strength))

    return Manipulation(init, apply, observe, refresh)


def _solved(sums: dict[str, Any], strength: float) -> dict[str, Array]:
    """The centred normal equations, so that the bias is not penalised."""
    rows = jnp.maximum(sums["rows"], 1)
    mean, share = sums["x"] / rows, sums["labels"] / rows
    spread = sums["xx"] / rows - jnp.outer(mean, mean)
    together = sums["xy"] / rows - jnp.outer(mean, share)
    penalty = strength * jnp.trace(spread) / len(mean) + 1e-12  # constant logits
    wide = spread + penalty * jnp.eye(len(mean))
    kernel = jax.scipy.linalg.solve(wide, together, assume_a="pos")
    return {"kernel": kernel, "bias": share - mean @ kernel}
