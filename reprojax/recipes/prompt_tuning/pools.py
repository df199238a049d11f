"""What the methods with a pool of prompts share: the losses that read what the pool
shows, and the blocks' sites of keys and values."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from reprojax.models import Model, Pixels
from reprojax.training.losses import Loss, Seen, cross_entropy

MATCHES = ("*/match",)
"""The sites that `pulled` reads."""


def attention(model: Model[Pixels], blocks: Sequence[int]) -> tuple[str, ...]:
    """The sites of keys and of values of some blocks, block by block."""
    keys, values = model.roles["keys"], model.roles["values"]
    return tuple(site for i in blocks for site in (keys[i], values[i]))


def checked(model: Model[Pixels], blocks: Sequence[int]) -> list[int]:
    """Numbers of blocks; raise unless the model has them, each once."""
    found, depth = list(blocks), len(model.roles["keys"])
    if len(set(found)) < len(found) or not {*found} <= {*range(depth)}:
        raise ValueError(
            f"got the blocks {found}, expected some of 0..{depth - 1}, those of "
            f"{model.name}, each once"
        )
    return found


def pulled(weight: float = 1.0) -> Loss:
    """Cross entropy less the cosines of a row's query and its chosen keys (L2P, arXiv
    2112.08654). It reads the sites `MATCHES`."""

    def loss(seen: Seen) -> jax.Array:
        return cross_entropy(seen) - weight * _tapped(seen, "match")

    return loss


def orthogonal(weight: float = 0.1) -> Loss:
    """Cross entropy and how far a pool's keys, attention and components are from
    orthonormal (CODA-Prompt, arXiv 2211.13218). It reads the sites "*/orthogonality".
    """

    def loss(seen: Seen) -> jax.Array:
        return cross_entropy(seen) + weight * _tapped(seen, "orthogonality")

    return loss


def _tapped(seen: Seen, name: str) -> jax.Array:
    """The sum of what the taps of a name showed."""
    found = [v for site, v in seen.recorded.items() if site.endswith(f"/{name}")]
    if not found:
        raise ValueError(
            f"the loss got the sites {[*seen.recorded]}, expected one that ends with "
            f"'/{name}'; give record_sites=preset.sites"
        )
    return jnp.stack(found).sum(0)
