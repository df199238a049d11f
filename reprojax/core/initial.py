"""Initial weights of small networks."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import variance_scaling
from jaxtyping import Array

from reprojax.core.vocabulary import Key


def uniform(fan: int) -> Any:
    """U(-b, b), b = fan^-.5: PyTorch's initial weights of a layer with `fan` inputs."""
    bound = fan**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


linear_kernel = variance_scaling(1 / 3, "fan_in", "uniform")
"""`uniform`, of a kernel [into out], whose inputs are counted: PyTorch's initial Linear
layer without its bias."""


def dense(key: Key, into: int, out: tuple[int, ...]) -> dict[str, Array]:
    """PyTorch's initial Linear layer: the kernel [into *out] and the bias [*out]."""
    k, start = jax.random.split(key), uniform(into)
    return {"kernel": start(k[0], (into, *out)), "bias": start(k[1], out)}
