"""What the methods with a pool of prompts share: the query, and the losses that read
what the pool shows."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from reprojax.core import Manipulation, Params, Program, Scope, informed, until
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


def asking(program: Program, model: Model[Pixels], to_size: Manipulation) -> Program:
    """The program with the frozen model's own feature of each image as context.

    That is a second pass, of the model without prompts. A caller may give features that
    were computed once as the context instead.
    """
    features = until(model.forward, model.roles["features"][0])

    def look(frozen: Any, x: Any) -> jax.Array:
        return features(frozen, to_size.apply(Params(), x, Scope()))

    return informed(program, look)


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
