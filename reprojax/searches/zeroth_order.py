"""Estimated gradients from values alone, for any optax optimiser.

An estimate is the mean of slope(u) * dual(u) over a few directions u, where slope is a
difference of two values divided by their distance. The dual is chosen such that
E[dual(u) u^T] = I, so the expected estimate is the gradient.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from reprojax.core import Key, PyTree
from reprojax.searches.search import Search

Schedule = Callable[[Any], Any]  # step, from 0 -> number


class Directions(NamedTuple):
    """Random directions [d]."""

    draw: Callable[[Key, int], Float[Array, "d"]]
    """(key, d) -> u"""
    dual: Callable[[Float[Array, "d"]], Float[Array, "d"]]
    """u -> v with E[v u^T] = I"""


def rademacher() -> Directions:
    """Components +1 or -1, as in SPSA (Spall 1992)."""

    def draw(key: Key, size: int) -> Float[Array, "d"]:
        return jax.random.rademacher(key, (size,), jnp.float32)

    return Directions(draw, jnp.sign)


def segmented() -> Directions:
    """Uniform on [-1, -.5] and [.5, 1], as in BlackVIP (arXiv 2303.14773)."""

    def draw(key: Key, size: int) -> Float[Array, "d"]:
        sign, length = jax.random.split(key)
        long = jax.random.uniform(length, (size,), minval=0.5, maxval=1.0)
        return long * jax.random.rademacher(sign, (size,), jnp.float32)

    return Directions(draw, lambda u: 1 / u)


def gaussian() -> Directions:
    """Standard normal (Nesterov and Spokoiny 2017)."""
    return Directions(lambda key, size: jax.random.normal(key, (size,)), lambda u: u)


def sphere(scale: float | None = None) -> Directions:
    """Uniform on the unit sphere, as in BAR (arXiv 2007.08714).

    E[u u^T] = I / d, so the expected estimate is scale / d times the gradient.

    Args:
        scale: the paper's b; by default d, for which the expectation is the gradient.
    """

    def draw(key: Key, size: int) -> Float[Array, "d"]:
        u = jax.random.normal(key, (size,))
        return u / jnp.linalg.norm(u)

    return Directions(draw, lambda u: (u.size if scale is None else scale) * u)


class SearchState(NamedTuple):
    """The state of a search by descent."""

    mean: PyTree
    opt: optax.OptState
    step: jax.Array


def zeroth_order(
    optimizer: optax.GradientTransformation,
    directions: Directions,
    *,
    count: int,
    radius: float | Schedule,
    sides: int = 2,
    weigh: Callable[[Float[Array, "n"]], Float[Array, "n"]] = lambda values: values,
) -> Search:
    """Descend along an estimate of the gradient.

    Args:
        count: directions a step. A step asks for 2 * count points if two-sided, and for
            count + 1 if one-sided, because all directions share the central value.
        radius: distance of the points from the centre, a number or a schedule.
        weigh: a transformation of the values, such as to their ranks.
    """
    if sides not in (1, 2) or count < 1:
        raise ValueError(
            f"zeroth_order got sides={sides} and count={count}, expected 1 or 2 sides "
            "and at least one direction"
        )

    update = optax.with_extra_args_support(optimizer).update

    def distance(state: SearchState) -> Any:
        return radius(state.step) if callable(radius) else radius

    def init(key: Key, learnable: PyTree) -> SearchState:
        if not jax.tree.leaves(learnable):
            raise ValueError(
                "the search got no learnable numbers, expected some; a program with "
                "only estimated maps needs no search"
            )
        mean = jax.tree.map(jnp.asarray, learnable)
        return SearchState(mean, optimizer.init(mean), jnp.zeros((), jnp.int32))

    def ask(key: Key, state: SearchState) -> PyTree:
        middle, unravel = ravel_pytree(state.mean)
        draw = lambda key: directions.draw(key, middle.size)
        away = distance(state) * jax.vmap(draw)(jax.random.split(key, count))
        other = middle - away if sides == 2 else middle[None]
        return jax.vmap(unravel)(jnp.concatenate([middle + away, other]))

    def tell(
        state: SearchState, points: PyTree, values: Float[Array, "n"]
    ) -> SearchState:
        flat = jax.vmap(lambda point: ravel_pytree(point)[0])(points)
        value, span = values.mean(), sides * distance(state)
        values = weigh(values)
        # From the points themselves, which include the rounding of what was asked.
        moved = (flat[:count] - flat[count:]) / span
        slopes = (values[:count] - values[count:]) / span
        flat_gradient = (slopes[:, None] * jax.vmap(directions.dual)(moved)).mean(0)
        gradient = ravel_pytree(state.mean)[1](flat_gradient)
        # Some optimisers, such as reduce_on_plateau, need the loss, too.
        extra = {"value": value, "grad": gradient}
        updates, opt = update(gradient, state.opt, state.mean, **extra)
        mean = optax.apply_updates(state.mean, updates)
        return SearchState(mean, opt, state.step + 1)

    return Search(init, jax.jit(ask), jax.jit(tell), lambda state: state.mean)


def falling(first: float, power: float, stability: float = 0.0) -> Schedule:
    """Spall's gains: first / (k + 1 + stability)^power at step k = 0, 1, ...

    With power .602 it is a_k, with .101 and no stability c_k (Spall 1998).
    """
    return lambda step: first / (step + 1.0 + stability) ** power


def spsa(
    a: float,
    c: float,
    *,
    stability: float = 0.0,
    alpha: float = 0.602,
    gamma: float = 0.101,
    count: int = 1,
    optimizer: optax.GradientTransformation | None = None,
) -> Search:
    """Simultaneous perturbation stochastic approximation (Spall 1992, 1998).

    Args:
        a: steps have the size a / (k + 1 + stability)^alpha.
        c: perturbations have the size c / (k + 1)^gamma.
        count: estimates to average; each costs two points.
        optimizer: replaces plain steps of a_k, such as `optax.adam(rate)`.
    """
    steps = optax.sgd(falling(a, alpha, stability)) if optimizer is None else optimizer
    return zeroth_order(steps, rademacher(), count=count, radius=falling(c, gamma))


def spsa_gc(
    a: float = 0.01,
    c: float = 0.01,
    *,
    stability: float = 1.0,
    alpha: float = 0.4,
    gamma: float = 0.1,
    count: int = 5,
    momentum: float = 0.9,
) -> Search:
    """SPSA with gradient correction, as published for BlackVIP (arXiv 2303.14773).

    m <- momentum m + g, then w <- w - a_k (g + momentum m), which is Nesterov's rule.
    """
    steps = optax.sgd(falling(a, alpha, stability), momentum, nesterov=True)
    return zeroth_order(steps, segmented(), count=count, radius=falling(c, gamma))
