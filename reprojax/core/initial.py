"""Where the weights of small nets start."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from reprojax.core.vocabulary import Key


def uniform(fan: int) -> Any:
    """U(-b, b) with b = fan^-.5: PyTorch's start of a layer that sums `fan` numbers."""
    bound = fan**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def dense(key: Key, into: int, out: tuple[int, ...]) -> dict[str, Array]:
    """The kernel [into *out] and the bias [*out] with which torch's Linear starts."""
    k, start = jax.random.split(key), uniform(into)
    return {"kernel": start(k[0], (into, *out)), "bias": start(k[1], out)}
