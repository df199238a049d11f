"""The choice of the next token."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from reprojax.core import Key


class Sampling(NamedTuple):
    """Settings of sampling: numbers, or one for each row [B]. None is compiled in."""

    temperature: Any = 0.0
    """0 is greedy."""
    top_k: Any = 0
    """Sample from the k most likely tokens; 0 means all."""
    top_p: Any = 1.0
    """Sample from the smallest set with mass at least p, after the temperature."""


def sample(
    keys: Key, logits: Float[Array, "B V"], sampling: Sampling
) -> Int[Array, "B"]:
    """One id for each row. If all rows are greedy, nothing is sorted or drawn."""

    def drawn() -> Array:
        z = jax.vmap(warp)(logits, *sampling)
        return jax.vmap(jax.random.categorical)(keys, z).astype(jnp.int32)

    best = logits.argmax(-1).astype(jnp.int32)
    warm = jnp.asarray(sampling.temperature) > 0
    found = jax.lax.cond(warm.any(), drawn, lambda: best)
    return jnp.where(warm, found, best)


def warp(
    logits: Float[Array, "V"], temperature: Any, top_k: Any, top_p: Any
) -> Float[Array, "V"]:
    """Logits to sample from; -inf for tokens excluded by top-k or top-p."""
    down = jnp.sort(logits)[::-1]
    least = down[jnp.where(top_k > 0, jnp.minimum(top_k, down.size), down.size) - 1]
    scale = jnp.maximum(temperature, 1e-6)  # a greedy row's draw is finite, and unused
    mass = jax.nn.softmax(jnp.where(down >= least, down, -jnp.inf) / scale)
    kept = jnp.cumsum(mass) - mass < top_p  # includes the first token always
    nucleus = jnp.min(jnp.where(kept & (down >= least), down, jnp.inf))
    return jnp.where(logits >= nucleus, logits, -jnp.inf) / scale
