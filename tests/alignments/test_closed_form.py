"""Ridge regression as an alignment, against NumPy on the whole data at once.

The wrong variants: a penalised bias; a penalty that depends on the number of rows or on
the logits' scale; rows that fill a batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import DENSE_FROZEN, ROWS, dense

from reprojax import Scope, reprogram
from reprojax.alignments import ridge
from reprojax.taxonomy import describe

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
S, T, N = 9, 4, 50
LABELS = RANDOM.integers(0, T, N)
CENTRES = RANDOM.normal(size=(T, S))
LOGITS = (CENTRES[LABELS] + RANDOM.normal(size=(N, S)) + 3).astype(np.float32)


def fitted(m, y=LOGITS, labels=LABELS, cuts=(0, N)):
    params = m.init(KEY, jax.ShapeDtypeStruct(y.shape, y.dtype), Scope())
    parts = [
        m.observe(params, jnp.asarray(y[a:b]), jnp.asarray(labels[a:b]))
        for a, b in zip(cuts, cuts[1:], strict=False)
    ]
    return m.refresh(params, jax.tree.map(lambda *a: sum(a), *parts))


def by_hand(strength, y=LOGITS, labels=LABELS, bias_too=False):
    """[S+1 T] of the augmented least squares, whose last row is the bias."""
    y, right = y.astype(np.float64), np.eye(T)[labels]
    penalty = strength * len(y) * y.var(0).mean()
    rows = np.concatenate([y, np.ones((len(y), 1))], 1)
    wide = np.sqrt(penalty) * np.eye(S + 1)[: S + bias_too]
    stacked = np.concatenate([rows, wide])
    return np.linalg.lstsq(
        stacked, np.concatenate([right, np.zeros((len(wide), T))]), rcond=None
    )[0]


def answers(weights, y=LOGITS):
    return y @ weights[:-1] + weights[-1]


@pytest.mark.parametrize("strength", [1e-3, 0.1, 2.0])
def test_it_is_penalised_least_squares(strength):
    m = ridge(T, strength)
    params = fitted(m)
    wanted = by_hand(strength)
    np.testing.assert_allclose(params.fixed["kernel"], wanted[:-1], atol=2e-5)
    np.testing.assert_allclose(params.fixed["bias"], wanted[-1], atol=1e-4)
    found = m.apply(params, jnp.asarray(LOGITS), Scope())
    np.testing.assert_allclose(found, answers(wanted), atol=1e-4)
    penalised = answers(by_hand(strength, bias_too=True))
    assert np.abs(found - penalised).max() > 1e-3


def test_the_answers_do_not_depend_on_the_logits_scale_or_on_doubled_rows():
    m = ridge(T)
    found = m.apply(fitted(m), jnp.asarray(LOGITS), Scope())
    large = fitted(m, 30 * LOGITS)
    same = m.apply(large, jnp.asarray(30 * LOGITS), Scope())
    np.testing.assert_allclose(same, found, atol=2e-3)
    twice = fitted(m, np.tile(LOGITS, (2, 1)), np.tile(LABELS, 2))
    same = m.apply(twice, jnp.asarray(LOGITS), Scope())
    np.testing.assert_allclose(same, found, atol=1e-3)


def test_sums_add_up_and_rows_that_fill_a_batch_are_none():
    m = ridge(T, 0.1)
    whole = fitted(m)
    for tree in (fitted(m, cuts=(0, 7, 30, N)), filled(m)):
        for found, wanted in zip(*map(jax.tree.leaves, (tree, whole)), strict=True):
            np.testing.assert_allclose(found, wanted, atol=2e-5)


def filled(m):
    y = np.concatenate([LOGITS, np.full((6, S), np.nan, np.float32)])
    return fitted(m, y, np.append(LABELS, [-1] * 6), cuts=(0, N + 6))


def test_fewer_rows_than_classes_and_constant_logits_stay_finite():
    few = fitted(ridge(T), LOGITS[:3], LABELS[:3], cuts=(0, 3))
    still = fitted(ridge(T), np.ones_like(LOGITS))
    for tree in (few, still):
        assert all(np.isfinite(a).all() for a in jax.tree.leaves(tree))
    share = np.bincount(LABELS, minlength=T) / N
    np.testing.assert_allclose(still.fixed["bias"], share, atol=1e-6)


def test_it_tells_classes_apart_that_share_their_largest_logit():
    """What one-to-one maps cannot: the same argmax for all, and a second column."""
    second = RANDOM.normal(size=N).astype(np.float32)
    y = np.stack([np.full(N, 9.0, np.float32), second, -second], 1)
    labels = (second > 0).astype(int)
    m = ridge(2)
    found = m.apply(fitted(m, y, labels), jnp.asarray(y), Scope())
    assert (np.asarray(found).argmax(1) == labels).mean() > 0.9


def test_it_reads_as_statistical_and_starts_with_the_first_classes():
    program = reprogram(dense, {"output": ridge(3)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    assert params.learnable == {} or not jax.tree.leaves(params.learnable)
    found = program.apply(params, DENSE_FROZEN, ROWS)
    np.testing.assert_allclose(found, dense(DENSE_FROZEN, ROWS)[:, :3], rtol=1e-5)
    seen = describe(program, DENSE_FROZEN, ROWS)
    assert seen.coordinates == "no prompt -> statistical"


@pytest.mark.parametrize("strength", [0.0, -1.0, float("nan")])
def test_no_penalty_is_refused(strength):
    with pytest.raises(ValueError, match="expected a number above 0"):
        ridge(T, strength)


def test_bfloat16_in_bfloat16_out():
    m = ridge(T)
    y = jnp.asarray(LOGITS, jnp.bfloat16)
    assert m.apply(fitted(m), y, Scope()).dtype == jnp.bfloat16
