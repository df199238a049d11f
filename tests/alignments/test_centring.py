"""A label map behind logits whose mean is taken off, against NumPy.

The wrong variants: rows that fill a batch counted; counts of the centred answers; a
mean of the batches' means; the mean taken off behind the first estimate alone.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Scope, chain
from reprojax.alignments import (
    bayesian,
    bayesian_map,
    bayesian_plus,
    centred,
    columns,
    one_to_one,
    pair_counts,
    random_map,
)
from reprojax.core import last_value, padded

RNG = np.random.default_rng(0)
N, S, T = 40, 12, 3
Y = jnp.asarray(RNG.normal(size=(N, S)) + 4 * RNG.normal(size=S), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, T, N))
KEY = jax.random.key(0)


def start(m, y=Y):
    return m.init(KEY, jax.ShapeDtypeStruct(y.shape, y.dtype), Scope())


def estimated(m, y=Y, labels=LABELS, rounds=1):
    params = start(m, y)
    for _ in range(rounds):
        params = m.refresh(params, m.observe(params, y, labels))
    return params


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_mean_goes_off_before_the_map_of_the_answers_as_they_came(rounds):
    m, new = centred(bayesian(T)), jnp.asarray(RNG.normal(size=(5, S)), jnp.float32)
    found = m.apply(estimated(m, rounds=rounds), new, Scope())
    weights = np.asarray(bayesian_map(pair_counts(Y, LABELS, T)), float)
    expected = (np.asarray(new, float) - np.asarray(Y, float).mean(0)) @ weights
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    plain = bayesian(T)
    raw = plain.apply(estimated(plain), new, Scope())
    assert np.abs(found - raw).max() > 0.1


def test_until_it_is_estimated_it_is_the_map():
    for plain in (bayesian(T), one_to_one(T)):
        m = centred(plain)
        np.testing.assert_array_equal(
            m.apply(start(m), Y, Scope()), plain.apply(start(plain), Y, Scope())
        )


def test_sums_of_uneven_batches_add_up_and_filled_rows_are_none():
    m = centred(bayesian_plus(T, k=4))
    params = start(m)
    filled = jnp.concatenate([LABELS[33:], jnp.full(5, -1)])
    parts = [(Y[:33], LABELS[:33]), (jnp.concatenate([Y[33:], 9 + Y[:5]]), filled)]
    sums = [m.observe(params, *part) for part in parts]
    found = m.refresh(params, jax.tree.map(jnp.add, *sums))
    expected = estimated(m)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(same, found.fixed, expected.fixed)
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, params)


def test_a_word_that_is_always_likely_speaks_for_no_class():
    """Two classes, a telling word each, and a loud one that both are answered with."""
    y = np.zeros((20, 4), np.float32)
    labels = np.arange(20) % 2
    y[:, 3] = 100  # the loud one
    y[labels == 0, 1], y[labels == 1, 2] = 3, 3
    y[:8, 3] = 0  # not in the first rows, so that the telling ones are counted
    y[0, 3] = 100
    new = np.array([[0, 3, 0, 60], [0, 0, 3, 60]], np.float32)
    answers = {}
    for name, m in {"raw": bayesian(2), "centred": centred(bayesian(2))}.items():
        params = estimated(m, jnp.asarray(y), jnp.asarray(labels))
        answers[name] = m.apply(params, jnp.asarray(new), Scope()).argmax(1).tolist()
    assert answers == {"raw": [0, 0], "centred": [0, 1]}


def test_it_is_mapped_over_programs_and_leaves_bfloat16():
    m = centred(bayesian(T))
    both = jnp.stack([Y, Y[::-1]]), jnp.stack([LABELS, LABELS[::-1]])
    found = jax.jit(jax.vmap(lambda y, t: estimated(m, y, t)))(*both)
    one = estimated(m)
    same = lambda a, b: np.testing.assert_allclose(a, [b] * 2, rtol=1e-5, atol=1e-5)
    jax.tree.map(same, found.fixed, one.fixed)
    half = m.apply(one, Y.astype(jnp.bfloat16), Scope())
    assert half.dtype == jnp.bfloat16


def test_it_is_part_of_a_chain():
    from reprojax.alignments import last

    x = padded([[1, 2], [3], [4, 5, 6]])
    tokens = x._replace(value=jnp.asarray(RNG.normal(size=(3, 3, S)), jnp.float32))
    m, labels = chain(last=last(), map=centred(bayesian(T))), jnp.array([0, 1, 2])
    params = m.init(KEY, tokens, Scope())
    params = m.refresh(params, m.observe(params, tokens, labels))
    alone = estimated(centred(bayesian(T)), last_value(tokens), labels)
    same = np.testing.assert_array_equal
    jax.tree.map(same, params.fixed["map"], alone.fixed)


@pytest.mark.parametrize("m", [random_map(T), columns([0, 1, 2])])
def test_a_map_that_is_not_estimated_is_refused(m):
    with pytest.raises(ValueError, match="not estimated, expected one that is"):
        centred(m)
