"""The semantic map, beside AutoVP's own Output_Mapping (IBM/AutoVP @defe0d9)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Scope
from reprojax.alignments import semantic
from reprojax.alignments.semantic import similar

RANDOM = np.random.default_rng(0)
SOURCES, TARGETS = RANDOM.normal(size=(40, 8)), RANDOM.normal(size=(6, 8))
# What the published class gave for these features and five sources a class.
PUBLISHED = [
    [25, 20, 37, 17, 18],
    [38, 19, 12, 14, 15],
    [9, 10, 33, 39, 35],
    [30, 34, 16, 31, 2],
    [0, 5, 4, 8, 21],
    [28, 11, 22, 26, 29],
]
NAMES = ["tabby cat", "Persian_cat", "sports car", "police van", "cargo ship"]


def test_rounds_are_the_published_codes():
    assert similar(SOURCES, TARGETS, 5) == PUBLISHED
    # all of a class's nearest at once, without rounds, is another map
    near = (SOURCES / np.linalg.norm(SOURCES, axis=1, keepdims=True)) @ TARGETS.T
    greedy, taken = [], set()
    for column in near.T:
        own = [s for s in np.argsort(-column) if s not in taken][:5]
        greedy.append(own)
        taken |= set(own)
    assert greedy != PUBLISHED


def test_lengths_of_features_do_not_count():
    longer = SOURCES * RANDOM.uniform(0.1, 10, (40, 1))
    assert similar(longer, jnp.asarray(TARGETS), 5) == PUBLISHED
    dots = np.argsort(-(longer @ TARGETS.T), axis=0)[0]
    assert list(dots) != [own[0] for own in PUBLISHED]


def test_logits_are_averaged_by_a_rule():
    y = jnp.asarray(RANDOM.normal(size=(3, 40)), jnp.float32)
    m = semantic(SOURCES, TARGETS, 5)
    params = m.init(jax.random.key(0), y, Scope())
    assert not jax.tree.leaves(params)
    wanted = np.stack([y[:, own].mean(1) for own in PUBLISHED], 1)
    np.testing.assert_allclose(m.apply(params, y, Scope()), wanted, rtol=1e-5)
    one = semantic(SOURCES, TARGETS)
    wanted = y[:, [own[0] for own in PUBLISHED]]
    np.testing.assert_array_equal(one.apply(params, y, Scope()), wanted)


def test_names_are_compared_by_their_pieces():
    found = similar(NAMES, ["ship", "persian cats", "car", "cat"])
    assert [NAMES[own[0]] for own in found] == [
        "cargo ship",
        "Persian_cat",
        "sports car",
        "tabby cat",
    ]
    assert similar(NAMES, ["van", "cat"], 2)[0][0] == NAMES.index("police van")


def test_what_cannot_be_is_refused(unchecked):
    with pytest.raises(ValueError, match="6 target classes to 7 source.*at least 42"):
        semantic(SOURCES, TARGETS, 7)
    with pytest.raises(ValueError, match="got names for the sources and an array of"):
        semantic(NAMES, TARGETS)
    with pytest.raises(ValueError, match="expected names for both, or features"):
        semantic(SOURCES, TARGETS[:, :3])
    with pytest.raises(ValueError, match="several=0, expected at least 1"):
        semantic(SOURCES, TARGETS, 0)
