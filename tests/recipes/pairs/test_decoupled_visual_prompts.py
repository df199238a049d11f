"""DVP (arXiv 2506.01000) beside a loop in torch, as tmlr-group/DecoupledVP's script of
causes has it, with the border of tmlr-group/AttrVR and the weights of
`small_pairs.pair()`; its matrix is written from the paper.

The wrong variants are in `mutants.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attributes import X, Y, model

from reprojax.alignments import reweighted
from reprojax.core import Params, Scope, record
from reprojax.data import Split
from reprojax.recipes import find_method
from reprojax.recipes.model_reprogramming import decoupled_visual_prompts
from reprojax.recipes.model_reprogramming.decoupled_visual_prompts import decoupled
from reprojax.taxonomy import describe
from reprojax.testing import contract
from reprojax.training import steps
from reprojax.training.losses import cross_entropy

MODEL, N = model(), len(X)
PROGRAM = decoupled_visual_prompts(MODEL, targets=3, prompts=2, inner=12)
FIRST = [[2.56115, 3.48535, 2.32175], [2.58085, 3.37257, 2.08592]]
WEIGHTS = """
.3333 0 0 .1667 0 0 .3333 .1667 0 0 0 .3333 .3333 0 .3333 0 .1667 0 0 .3333 .25 0 .25 0
"""
LAST = """
.3333 .25 .0833 .3333 0 0 0 0 0 0 0 0 .3333 .3333 .3333 0 0 0 0 0 .3333 .3333 .3333 0
"""
LOSSES = """
1.09671 1.05674 0.94407 0.83107 0.64343 0.51956 0.46866 0.44261 0.38948 0.38625 0.37903
0.37287 0.30819 0.23729 0.22551 0.21091 0.2141 0.2039 0.18679 0.17591 0.16952 0.16373
0.16037 0.15462 0.14905 0.14463 0.12412 0.12122 0.11897 0.11664 0.11447 0.11255 0.12395
0.12197 0.12024 0.11879 0.11743 0.11604 0.1147 0.09939 0.09811 0.09708 0.09627 0.09559
0.09498 0.09445 0.09399 0.09362 0.09332 0.09307 0.09287 0.0927 0.09256 0.09244 0.09236
0.09229 0.09224 0.09221 0.09219 0.09219
"""


def numbers(text):
    return np.fromstring(text, sep=" ")


def test_sixty_epochs_of_a_step_beside_torch():
    optimizer = find_method("dvp").preset.optimizer(4.0, 1, 60)
    state = steps.begin(PROGRAM, optimizer, MODEL.frozen, X, 0, 60)
    params = steps.estimate(PROGRAM, state.params, MODEL.frozen, Split(X, Y), N)
    weights = np.ravel(params.fixed["output"])
    np.testing.assert_allclose(weights, numbers(WEIGHTS), atol=1e-4)
    y = jax.jit(PROGRAM.apply)(params, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, FIRST, atol=2e-4)
    state, found = state._replace(params=params), []
    none = state.sums
    for _ in range(60):
        state = state._replace(loss=jnp.zeros(()), sums=none)
        what = PROGRAM, optimizer, cross_entropy, (), state, MODEL.frozen
        state = steps.train_step(*what, jnp.asarray(X), jnp.asarray(Y))
        found.append(float(state.loss))
        params = steps.refresh_maps(PROGRAM, state.params, state.sums)
        state = state._replace(params=params)
    np.testing.assert_allclose(found, numbers(LOSSES), atol=1e-3)
    weights = np.ravel(state.params.fixed["output"])
    np.testing.assert_allclose(weights, numbers(LAST), atol=1e-4)


def test_each_border_is_compared_with_texts_of_its_own_kind():
    """Only the texts of a kind answer to its border."""
    params = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
    look = jax.jit(record(PROGRAM.apply, ["output/raw"]))
    raw = lambda p: look(p, MODEL.frozen, X)[1]["output/raw"].reshape(N, 3, 2, 4)
    ((path, border),) = jax.tree_util.tree_leaves_with_path(params.learnable)
    assert border.shape == (2, 16, 16, 3), path
    moved = jax.tree.map(lambda a: a.at[1].set(2.0), params.learnable)
    before, after = raw(params), raw(params._replace(learnable=moved))
    np.testing.assert_array_equal(before[:, :, 0], after[:, :, 0])
    assert np.abs(before - after)[:, :, 1].min() > 0


def test_the_weights_are_shares_of_the_nearest_texts_of_the_right_class():
    draw = np.random.default_rng(2)
    y, labels = draw.normal(size=(20, 12)), draw.integers(-1, 2, 20)
    own = reweighted(3, count=2)
    params = own.init(jax.random.key(0), jnp.asarray(y, "f4"), Scope())
    np.testing.assert_allclose(params.fixed, 1 / 4)
    halves = [
        own.observe(params, jnp.asarray(y[rows], "f4"), jnp.asarray(labels[rows]))
        for rows in (slice(12), slice(12, None))
    ]
    found = own.refresh(params, sum(halves)).fixed
    counts = np.zeros((3, 4))
    for row, label in zip(y, labels, strict=True):
        if label >= 0:
            mine = row[4 * label : 4 * label + 4]
            counts[label, np.argsort(mine)[-2:]] += 1
    wanted = counts[:2] / counts[:2].sum(1, keepdims=True)
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-6)
    np.testing.assert_allclose(found[2], 1 / 4)  # a class without images
    answer = own.apply(Params(fixed=found), jnp.asarray(y, "f4"), Scope())
    wanted = (y.reshape(20, 3, 4) * np.asarray(found)).sum(-1)
    np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)


def test_the_contract():
    found = contract(
        PROGRAM,
        MODEL.frozen,
        X[:4],
        Y[:4],
        forward=decoupled(MODEL, 2, 3),
        shape=(4, 3),
    )
    assert (found.learnable, found.fixed) == (2 * 16 * 16 * 3, 24)


def test_coordinates_and_settings():
    seen = describe(PROGRAM, MODEL.frozen, X[:2], roles=MODEL.roles)
    assert seen.coordinates == "learnable input concatenative -> statistical"
    preset = find_method("dvp").preset
    assert (preset.learning_rate, preset.epochs, preset.batch) == (40.0, 200, 64)


def test_unequal_numbers_of_texts_are_refused():
    with pytest.raises(ValueError, match="got 24 texts for 5 kinds of 3 classes"):
        decoupled_visual_prompts(MODEL, targets=3, prompts=5)
    few = decoupled_visual_prompts(MODEL, targets=3, prompts=2, nearest=9)
    with pytest.raises(ValueError, match="at least 9"):
        few.init(jax.random.key(0), MODEL.frozen, X)
