"""Estimates of a gradient, on a quadratic whose gradient is known.

The wrong variants: a sphere without its dimension, or with the wrong power of it; one
side divided by two radii; two sides divided by one; 1 / u left out where u is not +-1;
the momentum of a heavy ball instead of a look-ahead; gains from the wrong step.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reprojax.searches import (
    evolution_strategy,
    falling,
    gaussian,
    rademacher,
    segmented,
    sphere,
    spsa,
    spsa_gc,
    zeroth_order,
)

RANDOM = np.random.default_rng(0)
ROOT = RANDOM.normal(size=(7, 7))
HESSIAN, SLOPE = ROOT @ ROOT.T / 7, RANDOM.normal(size=7)
START = {"a": jnp.asarray(RANDOM.normal(size=(2, 3)), jnp.float32), "b": jnp.ones(1)}
FLAT = np.concatenate([np.ravel(START["a"]), [1.0]])
TRUE = HESSIAN @ FLAT + SLOPE
PLAIN = optax.sgd(1.0)  # the step is then minus the estimate


def value(points):
    """The quadratic of n points."""
    n = len(points["b"])
    w = jnp.concatenate([points["a"].reshape(n, -1), points["b"]], 1)
    return 0.5 * jnp.einsum("ni,ij,nj->n", w, HESSIAN, w) + w @ SLOPE


def step(search, key, state):
    points = search.ask(key, state)
    return search.tell(state, points, value(points))


def estimates(search, draws=4000):
    """[draws 7]"""
    state = search.init(jax.random.key(0), START)
    keys = jax.random.split(jax.random.key(1), draws)
    means = jax.vmap(lambda key: search.read(step(search, key, state)))(keys)
    moved = [START["a"] - means["a"], START["b"] - means["b"]]
    return np.concatenate([np.reshape(m, (draws, -1)) for m in moved], 1)


def is_mean(found, wanted, factor=1.0):
    """Within 4 standard errors in every component."""
    error = found.std(0, ddof=1) / len(found) ** 0.5
    return np.all(np.abs(found.mean(0) - factor * wanted) < 4 * error + 1e-4)


KINDS = {"rademacher": rademacher(), "segmented": segmented(), "gaussian": gaussian()}
KINDS |= {"sphere": sphere(), "sphere, b = 2": sphere(2.0)}


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_an_estimate_is_the_gradient(kind, sides):
    search = zeroth_order(PLAIN, KINDS[kind], count=2, radius=0.3, sides=sides)
    found = estimates(search)
    factor = 2 / 7 if kind == "sphere, b = 2" else 1.0
    assert is_mean(found, TRUE, factor)
    for wrong in (factor / 7, factor * 7, factor / 2, factor * 2, factor * 0.75):
        assert not is_mean(found, TRUE, wrong)


def test_more_directions_mean_less_noise():
    one, four = (
        estimates(zeroth_order(PLAIN, gaussian(), count=n, radius=0.1), 2000)
        for n in (1, 4)
    )
    assert 3.2 < one.var(0).sum() / four.var(0).sum() < 4.8


def test_evolution_without_ranks_is_the_two_sided_gaussian_estimate():
    search = evolution_strategy(PLAIN, pairs=3, sigma=0.2, ranks=False)
    assert is_mean(estimates(search), TRUE)


@pytest.mark.parametrize("sides, count, points", [(1, 5, 6), (2, 5, 10)])
def test_how_many_points_a_step_asks_for(sides, count, points):
    search = zeroth_order(PLAIN, gaussian(), count=count, radius=0.1, sides=sides)
    state = search.init(jax.random.key(0), START)
    asked = search.ask(jax.random.key(1), state)
    assert asked["a"].shape == (points, 2, 3) and asked["b"].shape == (points, 1)
    again = search.ask(jax.random.key(1), state)
    other = search.ask(jax.random.key(2), state)
    np.testing.assert_array_equal(asked["a"], again["a"])
    assert np.all(asked["a"][0] != other["a"][0])


def test_where_the_points_lie():
    state = spsa(1.0, 0.25).init(jax.random.key(0), START)
    points = spsa(1.0, 0.25, count=3).ask(jax.random.key(1), state)
    away = np.asarray(points["a"] - START["a"])
    np.testing.assert_allclose(np.abs(away), 0.25, rtol=1e-5)
    np.testing.assert_allclose(away[:3], -away[3:], rtol=1e-5)
    part = zeroth_order(PLAIN, segmented(), count=50, radius=1.0)
    away = np.abs(part.ask(jax.random.key(1), state)["a"] - START["a"])
    assert 0.5 <= away.min() < 0.53 and 0.97 < away.max() <= 1
    ball = zeroth_order(PLAIN, sphere(), count=4, radius=0.5, sides=1)
    points = ball.ask(jax.random.key(1), state)
    flat = np.concatenate([points["a"].reshape(5, -1), points["b"]], 1) - FLAT
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), [0.5] * 4 + [0], atol=1e-6)


def test_spalls_gains():
    a, c = falling(0.3, 0.602, 10), falling(0.2, 0.101)
    np.testing.assert_allclose(a(0), 0.3 / 11**0.602)
    np.testing.assert_allclose(a(4), 0.3 / 15**0.602)
    np.testing.assert_allclose([c(0), c(1)], [0.2, 0.2 / 2**0.101])


def by_hand(search, keys, gradient_to_step, momentum):
    """The same search with the recursion written out, from the points it asks for."""
    state, w, m = search.init(jax.random.key(0), START), FLAT.astype(np.float64), 0.0
    for k, key in enumerate(keys):
        points = search.ask(key, state)
        n = len(points["b"]) // 2
        p = np.concatenate([points["a"].reshape(2 * n, -1), points["b"]], 1)
        f = np.asarray(value(points), np.float64)
        g = np.mean([(f[i] - f[n + i]) / (p[i] - p[n + i]) for i in range(n)], axis=0)
        m = momentum * m + g
        w = w - gradient_to_step(k, g, m)
        state = search.tell(state, points, value(points))
    mean = search.read(state)
    return w, np.concatenate([np.ravel(mean["a"]), mean["b"]])


KEYS = jax.random.split(jax.random.key(5), 4)


def test_spsa_is_spalls_recursion():
    search = spsa(0.3, 0.2, stability=5, count=2)
    wanted, found = by_hand(
        search, KEYS, lambda k, g, m: 0.3 / (k + 6) ** 0.602 * g, 0.0
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_gradient_correction_looks_ahead():
    search = spsa_gc(0.05, 0.1, count=3)
    rate = lambda k: 0.05 / (k + 2) ** 0.4  # k from 0: the published step 1, o = 1
    ahead = lambda k, g, m: rate(k) * (g + 0.9 * m)
    wanted, found = by_hand(search, KEYS, ahead, 0.9)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    heavy, _ = by_hand(search, KEYS, lambda k, g, m: rate(k) * m, 0.9)
    assert np.abs(heavy - found).max() > 0.01


@pytest.mark.parametrize(
    "search, steps",
    [
        (spsa(0.5, 0.1, stability=10, count=2), 400),
        (spsa_gc(0.05, 0.1), 150),
        (zeroth_order(optax.adam(0.1), sphere(), count=8, radius=0.1, sides=1), 200),
        (evolution_strategy(optax.adam(0.1), pairs=8, sigma=0.1), 150),
    ],
    ids=["spsa", "spsa-gc", "bar", "evolution"],
)
def test_searches_find_the_minimum(search, steps):
    @jax.jit
    def run(state):
        keys = jax.random.split(jax.random.key(2), steps)
        return jax.lax.scan(lambda s, k: (step(search, k, s), None), state, keys)[0]

    found = search.read(run(search.init(jax.random.key(0), START)))
    alone = jax.tree.map(lambda a: a[None], found)
    least = -0.5 * SLOPE @ np.linalg.solve(HESSIAN, SLOPE)
    first = float(value(jax.tree.map(lambda a: a[None], START))[0]) - least
    assert float(value(alone)[0]) - least < 0.1 * first


def test_wrong_settings():
    with pytest.raises(ValueError, match="sides=3 and count=1, expected 1 or 2 sides"):
        zeroth_order(PLAIN, gaussian(), count=1, radius=0.1, sides=3)
    with pytest.raises(ValueError, match="no learnable numbers"):
        spsa(0.1, 0.1).init(jax.random.key(0), ())


def test_an_optimiser_gets_the_mean_of_what_was_asked():
    def update(updates, state, params=None, *, value, grad, **extra):
        return updates, value

    keeps = optax.GradientTransformationExtraArgs(lambda p: jnp.zeros(()), update)
    search = spsa(0.1, 0.1, count=2, optimizer=keeps)
    state = search.init(jax.random.key(0), START)
    points = search.ask(jax.random.key(1), state)
    told = search.tell(state, points, jnp.array([1.0, 2.0, 3.0, 6.0]))
    assert float(told.opt) == 3.0
    plateau = spsa(0.1, 0.1, optimizer=optax.contrib.reduce_on_plateau())
    state = plateau.init(jax.random.key(0), START)
    points = plateau.ask(jax.random.key(1), state)
    assert jnp.isfinite(plateau.tell(state, points, value(points)).mean["a"]).all()
