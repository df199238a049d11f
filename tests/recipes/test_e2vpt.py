"""E2VPT beside the numbers of ChengHan111/E2VPT (7a66e75), run on the tiny transformer.

The wrong variants: pieces as segments; masks of each block's own; values that are not
the keys; masks that go on learning after pruning; the most important pieces pruned.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from official_runs import MODEL, X, Y, check_way, head, normal, way

from reprojax import Params, Scope
from reprojax.alignments import linear
from reprojax.core import part, until
from reprojax.data import Split
from reprojax.recipes.prompt_tuning import e2vpt, vpt_deep
from reprojax.recipes.prompt_tuning.e2vpt import amounts, importance, masks, rewound
from reprojax.testing import contract
from reprojax.training.losses import cross_entropy
from reprojax.training.optimizers import decayed

SIZES = {"length": 4, "keys": 3, "pieces": 8}
LEARNED = e2vpt(MODEL, linear(3), **SIZES)
PRUNED = e2vpt(MODEL, linear(3), **SIZES, pruned=True)
TOKENS = "block_0:in"
SGD = optax.chain(decayed(0.01), optax.sgd(0.05, momentum=0.9))


def params(own, learned=True):
    """Those with which the official code ran, with these masks."""
    prompts = jnp.concatenate([normal((1, 4, 16), 1), normal((2, 4, 16), 2)])
    learnable = {"input": (), TOKENS: {"prompts": prompts}, "output": head()}
    for i in range(3):
        learnable[f"block_{i}/attention/key:out"] = normal((3, 2, 8), 10 + i)
    fixed = jax.tree.map(lambda _: (), dict.fromkeys(learnable, 0))
    if learned:
        learnable[TOKENS] |= own
    else:
        fixed[TOKENS] = own
    return Params(learnable, fixed)


ONES = {"tokens": jnp.ones(4), "pieces": jnp.ones((4, 8))}
SOME = {
    "tokens": jnp.array([1.0, 0, 1, 1]),
    "pieces": jnp.ones((4, 8)).at[0, :3].set(0).at[3, 5:].set(0),
}


def test_answers_are_those_of_the_official_code():
    own = params({"tokens": normal((4,), 7), "pieces": normal((4, 8), 8)})
    found = jax.jit(LEARNED.apply)(own, MODEL.frozen, X)[:4]
    wanted = [
        [10.327391, -1.500795, 6.869002],
        [8.685029, 0.142431, 7.857043],
        [10.566599, -0.768559, 6.978981],
        [8.715319, -0.367599, 7.418003],
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


GRADIENT = [
    [-0.062888, -0.035222, -0.012700, 0.355899, -0.102850, -0.119228, 0.008647]
    + [-0.031657],
    [0.160241, -0.198756, 0.236671, -0.002748, -0.297176, 0.154036, -0.042355]
    + [-0.009914],
    [-0.153007, -0.009313, -0.052970, 0.099549, -0.061208, 0.052865, 0.089169]
    + [0.034914],
    [-0.301078, -0.244172, 0.281626, 0.186848, -0.127374, 0.083796, 0.116071]
    + [0.004283],
]


def test_importance_is_the_official_codes_gradient():
    own, split = params(ONES), Split(X, Y)
    found = importance(LEARNED, own, MODEL.frozen, split, batch=12)
    np.testing.assert_allclose(found["pieces"], GRADIENT, atol=2e-5)
    # a norm cancels a factor of a whole token, there as here
    np.testing.assert_allclose(found["tokens"], 0, atol=1e-5)
    halves = importance(LEARNED, own, MODEL.frozen, split, batch=6)
    np.testing.assert_allclose(halves["pieces"], GRADIENT, atol=2e-5)


WAYS = {
    True: "3.820567 1.249895 1.473150 1.214107 1.164719 1.023449 0.959223 0.898033"
    " 0.859111 0.826032 0.802908",
    False: "3.975883 1.219141 1.481659 1.392267 1.212255 1.082409 0.983671 0.916152"
    " 0.869211 0.833253 0.812602",
}


@pytest.mark.parametrize("learned", WAYS)
def test_the_way_of_sixty_steps_is_that_of_the_official_code(learned):
    program = LEARNED if learned else PRUNED
    start = params(ONES if learned else SOME, learned)
    found, last = way(program, start, SGD, cross_entropy)
    check_way(found, WAYS[learned])
    if not learned:
        jax.tree.map(np.testing.assert_array_equal, last.fixed[TOKENS], SOME)


def test_those_nearest_to_zero_are_pruned_or_as_published_the_lowest():
    scores = {
        "tokens": jnp.array([0.3, -0.5, 0.1, -0.2]),
        "pieces": jnp.array(GRADIENT),
    }
    found = masks(scores, tokens=2, pieces=3)
    assert found["tokens"].tolist() == [1, 1, 0, 0]
    assert np.flatnonzero(found["pieces"][0] == 0).tolist() == [2, 6, 7]
    assert (found["pieces"].sum(1) == 5).all()
    signed = masks(scores, tokens=1, pieces=2, signed=True)
    assert signed["tokens"].tolist() == [1, 0, 1, 1]
    assert np.flatnonzero(signed["pieces"][1] == 0).tolist() == [1, 4]
    assert masks(scores, 0, 0)["tokens"].all()
    with pytest.raises(ValueError, match="got 4 tokens to remove of 4"):
        masks(scores, 4, 0)


def test_the_published_amounts():
    assert amounts(20) == (
        (2, 4, 6, 8, 10, 12, 14, 16, 18),
        (1, 3, 4, 6, 8, 9, 11, 12),  # four are left
    )
    assert amounts(5)[0] == (0, 1, 2, 3, 4)
    assert amounts(1) == ((0,), amounts(5)[1])


def test_rewound_params_start_as_the_first_ones_did():
    key = jax.random.key(5)
    first = LEARNED.init(key, MODEL.frozen, X)
    again = rewound(PRUNED, key, MODEL.frozen, X, SOME)
    jax.tree.map(np.testing.assert_array_equal, again.fixed[TOKENS], SOME)
    own = dict(first.learnable[TOKENS])
    assert own.pop("tokens").tolist() == [1] * 4 and own.pop("pieces").all()
    wanted = {**first.learnable, TOKENS: own}
    jax.tree.map(np.testing.assert_array_equal, again.learnable, wanted)
    # keys start as there, within sqrt(6 / (P d)) = .5, of 3 keys in each of 2 heads
    start = np.abs(first.learnable["block_1/attention/key:out"])
    assert start.shape == (3, 2, 8) and 0.4 < start.max() <= 0.5
    with pytest.raises(ValueError, match="without masks"):
        importance(PRUNED, again, MODEL.frozen, Split(X, Y))


def test_dropout_is_for_training_and_another_for_each_image():
    parts = dict(e2vpt(MODEL, linear(3), **SIZES, drop=0.5).at)
    keys = tuple(f"block_0/attention/{name}:out" for name in ("key", "value"))
    tokens = tuple(f"block_{i}:in" for i in range(3))
    for sites, shape, at in ((tokens, (4, 5, 16), 1), (keys, (4, 5, 2, 8), 0)):
        own, value = parts[sites], jnp.zeros(shape)
        start = own.init(jax.random.key(0), dict.fromkeys(sites, value), Scope())
        rows = slice(at, own.apply(start, value, Scope()).shape[1] - 5 + at)
        still = np.asarray(own.apply(start, value, Scope()))[:, rows]
        np.testing.assert_array_equal(still[0], still[1])
        new = own.apply(start, value, Scope(key=jax.random.key(1)))
        new = np.asarray(new)[:, rows]
        kept = new != 0
        np.testing.assert_allclose(new[kept], 2 * still[kept], rtol=1e-5)
        assert 0.3 < kept.mean() < 0.7 and (kept[0] != kept[1]).any()


@pytest.mark.parametrize("learned", [True, False], ids=["learned", "pruned"])
def test_the_contract(learned):
    program = LEARNED if learned else PRUNED
    features = until(MODEL.forward, "head:in")
    found = contract(
        program,
        MODEL.frozen,
        jnp.asarray(X[:4]),
        jnp.asarray(Y[:4]),
        forward=features,
        shape=(4, 3),
        work=1.6,  # eleven tokens and keys beside five
    )
    own = 3 * 4 * 16 + 3 * 3 * 16 + 16 * 3 + 3
    masks = 4 + 4 * 8
    wanted = (own + masks, 0) if learned else (own, masks)
    assert (found.learnable, found.fixed) == wanted


def test_the_head_is_that_of_vpt():
    """N(0, 2 / T) and bias -log 99, on standardised features."""
    key = jax.random.key(0)
    ours, theirs = (
        recipe(MODEL, targets=3).init(key, MODEL.frozen, X)
        for recipe in (e2vpt, vpt_deep)
    )
    own = part(ours, "output")
    jax.tree.map(np.testing.assert_array_equal, own, part(theirs, "output"))
    np.testing.assert_allclose(own.learnable["bias"], -np.log(99), rtol=1e-6)
    assert 0.6 < np.std(own.learnable["kernel"]) < 1.1  # sqrt(2 / 3)
    assert {"mean", "deviation"} <= {*own.fixed}


def test_pieces_that_do_not_divide_a_token_are_refused():
    with pytest.raises(ValueError, match="got pieces=5 for prompts 16 wide"):
        e2vpt(MODEL, linear(3), pieces=5).init(jax.random.key(0), MODEL.frozen, X)
