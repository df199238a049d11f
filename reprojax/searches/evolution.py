"""Evolution: antithetic strategies, and CMA-ES by the library `cmaes`."""

import copy
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from reprojax.core import Key, PyTree
from reprojax.searches.search import Search
from reprojax.searches.zeroth_order import Schedule, gaussian, zeroth_order


def centred_ranks(values: Float[Array, "n"]) -> Float[Array, "n"]:
    """Ranks in [-.5, .5]; ties share the mean of their ranks, so they do not pull."""
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1) - 1
    return (below + equal / 2) / max(len(values) - 1, 1) - 0.5


def evolution_strategy(
    optimizer: optax.GradientTransformation,
    *,
    pairs: int,
    sigma: float | Schedule,
    ranks: bool = True,
) -> Search:
    """Antithetic evolution strategy (Salimans et al., arXiv 1703.03864).

    Args:
        pairs: number of directions e; a step asks for mean + sigma e and mean - sigma e
            of each.
        ranks: use the ranks of all values instead of the values.
    """
    weigh = centred_ranks if ranks else lambda values: values
    return zeroth_order(optimizer, gaussian(), count=pairs, radius=sigma, weigh=weigh)


class HostState(NamedTuple):
    """The state of CMA-ES: an object on the host, which is never modified."""

    cma: Any
    like: PyTree
    point: np.ndarray
    """The best of the last step's points; before a step, the start."""


def cma_es(
    sigma: float,
    population: int | None = None,
    result: str = "mean",
) -> Search:
    """CMA-ES (Hansen and Ostermeier 2001), for up to a few hundred numbers.

    The library's optimiser is a mutable object on the host. Ask and tell copy it first,
    which keeps them pure, costs O(d^2), and rules out jit. The state cannot be
    checkpointed: a run resumes by replaying its log of answers. For a larger prompt,
    search in a `formats.subspace`.

    Args:
        sigma: the initial step size.
        population: points a step; by default 4 + 3 log d.
        result: "mean" of the distribution, or "point", the best of the last step's
            points, which was itself evaluated.
    """
    if result not in ("mean", "point"):
        raise ValueError(f"cma_es got result={result!r}, expected 'mean' or 'point'")

    def init(key: Key, learnable: PyTree) -> HostState:
        from cmaes import CMA

        mean = np.asarray(ravel_pytree(learnable)[0], np.float64)
        if not 1 < mean.size <= 2000:
            raise ValueError(
                f"cma_es got {mean.size} learnable numbers, expected 2 to 2000 (its "
                "covariance is a square matrix); put the prompt into a subspace(...), "
                "or take evolution_strategy(...)"
            )
        # the initial params as jax arrays, for their tree and shapes
        cma = CMA(mean, sigma, seed=_seed(key), population_size=population)
        return HostState(cma, jax.tree.map(jnp.asarray, learnable), mean)

    def ask(key: Key, state: HostState) -> PyTree:
        cma = copy.deepcopy(state.cma)
        cma.reseed_rng(_seed(key))
        points = np.stack([cma.ask() for _ in range(cma.population_size)])
        return jax.vmap(ravel_pytree(state.like)[1])(jnp.asarray(points, jnp.float32))

    def tell(state: HostState, points: PyTree, values: Any) -> HostState:
        cma = copy.deepcopy(state.cma)
        flat = jax.vmap(lambda point: ravel_pytree(point)[0])(points)
        rows, values = np.asarray(flat, np.float64), np.asarray(values)
        cma.tell(list(zip(rows, map(float, values), strict=True)))
        return state._replace(cma=cma, point=rows[values.argmin()])

    def read(state: HostState) -> PyTree:
        found = state.cma.mean if result == "mean" else state.point
        return ravel_pytree(state.like)[1](jnp.asarray(found, jnp.float32))

    return Search(init, ask, tell, read)


def _seed(key: Key) -> int:
    return int(jax.random.bits(key, dtype=jnp.uint32))
