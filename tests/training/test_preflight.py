"""LogME, the log-likelihood ratio and the label overlap, computed before training.

The wrong variants: the published default where features are more than rows, which
counts dimensions that they do not span; a ratio upside down; an overlap of counts.
"""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr

from reprojax.training.preflight import (
    Preflight,
    label_overlap,
    likelihood_ratio,
    log_evidence,
    preflight,
    rank_correlation,
)


def drawn(rows, width, classes, seed):
    """(answers [N 12] of rank `width` at most, features [N D], labels)"""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, rows)
    y[:classes] = np.arange(classes)
    f = random.normal(size=(classes, width))[y]
    f = f + random.normal(size=(rows, width)) * 1.5
    return f @ random.normal(size=(width, 12)), f, y


# (rows, features, classes, seed): LogME.fit of thuml/LogME @56551ca, and the evidence
# and the difference of two of IBM/VP-LLR @9832a88, which stops its fixed point earlier.
PUBLISHED = {
    (50, 8, 3, 0): (-0.6818916081960033, -0.6819150249, -0.0227901373),
    (30, 60, 4, 1): (None, -0.2532957338, -0.2507311452),
    (200, 40, 10, 2): (0.05593082607216933, 0.0558457892, -0.2012011907),
}


@pytest.mark.parametrize("sizes", PUBLISHED)
def test_the_published_codes(sizes):
    answers, features, y = drawn(*sizes)
    exact, near, ratio = PUBLISHED[sizes]
    found = log_evidence(features, y)
    if exact is not None:
        np.testing.assert_allclose(found, exact, rtol=1e-12)
    np.testing.assert_allclose(found, near, atol=1e-3)
    np.testing.assert_allclose(likelihood_ratio(answers, features, y), ratio, atol=3e-3)


@pytest.mark.parametrize("rows, width", [(50, 8), (30, 60)])
def test_it_is_the_largest_density_of_each_class(rows, width):
    """log N(y; 0, F F^T / alpha + I / beta), maximised without the fixed point."""
    random = np.random.default_rng(rows)
    y = (random.random(rows) < 0.4).astype(float)
    f = random.normal(size=(rows, width)) + 0.7 * y[:, None]

    def cost(logs, y):
        alpha, beta = np.exp(logs)
        spread = f @ f.T / alpha + np.eye(rows) / beta
        return -multivariate_normal.logpdf(y, np.zeros(rows), spread) / rows

    def best(y):
        tries = [minimize(cost, x, (y,), "Nelder-Mead") for x in ([0, 0], [3, 2])]
        return -min(found.fun for found in tries)

    wanted = (best(y) + best(1 - y)) / 2
    found = log_evidence(f, y.astype(int))
    assert found <= wanted + 1e-6  # eleven rounds, as published, end just below it
    np.testing.assert_allclose(found, wanted, atol=2e-3 if rows > width else 0.03)


def test_rows_without_a_label_count_for_nothing():
    answers, features, y = drawn(40, 6, 3, 0)
    more = [np.concatenate([a, 9 + a[:5]]) for a in (answers, features)]
    found = preflight(*more, np.append(y, [-1] * 5))
    wanted = preflight(answers, features, y)
    assert isinstance(found, Preflight)
    np.testing.assert_allclose(found, wanted)
    assert found.ratio == likelihood_ratio(answers, features, y)


def test_a_class_that_is_absent_counts_for_nothing():
    _, features, y = drawn(60, 6, 3, 0)
    np.testing.assert_allclose(
        log_evidence(features, y), log_evidence(features, np.where(y == 2, 7, y))
    )


def test_features_that_tell_classes_apart_have_more_evidence():
    random = np.random.default_rng(0)
    y = np.arange(90) % 3
    clear = np.eye(3)[y] @ random.normal(size=(3, 10)) * 3
    noise = random.normal(size=(90, 10))
    scores = [log_evidence(share * clear + noise, y) for share in (0, 0.3, 1, 3)]
    assert scores == sorted(scores) and scores[-1] > scores[0] + 1


def overlap_by_hand(first, y):
    classes, found = sorted(set(y)), []
    for i, t in enumerate(classes):
        for u in classes[:i]:
            a, b = first[y == t], first[y == u]
            share = 0.0
            for s in set(first):
                share += min((a == s).mean(), (b == s).mean())
            found.append(share)
    return np.mean(found)


def test_the_overlap_is_that_of_the_classes_first_answers():
    random = np.random.default_rng(1)
    y = np.repeat([0, 1, 2, 5], (30, 10, 5, 20))  # uneven: shares, not counts
    answers = random.normal(size=(65, 6)) + 2 * np.eye(6)[y % 6 // 2]
    found = label_overlap(answers, y)
    np.testing.assert_allclose(found, overlap_by_hand(answers.argmax(1), y))
    assert 0.1 < found < 0.9
    assert label_overlap(np.eye(6)[y], y) == 0
    assert label_overlap(np.ones((65, 6)), y) == 1


def test_ranks_are_spearmans():
    random = np.random.default_rng(2)
    for _ in range(5):
        a, b = random.integers(0, 5, 9) / 2, random.normal(size=9)
        wanted = spearmanr(a, b).statistic
        np.testing.assert_allclose(rank_correlation(a.tolist(), b.tolist()), wanted)
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 900.0]) == pytest.approx(1)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert np.isnan(rank_correlation([1.0, 1.0], [1.0, 2.0]))


def test_what_cannot_be_is_refused(unchecked):
    answers, features, y = drawn(20, 4, 3, 0)
    with pytest.raises(ValueError, match="with a label for some row"):
        log_evidence(features, np.full(20, -1))
    with pytest.raises(
        ValueError, match=r"shape \(20, 4\) and labels of shape \(19,\)"
    ):
        log_evidence(features, y[:19])
    with pytest.raises(ValueError, match="not finite"):
        log_evidence(features * np.nan, y)
    with pytest.raises(ValueError, match="at least two classes"):
        label_overlap(answers, np.zeros(20, int))
    with pytest.raises(ValueError, match="got 1 scores and 1 results"):
        rank_correlation([1.0], [2.0])
