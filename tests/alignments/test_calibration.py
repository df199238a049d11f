"""Calibration as an estimated alignment, for arrays; for texts see tests/recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Params, Scope, chain, reprogram, stateless
from reprojax.alignments import calibrated, columns
from reprojax.core.estimation import observe, refresh

RNG = np.random.default_rng(0)
T = 3


def logp(n, shift=0.0):
    """Log-probabilities of T label words, which have little of the mass."""
    z = RNG.normal(size=(n, 10)).astype("f4") + shift
    return jax.nn.log_softmax(z)[:, :T]


def estimated(y, labels=None, **kw):
    m = calibrated(T, **kw)
    params = m.init(jax.random.key(0), y, Scope())
    labels = jnp.zeros(len(y), int) if labels is None else labels
    return m, m.refresh(params, m.observe(params, y, labels))


def test_until_it_is_estimated_it_changes_nothing():
    m, y = calibrated(T), logp(4)
    params = m.init(jax.random.key(0), y, Scope())
    np.testing.assert_array_equal(m.apply(params, y, Scope()), y)


def test_the_published_contextual_calibration():
    """W = diag(p_cf)^-1 on probabilities that sum to one; p_cf from raw means."""
    free, y = np.exp(logp(3)), logp(50)
    p_cf = free.mean(0) / free.mean(0).sum()
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    published = (np.linalg.inv(np.diag(p_cf)) @ p.T).T
    m, params = estimated(jnp.log(free), normalised=False)
    got = np.asarray(m.apply(params, y, Scope()))
    np.testing.assert_array_equal(got.argmax(1), published.argmax(1))
    ratio = np.exp(got) / published  # of a row, one factor
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones((1, T)), rtol=1e-5)
    # With rows made to sum to one first, they weigh alike.
    _, alike = estimated(jnp.log(free))
    rows = free / free.sum(1, keepdims=True)
    np.testing.assert_allclose(jnp.exp(alike.fixed), rows.mean(0), rtol=1e-5)
    assert abs(np.exp(alike.fixed) - p_cf).max() > 1e-3


def test_the_published_batch_calibration():
    y = logp(50)
    m, params = estimated(y)
    p = np.exp(y) / np.exp(y).sum(1, keepdims=True)
    expected = np.asarray(y) - np.log(p.mean(0))
    np.testing.assert_allclose(m.apply(params, y, Scope()), expected, rtol=1e-5)


def test_strength_scales_what_is_taken_off():
    y = logp(5)
    whole, params = estimated(y)
    half = calibrated(T, strength=0.5)
    mid = (y + whole.apply(params, y, Scope())) / 2
    np.testing.assert_allclose(half.apply(params, y, Scope()), mid, rtol=1e-5)


def test_one_row_is_flat_afterwards():
    """What the estimate came from has no favourite."""
    y = logp(1)
    for normalised in (True, False):
        m, params = estimated(y, normalised=normalised)
        assert np.ptp(m.apply(params, y, Scope())) < 1e-5


def test_a_bias_is_taken_off_whatever_its_size():
    """Adding a constant a label to all scores changes no calibrated answer."""
    y, bias = logp(40), jnp.array([3.0, 0.0, -3.0])
    m, plain = estimated(y)
    free = jnp.zeros((1, T))
    _, a = estimated(free)
    _, b = estimated(free + bias)
    one, other = m.apply(a, y, Scope()), m.apply(b, y + bias, Scope())
    np.testing.assert_allclose(one - one[:, :1], other - other[:, :1], atol=1e-5)
    assert (np.argmax(y, 1) != np.argmax(y + bias, 1)).any()


def test_sums_of_batches_add_up_and_filling_counts_for_nothing():
    y = logp(8)
    m, whole = estimated(y)
    params = m.init(jax.random.key(0), y, Scope())
    parts = [
        m.observe(params, y[i : i + 3], jnp.zeros(len(y[i : i + 3]), int))
        for i in (0, 3, 6)
    ]
    np.testing.assert_allclose(
        m.refresh(params, sum(parts)).fixed, whole.fixed, rtol=1e-5
    )
    filled = jnp.concatenate([y, 50 + logp(2)])
    labels = jnp.array([0, 2, 1, 0, 0, 1, 1, 0, -1, -1])
    _, same = estimated(filled, labels)
    np.testing.assert_allclose(same.fixed, whole.fixed, rtol=1e-5)


def test_nothing_seen_is_no_calibration_and_a_label_never_seen_is_finite():
    y = jnp.full((2, T), -200.0)
    _, params = estimated(y, normalised=False)
    np.testing.assert_array_equal(params.fixed, jnp.zeros(T))
    _, params = estimated(jnp.array([[0.0, -200.0, -1.0]]), normalised=False)
    assert jnp.isfinite(params.fixed).all()


def test_types_are_kept():
    m, params = estimated(logp(3))
    y = logp(2).astype(jnp.bfloat16)
    assert m.apply(params, y, Scope()).dtype == jnp.bfloat16


@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_estimated_in_an_array_program_as_label_maps_are(normalised):
    forward = lambda frozen, x, edit: edit("output", edit("input", x) @ frozen)
    align = chain(
        logp=stateless(jax.nn.log_softmax),
        words=columns([4, 1, 7]),
        calibrated=calibrated(T, normalised=normalised),
    )
    program = reprogram(forward, {"output": align})
    frozen = jnp.asarray(RNG.normal(size=(5, 10)), jnp.float32)
    x = jnp.asarray(RNG.normal(size=(6, 5)), jnp.float32)
    params = program.init(jax.random.key(0), frozen, x)
    sums = observe(program, params, {"output/raw": x @ frozen}, jnp.zeros(6, int))
    new = refresh(program, params, sums)
    y = jax.nn.log_softmax(x @ frozen)[:, jnp.array([4, 1, 7])]
    _, expected = estimated(y, normalised=normalised)
    np.testing.assert_allclose(
        new.fixed["output"]["calibrated"], expected.fixed, rtol=1e-5
    )
    assert isinstance(new, Params)
    np.testing.assert_allclose(
        program.apply(new, frozen, x), y - expected.fixed, rtol=1e-5
    )
