"""How an answer becomes the task's; maps against NumPy loops after the papers."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from toys import DENSE_FROZEN, LABELS, ROWS, dense

from reprojax import Params, Scope, record, reprogram
from reprojax.alignments import (
    bayesian,
    bayesian_map,
    bayesian_plus,
    columns,
    favourites,
    groups,
    identity,
    linear,
    one_to_one,
    one_to_one_map,
    pair_counts,
    random_map,
    soft_pair_counts,
)

KEY = jax.random.key(0)
random = np.random.default_rng(0)
S, T, N = 12, 5, 60
LOGITS = jnp.asarray(3 * random.normal(size=(N, S)), jnp.float32)
TARGETS = jnp.asarray(random.integers(0, T, N))
ESTIMATED = {
    "one to one": one_to_one(T),
    "two to one": one_to_one(T, several=2),
    "favourites": favourites(T),
    "bayesian": bayesian(T),
    "bayesian plus": bayesian_plus(T, k=3),
}


def made(m, y=LOGITS):
    return m.init(KEY, jax.ShapeDtypeStruct(y.shape, y.dtype), Scope())


def fitted(m, y=LOGITS, labels=TARGETS):
    """The params after one look at all of the data."""
    params = made(m, y)
    return m.refresh(params, m.observe(params, y, labels))


# -- second implementations


def count_by_hand(logits, labels, targets):
    """d[s, t] = how many images of t are answered with s."""
    d = np.zeros((logits.shape[1], targets))
    for row, label in zip(np.asarray(logits), np.asarray(labels), strict=True):
        if label >= 0:
            d[row.argmax(), label] += 1
    return d


def greedy_by_hand(d, several=1):
    """The published loop: the largest count, then its row and a full column to -1."""
    d, chosen = np.array(d, float), np.zeros(d.shape)
    for _ in range(d.shape[1] * several):
        s, t = np.unravel_index(d.argmax(), d.shape)
        chosen[s, t] = 1
        d[s, :] = -1
        if chosen[:, t].sum() == several:
            d[:, t] = -1
    return chosen / several


def bayes_by_hand(n, smoothing=1.0):
    """w[s, t] = n[s, t] / (sum_t n[s, t] + smoothing), its columns made to sum to 1."""
    w = np.zeros(n.shape)
    for s in range(n.shape[0]):
        for t in range(n.shape[1]):
            if n[s, t] > 0:
                w[s, t] = n[s, t] / (n[s].sum() + smoothing)
    for t in range(n.shape[1]):
        total = w[:, t].sum()
        w[:, t] = w[:, t] / total if total > 0 else 1 / len(n)
    return w


def soft_by_hand(logits, labels, targets, k):
    """A[s, t] = the sum of p_i[s] over images i of t with s among the k largest."""
    a = np.zeros((logits.shape[1], targets))
    for row, label in zip(np.asarray(logits, float), np.asarray(labels), strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        for s in np.argsort(-p)[:k]:
            if label >= 0:
                a[s, label] += p[s]
    return a


# -- counts


def test_count_against_a_loop():
    expected = count_by_hand(LOGITS, TARGETS, T)
    np.testing.assert_array_equal(pair_counts(LOGITS, TARGETS, T), expected)


@pytest.mark.parametrize("k", [1, 3, S])
def test_soft_count_against_a_loop(k):
    expected = soft_by_hand(LOGITS, TARGETS, T, k)
    np.testing.assert_allclose(
        soft_pair_counts(LOGITS, TARGETS, T, k), expected, rtol=1e-4
    )


def test_soft_count_of_all_is_the_sum_of_probabilities():
    found = soft_pair_counts(LOGITS, TARGETS, T, S)
    np.testing.assert_allclose(
        found.sum(0), np.bincount(TARGETS, minlength=T), rtol=1e-5
    )


@pytest.mark.parametrize("name", ESTIMATED)
def test_sums_add_up_over_batches(name):
    m = ESTIMATED[name]
    params = made(m)
    whole = m.observe(params, LOGITS, TARGETS)
    parts = [
        m.observe(params, LOGITS[i : i + 7], TARGETS[i : i + 7]) for i in range(0, N, 7)
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_row_that_fills_a_batch_counts_for_nothing(name):
    m = ESTIMATED[name]
    params = made(m)
    labels = TARGETS.at[40:].set(-1)
    filled = m.observe(params, LOGITS, labels)
    np.testing.assert_allclose(
        filled, m.observe(params, LOGITS[:40], TARGETS[:40]), rtol=1e-5
    )


@pytest.mark.parametrize("name", ESTIMATED)
def test_observe_and_refresh_are_jitted_and_mapped_over_programs(name):
    m = ESTIMATED[name]
    params = made(m)
    expected = fitted(m).fixed
    many = jnp.stack([LOGITS, LOGITS[::-1]])
    labels = jnp.stack([TARGETS, TARGETS[::-1]])

    @jax.jit
    @jax.vmap
    def both(y, labels):
        return m.refresh(params, m.observe(params, y, labels)).fixed

    np.testing.assert_allclose(both(many, labels), [expected] * 2, rtol=1e-5, atol=1e-6)


# -- one to one


@pytest.mark.parametrize("several", [1, 2])
@pytest.mark.parametrize("largest", [1, 2, 50])
def test_the_greedy_map_against_the_published_loop(several, largest):
    """Small counts: ties everywhere, and the first of equals wins."""
    for seed in range(5):
        counts = np.random.default_rng(seed).integers(0, largest + 1, (S, T))
        found = one_to_one_map(jnp.asarray(counts, jnp.float32), several)
        np.testing.assert_array_equal(found, greedy_by_hand(counts, several))


def test_five_sources_a_class_and_favourites_are_the_published_codes():
    """Output_Mapping of IBM/AutoVP @defe0d9, and torch.mode as in UCSC-VLAA/EVP."""
    drawn = np.random.default_rng(0)
    answers, labels = drawn.integers(0, 40, 60), drawn.integers(0, 6, 60)
    y = jax.nn.one_hot(answers, 40)
    chosen = [
        [1, 3, 11, 21, 25],
        [4, 26, 27, 33, 34],
        [10, 16, 19, 20, 24],
        [2, 5, 22, 30, 32],
        [0, 6, 15, 38, 39],
        [7, 8, 12, 18, 29],
    ]
    found = fitted(one_to_one(6, several=5), y, jnp.asarray(labels)).fixed
    assert [list(np.flatnonzero(c)) for c in np.asarray(found).T] == chosen
    np.testing.assert_allclose(found.max(0), 1 / 5)
    found = fitted(favourites(6), y, jnp.asarray(labels)).fixed
    np.testing.assert_array_equal(found.argmax(0), [25, 0, 24, 22, 0, 7])
    np.testing.assert_array_equal(found.sum(0), 1)


def test_the_greedy_map_is_one_to_one():
    for counts in (np.zeros((S, T)), np.ones((S, T)), random.integers(0, 9, (S, T))):
        chosen = np.asarray(one_to_one_map(jnp.asarray(counts, jnp.float32)))
        np.testing.assert_array_equal(chosen.sum(0), 1)
        assert chosen.sum(1).max() == 1


def test_the_greedy_map_of_as_many_classes_is_a_permutation():
    counts = jnp.asarray(random.integers(0, 5, (T, T)), jnp.float32)
    chosen = one_to_one_map(counts)
    np.testing.assert_array_equal(chosen.sum(0), 1)
    np.testing.assert_array_equal(chosen.sum(1), 1)


def test_the_largest_count_goes_first():
    """Greedy is not optimal: 9 is taken although 8 + 8 would be more than 9 + 1."""
    counts = jnp.array([[9.0, 8.0], [8.0, 1.0]])
    np.testing.assert_array_equal(one_to_one_map(counts), np.eye(2))


def test_an_absent_class_gets_what_is_left():
    labels = jnp.where(TARGETS == 3, 0, TARGETS)
    chosen = np.asarray(fitted(one_to_one(T), labels=labels).fixed)
    np.testing.assert_array_equal(chosen.sum(0), 1)
    assert chosen.sum(1).max() == 1


# -- Bayesian


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 7.5])
def test_the_bayesian_map_against_loops(smoothing):
    counts = count_by_hand(LOGITS, TARGETS, T)
    found = bayesian_map(jnp.asarray(counts, jnp.float32), smoothing)
    np.testing.assert_allclose(found, bayes_by_hand(counts, smoothing), rtol=1e-5)


def test_the_bayesian_map_of_soft_counts_against_loops():
    expected = bayes_by_hand(soft_by_hand(LOGITS, TARGETS, T, 3))
    found = fitted(bayesian_plus(T, k=3)).fixed
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
@pytest.mark.parametrize("absent", [(), (3,), range(T)])
def test_columns_sum_to_one_whatever_is_absent(absent, smoothing):
    """Never-seen source classes (0 / 0) and never-seen target classes break nothing."""
    counts = jnp.asarray(random.integers(0, 3, (S, T)), jnp.float32)
    counts = counts.at[4].set(0).at[:, jnp.array(absent, int)].set(0)
    found = bayesian_map(counts, smoothing)
    assert np.isfinite(found).all() and (found >= 0).all()
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)
    if absent:
        np.testing.assert_allclose(found[:, 3], 1 / S, rtol=1e-6)


def test_a_large_smoothing_leaves_the_counts():
    counts = jnp.asarray(random.integers(0, 9, (S, T)), jnp.float32)
    found = bayesian_map(counts, 1e6)
    np.testing.assert_allclose(found, counts / counts.sum(0), rtol=1e-4)


def test_sources_of_one_target_alone_weigh_the_same():
    counts = jnp.array([[5.0, 0], [1, 0], [0, 3], [0, 0]])
    expected = [[0.5, 0], [0.5, 0], [0, 1], [0, 0]]
    np.testing.assert_allclose(bayesian_map(counts, 0.0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("targets", "k"), [(2, 1), (6, 1), (7, 1), (13, 1), (14, 2), (40, 6)]
)
def test_the_k_of_bayesian_plus(targets, k):
    """max(1, floor(.15 T)): the published int(.15 T) is 0 for six classes."""
    y = jnp.asarray(random.normal(size=(30, 50)), jnp.float32)
    labels = jnp.asarray(random.integers(0, targets, 30))
    default, told = bayesian_plus(targets), bayesian_plus(targets, k=k)
    found = default.observe(made(default, y), y, labels)
    np.testing.assert_array_equal(found, told.observe(made(told, y), y, labels))
    assert ((found > 0).sum() <= 30 * k) and found.sum() > 0


# -- as alignments


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_map_multiplies_the_logits(name):
    m = ESTIMATED[name]
    params = fitted(m)
    assert params.learnable == ()
    found = m.apply(params, LOGITS, Scope())
    expected = np.asarray(LOGITS, float) @ np.asarray(params.fixed, float)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    half = m.apply(params, LOGITS.astype(jnp.bfloat16), Scope())
    assert half.dtype == jnp.bfloat16


@pytest.mark.parametrize("name", ESTIMATED)
def test_a_map_starts_with_the_first_classes_and_keeps_its_type(name):
    m = ESTIMATED[name]
    before = made(m)
    np.testing.assert_array_equal(m.apply(before, LOGITS, Scope()), LOGITS[:, :T])
    after = fitted(m)
    assert jax.tree.map(jax.typeof, before) == jax.tree.map(jax.typeof, after)


def test_a_map_is_estimated_before_itself():
    """ "output/raw" are the source logits, with whatever prompt there is."""
    program = reprogram(dense, {"output": one_to_one(3)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    _, seen = record(program.apply, ["output/raw"])(params, DENSE_FROZEN, ROWS)
    ((_, m),) = program.at
    sums = m.observe(params, seen["output/raw"], LABELS)
    logits = dense(DENSE_FROZEN, ROWS)
    np.testing.assert_array_equal(sums, count_by_hand(logits, LABELS, 3))


def test_a_random_map_is_one_to_one_and_kept():
    m = random_map(T)
    params = made(m)
    chosen = np.asarray(params.fixed)
    np.testing.assert_array_equal(chosen.sum(0), 1)
    assert chosen.sum(1).max() == 1 and set(np.unique(chosen)) == {0, 1}
    assert m.observe is None and m.refresh is None
    other = m.init(
        jax.random.key(1), jax.ShapeDtypeStruct((N, S), jnp.float32), Scope()
    )
    assert not np.array_equal(other.fixed, params.fixed)


def test_random_maps_are_uniform():
    keys = jax.random.split(KEY, 600)
    draw = lambda key: random_map(2).init(key, jnp.zeros((1, 4)), Scope()).fixed
    share = jax.vmap(draw)(keys).mean(0)
    np.testing.assert_allclose(share, 0.25, atol=0.07)


@pytest.mark.parametrize(
    ("m", "name"),
    [(random_map(13), "random_map"), (one_to_one(7, several=2), "one_to_one")],
)
def test_fewer_source_than_target_classes_are_refused(m, name):
    with pytest.raises(
        ValueError, match=f"{name} maps .* the model has 12; expected at"
    ):
        made(m)
    assert made(bayesian(13)).fixed.shape == (12, 13)


def test_k_out_of_range_is_refused():
    for k in (0, 13):
        with pytest.raises(ValueError, match=f"got k={k}, expected 1 <= k <= 12"):
            made(bayesian_plus(T, k=k))


# -- linear


def test_a_linear_head():
    m = linear(T)
    params = made(m)
    own = params.learnable
    assert (own["kernel"].shape, own["bias"].shape) == ((S, T), (T,))
    np.testing.assert_array_equal(own["bias"], 0)
    np.testing.assert_allclose(own["kernel"].std(), S**-0.5, rtol=0.3)
    moved = Params({**own, "bias": jnp.arange(5.0)})
    expected = LOGITS @ own["kernel"] + jnp.arange(5.0)
    np.testing.assert_allclose(m.apply(moved, LOGITS, Scope()), expected, rtol=1e-5)
    assert m.apply(params, LOGITS.astype(jnp.bfloat16), Scope()).dtype == jnp.bfloat16


def test_a_linear_head_without_bias_from_zero():
    m = linear(T, bias=False, initial=jax.nn.initializers.zeros)
    params = made(m)
    assert set(params.learnable) == {"kernel"}
    np.testing.assert_array_equal(m.apply(params, LOGITS, Scope()), 0)


# -- rules


def test_identity_is_the_answer():
    assert identity().apply(made(identity()), LOGITS, Scope()) is LOGITS


def test_columns_are_one_source_class_each():
    found = columns([3, 3, 0]).apply(Params(), LOGITS, Scope())
    np.testing.assert_array_equal(
        found, np.stack([LOGITS[:, 3], LOGITS[:, 3], LOGITS[:, 0]], 1)
    )
    np.testing.assert_array_equal(
        columns(range(2)).apply(Params(), LOGITS, Scope()), LOGITS[:, :2]
    )


@pytest.mark.parametrize(("by", "reduce"), [("mean", np.mean), ("max", np.max)])
def test_groups_pool_their_source_classes(by, reduce):
    ids = [[0, 1, 2], [5], [3, 11]]
    found = groups(ids, by).apply(Params(), LOGITS, Scope())
    expected = np.stack([reduce(np.asarray(LOGITS)[:, group], 1) for group in ids], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rules_hold_for_any_leading_axes():
    y = LOGITS.reshape(6, 10, S)
    found = columns([1, 2]).apply(Params(), y, Scope())
    np.testing.assert_array_equal(found, y[:, :, 1:3])
    assert groups([[0], [1]]).apply(Params(), y[0, 0], Scope()).shape == (2,)


def test_a_map_folds_into_its_columns():
    """A one-to-one map gives what columns with its choices give."""
    chosen = fitted(one_to_one(T)).fixed
    folded = columns(np.asarray(chosen).argmax(0))
    np.testing.assert_allclose(
        folded.apply(Params(), LOGITS, Scope()), LOGITS @ chosen, rtol=1e-6
    )


@pytest.mark.parametrize("m", [columns([0, 12]), columns([-1]), groups([[0], [1, 12]])])
def test_source_classes_out_of_range_are_refused(m):
    with pytest.raises(ValueError, match=r"expected 0\.\.11"):
        m.apply(Params(), LOGITS, Scope())


def test_empty_groups_and_unknown_pools_are_refused():
    with pytest.raises(
        ValueError, match=r"no source class for the target classes \[1\]"
    ):
        groups([[0], []])
    with pytest.raises(ValueError, match="got by='sum', expected 'mean' or 'max'"):
        groups([[0]], by="sum")


def test_wrong_shapes_are_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        pair_counts(LOGITS, TARGETS[:-1], T)
    with pytest.raises(jaxtyping.TypeCheckError):
        pair_counts(LOGITS, LOGITS, T)
    with pytest.raises(jaxtyping.TypeCheckError):
        one_to_one_map(LOGITS[0])
    with pytest.raises(jaxtyping.TypeCheckError):
        bayesian_map(jnp.zeros((3, 2), jnp.int32))


def test_a_standardised_head_is_an_affine_map_of_standardised_columns():
    rng = np.random.default_rng(0)
    y = (rng.normal(size=(40, 5)) * [1, 10, 100, 0, 3] + 7).astype(np.float32)
    labels = np.where(np.arange(40) < 33, 1, -1).astype(np.int32)
    m = linear(3, standardised=True)
    assert m.observe is not None and m.refresh is not None
    params = m.init(jax.random.key(0), jax.ShapeDtypeStruct(y.shape, y.dtype), Scope())
    parts = [slice(0, 20), slice(20, 40)]  # sums of batches add up
    sums = [m.observe(params, jnp.asarray(y[i]), jnp.asarray(labels[i])) for i in parts]
    params = m.refresh(params, jax.tree.map(jnp.add, *sums))
    real = y[:33].astype(np.float64)
    deviation = np.where(real.std(0) > 1e-6, real.std(0), 1)  # a constant column stays
    expected = (y - real.mean(0)) / deviation @ np.asarray(params.learnable["kernel"])
    found = m.apply(params, jnp.asarray(y), Scope())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    unmasked = (y - y.mean(0)) / np.maximum(y.std(0), 1e-6)  # filled rows counted
    wrong = unmasked @ np.asarray(params.learnable["kernel"])
    assert np.abs(found - wrong).max() > 1e-2
    later = m.refresh(params, jax.tree.map(lambda a: 2 * a + 1, sums[0]))
    jax.tree.map(np.testing.assert_array_equal, later.fixed, params.fixed)  # once


@pytest.mark.parametrize("make", (linear, random_map, one_to_one, bayesian))
def test_no_target_class_is_refused(make):
    with pytest.raises(ValueError, match="got targets=0, expected at least 1"):
        make(0)
