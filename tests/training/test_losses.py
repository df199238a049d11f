"""Losses against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.training.losses import Rows, Seen, cross_entropy, mean_loss, with_norm

draw = np.random.default_rng(0)
LOGITS = draw.normal(size=(5, 4)).astype(np.float32) * 3
LABELS = np.array([2, -1, 0, 3, -1], np.int32)


def by_hand(logits: np.ndarray, labels: np.ndarray) -> float:
    """Of the real rows, one by one, in double precision."""
    each = [
        np.log(np.exp(row.astype(np.float64)).sum()) - row[label]
        for row, label in zip(logits, labels, strict=True)
        if label >= 0
    ]
    return float(np.mean(each)) if each else 0.0


def loss(logits: np.ndarray, labels: np.ndarray = LABELS) -> jax.Array:
    return of(jnp.asarray(logits), jnp.asarray(labels))


def of(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """What the loop makes of cross entropy."""
    return mean_loss(cross_entropy(Seen({"output": logits}, labels)), labels)


def test_cross_entropy_is_the_mean_over_real_rows():
    assert loss(LOGITS) == pytest.approx(by_hand(LOGITS, LABELS), rel=1e-6)
    real = LABELS >= 0
    assert loss(LOGITS) == pytest.approx(float(loss(LOGITS[real], LABELS[real])))


def test_rows_that_fill_a_batch_have_no_influence_whatever_is_in_them():
    other = np.where((LABELS >= 0)[:, None], LOGITS, 1e6)
    assert loss(other) == loss(LOGITS)
    slope = jax.grad(lambda y: of(y, jnp.asarray(LABELS)))
    assert not np.any(slope(jnp.asarray(LOGITS))[LABELS < 0])


def test_a_batch_without_real_rows_costs_nothing():
    nobody = np.full(5, -1, np.int32)
    assert loss(LOGITS, nobody) == 0
    slope = jax.grad(lambda y: of(y, jnp.asarray(nobody)))
    assert not np.any(slope(jnp.asarray(LOGITS)))


def test_large_logits_neither_overflow_nor_vanish():
    y = np.float32([[1e4, 0], [0, 1e4]])
    assert loss(y, np.array([0, 1])) == 0
    assert loss(y, np.array([1, 0])) == pytest.approx(1e4)


def test_half_precision_logits_are_summed_in_single():
    y = jnp.asarray(draw.normal(size=(512, 4)), jnp.bfloat16)
    labels = jnp.asarray(draw.integers(0, 4, 512))
    found = of(y, labels)
    assert found.dtype == jnp.float32
    expected = by_hand(np.asarray(y, np.float32), np.asarray(labels))
    assert found == pytest.approx(expected, rel=1e-5)


def test_with_norm_adds_the_squares_of_all_learnable_numbers():
    learnable = {"input": jnp.asarray(LOGITS), "output": (jnp.arange(3.0), ())}
    squares = float((LOGITS.astype(np.float64) ** 2).sum()) + 5
    labels = jnp.asarray(LABELS)
    seen = Seen({"output": jnp.asarray(LOGITS)}, labels, learnable)
    found = mean_loss(with_norm(0.25)(seen), labels)
    assert found == pytest.approx(by_hand(LOGITS, LABELS) + 0.25 * squares, rel=1e-6)


def test_with_norm_pulls_at_a_prompt_of_zeros_without_nan():
    slope = jax.grad(
        lambda p: with_norm(1.0)(
            Seen({"output": LOGITS + p}, jnp.asarray(LABELS), p)
        ).sum()
    )(jnp.zeros(4))
    assert np.isfinite(slope).all()


def test_weights_divide_and_have_no_gradient():
    value, weight = jnp.array([1.0, 5.0, 2.0, 7.0, 9.0]), jnp.array([3.0, 1, 1, 0, 1])
    labels = jnp.asarray(LABELS)
    assert mean_loss(Rows(value, weight), labels) == pytest.approx((3 + 2) / 4)
    slope = jax.grad(lambda w: mean_loss(Rows(value, w), labels))(weight)
    assert not np.any(slope)


def test_a_filler_that_is_not_finite_has_no_influence():
    value = jnp.array([1.0, np.nan, 2.0, 3.0, np.inf])
    assert mean_loss(value, jnp.asarray(LABELS)) == 2.0
    assert mean_loss(Rows(value, value), jnp.asarray(LABELS)) == pytest.approx(14 / 6)
