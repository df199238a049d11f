"""RVP (Li et al.) beside its equations in torch: one head W of texts, weights and
matrix, with the border of tmlr-group/AttrVR and the weights of `small_pairs.pair()`.

The wrong variants are in `mutants.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attributes import X, Y, looks
from small_training import trained

from reprojax.alignments import identity
from reprojax.recipes import find_method
from reprojax.recipes.model_reprogramming import rvp
from reprojax.recipes.model_reprogramming.related_classes import slower_answers
from reprojax.taxonomy import describe
from reprojax.testing import contract

MODEL = looks()
PROGRAM = rvp(MODEL, targets=3, inner=12)
FIRST = [[0.5802, 1.23239, 3.25284], [0.39874, 1.20911, 3.20369]]
# of the border at rate 4, of weights and matrix at .1
LOSSES = """
1.75326 1.55629 1.39978 1.19081 1.11047 1.09788 1.08154 1.08886 1.05274 0.98922 0.87961
0.76863 0.71238 0.65332 0.61429 0.5725 0.53031 0.49833 0.46657 0.44278 0.41457 0.39912
0.38015 0.36943 0.35468 0.34819 0.33832 0.33063 0.32191 0.31288 0.3061 0.2979 0.29111
0.28506 0.27856 0.27333 0.26838 0.26322 0.25885 0.25499 0.25114 0.24762 0.24458 0.24177
0.23908 0.23665 0.23453 0.23269 0.23103 0.22957 0.2283 0.22724 0.22637 0.22568 0.22515
0.22474 0.22446 0.22428 0.22417 0.22412
"""
BETWEEN = [
    [-0.1731, -1.7097, 2.2129],
    [0.133, -1.2844, 1.2527],
    [0.9449, 0.402, -1.2804],
]


def drawn():
    params = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
    draw = np.random.default_rng(9)
    within = jnp.asarray(draw.standard_normal((3, 4)), "f4")
    between = jnp.asarray(draw.standard_normal((3, 3)) / 10, "f4")
    own = {"within": within, "between": between}
    return params._replace(learnable=params.learnable | {"output": own})


def test_sixty_steps_of_the_equations_in_torch():
    params = drawn()
    y = jax.jit(PROGRAM.apply)(params, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, FIRST, atol=2e-5)
    optimizer = slower_answers(40)(4.0, 6, 10)
    found, state = trained(PROGRAM, MODEL.frozen, X, Y, optimizer, 60, params)
    np.testing.assert_allclose(found, np.fromstring(LOSSES, sep=" "), atol=1e-3)
    between = state.params.learnable["output"]["between"]
    np.testing.assert_allclose(between, BETWEEN, atol=5e-3)


def test_it_starts_at_the_mean_of_a_classs_texts():
    params = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
    y = jax.jit(PROGRAM.apply)(params, MODEL.frozen, X)
    plain = rvp(MODEL, identity(), inner=12)
    texts = plain.apply(params, MODEL.frozen, X).reshape(len(X), 3, 4)
    np.testing.assert_allclose(y, texts.mean(-1), rtol=1e-4, atol=1e-5)


def test_the_contract():
    found = contract(
        PROGRAM, MODEL.frozen, X[:4], Y[:4], forward=MODEL.forward, shape=(4, 3)
    )
    assert found.learnable == 16 * 16 * 3 + 3 * 4 + 3 * 3


def test_coordinates_and_settings():
    seen = describe(PROGRAM, MODEL.frozen, X[:2], roles=MODEL.roles)
    assert seen.coordinates == "learnable input concatenative -> linear"
    preset = find_method("rvp").preset
    assert (preset.learning_rate, preset.epochs, preset.batch) == (40.0, 200, 64)
    params = {"input": jnp.zeros(()), "output": jnp.zeros(())}
    optimizer = preset.optimizer(40.0, 3, 10)
    moved, _ = optimizer.update(
        jax.tree.map(jnp.ones_like, params), optimizer.init(params), params
    )
    np.testing.assert_allclose([moved["input"], moved["output"]], [-40, -0.001])


def test_unequal_numbers_of_texts_are_refused():
    program = rvp(MODEL, targets=5, inner=12)
    with pytest.raises(ValueError, match="got 12 texts for 5 classes"):
        program.init(jax.random.key(0), MODEL.frozen, X)
