"""Evolution. The wrong variants: ranks that favour the first of equals, an ask that
changes its state, a CMA-ES that maximises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reprojax.searches import cma_es, evolution_strategy
from reprojax.searches.evolution import centred_ranks

START = {"a": jnp.full((2, 2), 2.0), "b": jnp.array([-1.0])}


def value(points):
    return (points["a"] ** 2).sum((1, 2)) + 3 * (points["b"][:, 0] - 1) ** 2


def test_ranks():
    found = centred_ranks(jnp.array([3.0, -7.0, 100.0]))
    np.testing.assert_allclose(found, [0, -0.5, 0.5])
    ties = centred_ranks(jnp.array([1.0, 2.0, 2.0, 2.0, 5.0]))
    np.testing.assert_allclose(ties, [-0.5, 0, 0, 0, 0.5])


def test_where_all_values_are_equal_nothing_moves():
    search = evolution_strategy(optax.sgd(1.0), pairs=4, sigma=0.1)
    state = search.init(jax.random.key(0), START)
    points = search.ask(jax.random.key(1), state)
    state = search.tell(state, points, jnp.ones(8))
    np.testing.assert_allclose(search.read(state)["a"], START["a"], atol=1e-6)


def test_ranks_do_not_see_the_scale():
    search = evolution_strategy(optax.sgd(1.0), pairs=4, sigma=0.1)
    state = search.init(jax.random.key(0), START)
    points = search.ask(jax.random.key(1), state)
    small, large = (
        search.read(search.tell(state, points, scale * value(points)))["a"]
        for scale in (1.0, 1000.0)
    )
    np.testing.assert_array_equal(small, large)


def run(steps, seed=0):
    search = cma_es(0.5, population=8)
    state = search.init(jax.random.key(seed), START)
    for key in jax.random.split(jax.random.key(seed), steps):
        points = search.ask(key, state)
        state = search.tell(state, points, value(points))
    return search, state


def test_cma_es_finds_the_minimum():
    search, state = run(60)
    found = search.read(state)
    np.testing.assert_allclose(found["a"], 0, atol=0.05)
    np.testing.assert_allclose(found["b"], 1, atol=0.05)


def test_the_result_may_be_the_best_point_that_was_asked():
    search = cma_es(0.5, population=8, result="point")
    state = search.init(jax.random.key(0), START)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, search.read(state), START))
    for key in jax.random.split(jax.random.key(0), 3):
        points = search.ask(key, state)
        values = value(points)
        state = search.tell(state, points, values)
        i, found = int(values.argmin()), search.read(state)
        np.testing.assert_allclose(found["a"], points["a"][i], rtol=1e-6)
        np.testing.assert_allclose(found["b"], points["b"][i], rtol=1e-6)
    with pytest.raises(ValueError, match="result='last', expected 'mean' or 'point'"):
        cma_es(0.5, result="last")


def test_cma_es_is_pure():
    search, state = run(3)
    before = search.read(state)["a"]
    key = jax.random.key(9)
    first, again = search.ask(key, state), search.ask(key, state)
    np.testing.assert_array_equal(first["a"], again["a"])
    assert np.all(search.ask(jax.random.key(8), state)["a"] != first["a"])
    one, two = (search.tell(state, first, value(first)) for _ in range(2))
    np.testing.assert_array_equal(search.read(state)["a"], before)
    np.testing.assert_array_equal(search.read(one)["a"], search.read(two)["a"])
    assert np.any(search.read(one)["a"] != before)
    asked = search.ask(key, one), search.ask(key, two)
    np.testing.assert_array_equal(asked[0]["a"], asked[1]["a"])


def test_cma_es_refuses_what_is_too_large():
    with pytest.raises(ValueError, match="3000 learnable numbers, expected 2 to 2000"):
        cma_es(0.1).init(jax.random.key(0), jnp.zeros(3000))
