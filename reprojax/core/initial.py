"""Initial weights of small networks."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from reprojax.core.vocabulary import Key


def uniform(fan: int) -> Any:
    """U(-b, b), b = fan^-.5: PyTorch's initial weights of a layer with `fan` inputs."""
    bound = fan**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def dense(key: Key, into: int, out: tuple[int, ...]) -> dict[str, Array]:
    """PyTorch's initial Linear layer: the kernel [into *out] and the bias [*out]."""
    k, start = jax.random.split(key), uniform(into)
    return {"kernel": start(k[0], (into, *out)), "bias": start(k[1], out)}
