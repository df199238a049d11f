"""The alignments that the command line names, estimated by a pass over a split.

The wrong variants: rows normalised instead of columns; no smoothing; probabilities
instead of logits; a class of the model given to two targets; k of zero.
"""

import backbones
import by_hand
import jax
import numpy as np
import pytest

from reprojax import Params, Scope
from reprojax.alignments import bayesian_plus
from reprojax.data import Split
from reprojax.recipes import ALIGNMENTS, find_alignment, map_only
from reprojax.training import steps

TARGETS = 3
BACKBONE = backbones.convolutional()
RANDOM = np.random.default_rng(0)
SHADES = RANDOM.integers(0, 256, (23, 1, 1, 3))  # so that the net's answers differ
GRAIN = RANDOM.integers(-60, 60, (23, 16, 16, 3))
X = np.clip(SHADES + GRAIN, 0, 255).astype(np.uint8)
Y = np.array([0, 1, 2] * 7 + [0, 0], np.int32)
SPLIT = Split(X, Y)
NORMAL = by_hand.normalised(by_hand.resized(X, 16))


def estimated(name, batch=6):
    """The map [12 3] after one pass; 23 images in batches of 6 leave a short one."""
    program = map_only(BACKBONE, find_alignment(name).build(TARGETS))
    params = program.init(jax.random.key(3), BACKBONE.frozen, X)
    params = steps.estimate(program, params, BACKBONE.frozen, SPLIT, batch)
    _, y = by_hand.run(program, params, BACKBONE.frozen, X)
    return params.fixed["output"], y


def counts(logits):
    out = np.zeros((logits.shape[1], TARGETS))
    for answer, label in zip(logits.argmax(1), Y, strict=True):
        out[answer, label] += 1
    return out


def softmax(a):
    a = np.exp(a - a.max(1, keepdims=True))
    return a / a.sum(1, keepdims=True)


def bayesian(table, smoothing=1.0):
    """p(target | source), then columns that sum to one."""
    rows = table / (table.sum(1, keepdims=True) + smoothing)
    return rows / rows.sum(0, keepdims=True)


def greedy(table):
    """The largest count first; neither its row nor its column comes again."""
    left, out = table.copy(), np.zeros_like(table)
    for _ in range(TARGETS):
        s, t = np.unravel_index(left.argmax(), left.shape)
        out[s, t], left[s], left[:, t] = 1, -1, -1
    return out


@pytest.mark.parametrize("name", ["flm", "ilm"])
def test_frequent_answers_one_to_one(name):
    logits = by_hand.logits(NORMAL)
    table = counts(logits)
    found, y = estimated(name)
    np.testing.assert_array_equal(found, greedy(table))
    assert by_hand.close(y, logits @ greedy(table))
    assert (found.sum(0) == 1).all() and (found.sum(1) <= 1).all()
    # Each target's own favourite, which two of them share, is another map.
    favourites = np.eye(len(table))[table.argmax(0)].T
    assert (favourites.sum(1) > 1).any() and not by_hand.close(found, favourites)
    np.testing.assert_array_equal(estimated("favourites")[0], favourites)


def test_bayesian_columns():
    logits = by_hand.logits(NORMAL)
    table = counts(logits)
    found, y = estimated("blm")
    assert by_hand.close(found, bayesian(table))
    assert by_hand.close(y, logits @ bayesian(table))
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)

    rows = table / np.maximum(table.sum(1, keepdims=True), 1)
    assert not by_hand.close(found, rows)
    with np.errstate(invalid="ignore"):
        plain = np.nan_to_num(table / table.sum(1, keepdims=True))
    assert not by_hand.close(found, plain / plain.sum(0))
    assert not by_hand.close(y, softmax(logits) @ bayesian(table))


def test_bayesian_plus_sums_probabilities():
    logits = by_hand.logits(NORMAL)
    p = softmax(logits)
    kept = np.where(p == p.max(1, keepdims=True), p, 0)  # k = max(1, floor(.15 T)) = 1
    table = kept.T @ np.eye(TARGETS)[Y]
    found, y = estimated("blm+")
    assert by_hand.close(found, bayesian(table))
    assert by_hand.close(y, logits @ bayesian(table))
    assert not by_hand.close(found, bayesian(counts(logits)))
    assert not by_hand.close(found, bayesian(p.T @ np.eye(TARGETS)[Y]))
    assert found.any()  # int(.15 T) of the published code is 0, and its map empty


def test_a_random_map_is_one_to_one_and_stays():
    found, y = estimated("rlm")
    assert sorted(found.ravel()) == [0.0] * (12 * 3 - 3) + [1.0] * 3
    assert (found.sum(0) == 1).all() and (found.sum(1) <= 1).all()
    program = map_only(BACKBONE, find_alignment("rlm").build(TARGETS))
    keys = map(jax.random.key, range(6))
    maps = [program.init(k, BACKBONE.frozen, X).fixed["output"] for k in keys]
    assert any(not by_hand.close(a, maps[0]) for a in maps[1:])
    assert by_hand.close(y, by_hand.logits(NORMAL) @ found)


def test_first_classes_and_a_linear_map():
    program = map_only(BACKBONE, find_alignment("linear").build(TARGETS))
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, X))
    kernel = params.learnable["output"]
    assert list(kernel) == ["kernel"]  # published without a bias
    _, y = by_hand.run(program, params, BACKBONE.frozen, X)
    assert by_hand.close(y, by_hand.logits(NORMAL) @ kernel["kernel"])
    assert by_hand.close(estimated_first(), by_hand.logits(NORMAL)[:, :TARGETS])


def estimated_first():
    program = map_only(BACKBONE, find_alignment("first").build(TARGETS))
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    return by_hand.run(program, params, BACKBONE.frozen, X)[1]


@pytest.mark.parametrize("name", ["ilm", "blm", "blm+"])
def test_rows_that_fill_a_batch_count_for_nothing(name):
    in_sixes, in_one = estimated(name)[0], estimated(name, batch=23)[0]
    assert by_hand.close(in_sixes, in_one)


def test_when_maps_are_estimated():
    when = {name: alignment.refresh for name, alignment in ALIGNMENTS.items()}
    assert when == {
        "first": "once",
        "displaced": "once",
        "rlm": "once",
        "flm": "once",
        "ilm": "epoch",
        "favourites": "once",
        "blm": "epoch",
        "blm+": "epoch",
        "bar": "once",
        "ridge": "epoch",
        "linear": "once",
    }


def test_a_number_behind_blm_plus_is_how_many_probabilities_count():
    by_name = find_alignment("blm+4").build(TARGETS)
    own, default = bayesian_plus(TARGETS, 4), find_alignment("blm+").build(TARGETS)
    y = jax.random.normal(jax.random.key(0), (30, 12))
    labels = jax.numpy.arange(30) % TARGETS

    def counts(align):
        params = align.init(jax.random.key(0), y, Scope())
        return np.asarray(align.observe(params, y, labels))

    assert find_alignment("blm+4").refresh == "epoch"
    np.testing.assert_array_equal(counts(by_name), counts(own))
    assert not np.allclose(counts(by_name), counts(default))
    with pytest.raises(ValueError, match="no alignment 'blm-4'"):
        find_alignment("blm-4")


@pytest.mark.parametrize("name", ["flm4", "ilm4", "bar4"])
def test_a_number_behind_a_map_is_how_many_sources_a_class_has(name):
    found, y = estimated(name)
    assert find_alignment(name).refresh == find_alignment(name[:-1]).refresh
    chosen = found > 0
    np.testing.assert_array_equal(chosen.sum(0), 4)
    np.testing.assert_array_equal(found.sum(0), 1)
    logits = by_hand.logits(NORMAL)
    mean = softmax(logits) if name == "bar4" else logits
    wanted = np.stack([mean[:, own].mean(1) for own in chosen.T], 1)
    assert by_hand.close(y, np.log(wanted) if name == "bar4" else wanted)
    with pytest.raises(ValueError, match="no alignment 'ilm0'"):
        find_alignment("ilm0")


def test_displaced_classes_stand_nowhere_at_their_own_place():
    for targets in (2, 3, 10, 50):
        y = jax.numpy.arange(60.0)[None]
        align = find_alignment("displaced").build(targets)
        found = np.asarray(align.apply(Params(), y, Scope()))[0].astype(int)
        assert sorted(found) == [*range(targets)]
        assert (found != np.arange(targets)).all()
        again = find_alignment("displaced").build(targets).apply(Params(), y, Scope())
        np.testing.assert_array_equal(again[0], found)
    with pytest.raises(ValueError, match="targets=1, expected at least 2"):
        find_alignment("displaced").build(1)
