"""PLOT (arXiv 2210.01253) beside CHENGY12/PLOT's learner, transport and loop.

Its image tower is ResNet-50; here its module gets the class token and the patches of
`small_pairs.pair()`, projected alike, and runs all iterations (its own stop, .01, moves
no loss by more than 2e-5). The wrong variants are in `mutants.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_pairs import pair, pictures
from small_training import trained

from reprojax.core import record
from reprojax.models.image_text import classifier
from reprojax.recipes import find_method
from reprojax.recipes.prompt_tuning import optimal_transport
from reprojax.recipes.prompt_tuning.optimal_transport import plans, transported
from reprojax.taxonomy import describe
from reprojax.testing import contract

NAMES = ["cat", "small dog", "bird"]
MODEL = classifier(pair(), NAMES, ["{}."])
X, Y, SITE = pictures(12), np.arange(12) % 3, "text/embed:out"
PROGRAM = optimal_transport(MODEL, prompts=2, length=3)
LOGITS = [[2.98113, 5.52889, 2.48833], [2.45782, 4.98042, 1.89874]]
# 10 epochs of 6 steps at rate .2
LOSSES = """
1.97731 1.9773 1.97729 1.97727 1.97725 1.97723 1.9772 2.0366 2.02141 1.98549 1.94658
1.9065 1.86657 1.82915 1.79441 1.76319 1.73576 1.71192 1.69116 1.67414 1.65879 1.64476
1.63181 1.61975 1.60848 1.59915 1.59027 1.58179 1.57367 1.56584 1.55828 1.55221 1.54626
1.54042 1.53467 1.52901 1.52345 1.51925 1.5151 1.511 1.50695 1.50296 1.49904 1.49636
1.49372 1.49111 1.48854 1.48601 1.48351 1.48205 1.4806 1.47916 1.47775 1.47635 1.47497
1.47434 1.47371 1.47308 1.47247 1.47185
"""


def drawn():
    params = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
    own = np.random.default_rng(8).standard_normal((2, 3, 8)).astype("f4")
    return params._replace(learnable=params.learnable | {SITE: jnp.asarray(own)})


def test_sixty_steps_of_the_published_modules():
    params = drawn()
    y = jax.jit(PROGRAM.apply)(params, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, LOGITS, atol=2e-5)
    optimizer = find_method("plot").preset.optimizer(0.2, 6, 10)
    found, _ = trained(PROGRAM, MODEL.frozen, X, Y, optimizer, 60, params)
    np.testing.assert_allclose(found, np.fromstring(LOSSES, sep=" "), atol=2e-4)


def test_the_plan_is_the_transport_of_least_cost_with_entropy():
    """Its margins are even, and no move between two rows and columns is better."""
    cosine = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (3, 5, 4)), "f4")
    plan = plans(cosine, 10.0, 200)
    np.testing.assert_allclose(plan.sum(-1), 1 / 5, rtol=1e-4)
    np.testing.assert_allclose(plan.sum(-2), 1 / 4, rtol=1e-4)
    slope = np.asarray(jnp.log(plan) / 10.0 - cosine)  # of entropy / 10 - cosine
    around = slope[:, :1, :1] + slope - slope[:, :1] - slope[:, :, :1]
    np.testing.assert_allclose(around, 0, atol=1e-4)
    pull = jax.grad(lambda c: (plans(c, 10.0, 20) * c).sum())(cosine)
    np.testing.assert_allclose(pull, plans(cosine, 10.0, 20), rtol=1e-5)


def test_one_prompt_and_no_choice_is_the_mean_cosine_of_the_patches():
    program = optimal_transport(MODEL, prompts=1, length=2)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    wanted = ["image/block_1:out", "text/features"]
    y, seen = record(program.apply, wanted)(params, MODEL.frozen, X)
    own = MODEL.frozen["image"]["params"]
    x = np.asarray(seen[wanted[0]], np.float64)[:, 1:]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = (x * own["norm"]["scale"] + own["norm"]["bias"]) @ np.asarray(
        own["head"]["kernel"]
    )
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
    cosine = unit(x) @ unit(np.asarray(seen[wanted[1]])).T
    np.testing.assert_allclose(y, 10 * cosine.mean(1), rtol=1e-3, atol=1e-3)


def test_the_contract():
    found = contract(
        PROGRAM,
        MODEL.frozen,
        X[:4],
        Y[:4],
        forward=transported(MODEL, 2, 10.0, 100),
        shape=(4, 3),
    )
    assert found.learnable == 2 * 3 * 8


def test_coordinates_and_settings():
    seen = describe(PROGRAM, MODEL.frozen, X[:2], roles=MODEL.roles)
    assert seen.coordinates == "learnable embedding concatenative -> identity"
    preset = find_method("plot").preset
    assert (preset.learning_rate, preset.epochs, preset.batch) == (0.002, 50, 128)


def test_what_has_no_patches_of_its_own_or_several_texts_is_refused():
    with pytest.raises(ValueError, match="pools all its tokens"):
        optimal_transport(classifier(pair("siglip"), NAMES))
    several = classifier(pair(), NAMES, ["{}.", "a {}."])
    with pytest.raises(ValueError, match="got several texts for a class"):
        optimal_transport(several)
    with pytest.raises(ValueError, match="got 0 prompts"):
        optimal_transport(MODEL, prompts=0)
