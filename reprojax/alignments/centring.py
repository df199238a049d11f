"""Source logits from which their mean over the examples is taken."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import Key, Manipulation, Params, PyTree, Scope


def centred(label_map: Manipulation) -> Manipulation:
    """y [*B S] less its mean [S] over the examples, then a label map.

    What the model says to every input speaks for no class. The columns of a map sum to
    one, so a class whose source classes have a high logit throughout is ahead without
    it; how much that costs is in docs/results.md. The map counts the answers as they
    came, and until it is estimated nothing is taken off.
    """
    count, remap = label_map.observe, label_map.refresh
    if count is None or remap is None:
        raise ValueError(
            "centred got a map that is not estimated, expected one that is, such as "
            "bayesian(...); take a drawn or a named map as it is"
        )

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        own = label_map.init(key, y, scope)
        mean = jnp.zeros(y.shape[-1])
        return own._replace(fixed={"map": own.fixed, "mean": mean})

    def inner(params: Params) -> Params:
        return params._replace(fixed=params.fixed["map"])

    def apply(params: Params, y: Float[Array, "*B S"], scope: Scope) -> Array:
        moved = y - params.fixed["mean"].astype(y.dtype)
        return label_map.apply(inner(params), moved, scope)

    def observe(
        params: Params, y: Float[Array, "B S"], labels: Int[Array, "B"]
    ) -> PyTree:
        real = (labels >= 0).astype(jnp.float32)
        counts = count(inner(params), y, labels)
        return {"map": counts, "sum": real @ y.astype(jnp.float32), "rows": real.sum()}

    def refresh(params: Params, sums: PyTree) -> Params:
        new = remap(inner(params), sums["map"])
        mean = sums["sum"] / jnp.maximum(sums["rows"], 1)
        return new._replace(fixed={"map": new.fixed, "mean": mean})

    return Manipulation(init, apply, observe, refresh)
