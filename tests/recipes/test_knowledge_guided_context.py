"""KgCoOp (arXiv 2303.13283) beside its official code.

The wrong variants: a target that is computed anew from the learned words; a sum over
classes; features that are not of unit length.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import NAMES, X, Y, model, official, trained
from small_pairs import WIDTH, pair

from reprojax.core import record
from reprojax.formats import learnable
from reprojax.models.image_text import classifier, random
from reprojax.recipes.prompt_tuning import kgcoop
from reprojax.recipes.prompt_tuning.knowledge_guided_context import METHOD
from reprojax.testing import contract

TEMPLATE = "a photo of a {}."
MODEL = model(TEMPLATE)
OTHER = "a good red photo of the {}."


@pytest.mark.parametrize("case", ["own", "other"])
def test_sixty_steps_are_those_of_the_official_code(case):
    guide = model(OTHER) if case == "other" else None
    program = kgcoop(MODEL, hand_written=guide)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    losses, last = trained(program, params, MODEL.frozen, METHOD.preset)
    wanted = official()["kgcoop"][case]
    np.testing.assert_allclose(losses, wanted["losses"], rtol=5e-4)
    y = program.apply(last, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, wanted["logits"], rtol=2e-3, atol=1e-3)
    bare = MODEL.forward(MODEL.frozen, X[:2])
    assert np.abs(y - bare).max() > 0.02


def test_the_start_is_zero_shot():
    program = kgcoop(MODEL, targets=3)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    y = program.apply(params, MODEL.frozen, X)
    np.testing.assert_allclose(y, MODEL.forward(MODEL.frozen, X), rtol=1e-4, atol=1e-5)
    assert params.learnable["text/embed:out"].shape == (4, WIDTH)


def test_the_target_is_of_the_weights_that_the_program_begins_with():
    other = classifier(random(pair(), jax.random.key(4)), NAMES, [TEMPLATE])
    params = kgcoop(MODEL).init(jax.random.key(0), other.frozen, X)
    wanted = np.asarray(other.frozen["texts"].features)
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(params.fixed["text/features"], wanted, rtol=1e-5)


def test_the_target_of_several_texts_is_their_weighted_mean():
    weights = np.array([[0.7, 0.3, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 1, 3]])
    templates = [TEMPLATE, "a photo of a red {}."]
    several = classifier(pair(), NAMES, templates, weights=weights)
    program = kgcoop(several)
    params = program.init(jax.random.key(0), several.frozen, X)
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)
    wanted = unit(weights @ unit(np.asarray(several.frozen["texts"].features)))
    np.testing.assert_allclose(params.fixed["text/features"], wanted, rtol=1e-4)
    y, seen = record(program.apply, METHOD.preset.sites)(params, several.frozen, X)
    assert y.shape == (len(X), 3)
    np.testing.assert_allclose(*seen.values(), np.zeros(3), atol=1e-5)


def test_the_contract():
    drawn = learnable(jax.nn.initializers.normal(0.5))  # at the start nothing is apart
    program = kgcoop(MODEL, initial=drawn)
    found = contract(
        program,
        MODEL.frozen,
        X[:4],
        jnp.asarray(Y[:4]),
        forward=MODEL.forward,
        shape=(4, 3),
        loss=METHOD.preset.loss,
        sites=METHOD.preset.sites,
    )
    assert found.learnable == 4 * WIDTH


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="kgcoop got texts that begin with 0 common"):
        kgcoop(model())
    with pytest.raises(ValueError, match="begin with 4 common words for a prompt of 8"):
        kgcoop(MODEL, length=8)
    with pytest.raises(ValueError, match="got hand-written texts for .*'dog'"):
        kgcoop(MODEL, hand_written=classifier(pair(), ["cat", "dog", "bird"]))
    with pytest.raises(ValueError, match="with 3 names"):
        kgcoop(MODEL, targets=len(NAMES) + 1)
