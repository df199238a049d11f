"""Tip-Adapter and Tip-Adapter-F (arXiv 2111.03930) beside their official code.

The wrong variants: keys or features that are not of unit length; a kernel of exp(-beta
f k); votes that are means of a class; keys that move before they are filled.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import NAMES, X, Y, official, trained
from small_pairs import JOINT, pair, pictures

from reprojax.core import part
from reprojax.models.image_text import classifier, image_features
from reprojax.recipes.prompt_tuning import tip_adapter, tip_adapter_f
from reprojax.recipes.prompt_tuning.tip_adapter import LEARNED, tuned, with_examples
from reprojax.testing import contract

PAIR = replace(pair(), scale=jnp.log(jnp.float32(100.0)))
MODEL = classifier(PAIR, NAMES)
CACHE = image_features(PAIR, X)
OTHERS, LABELS = pictures(30, 11), np.arange(30) % 3


def started(recipe, examples=24):
    """The program, and its params with the images in them."""
    program = recipe(MODEL, examples=examples)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    return program, with_examples(params, CACHE, Y)


@pytest.mark.parametrize("recipe", [tip_adapter, tip_adapter_f])
def test_votes_are_those_of_the_official_code(recipe):
    program, params = started(recipe)
    wanted = official()["tip"]["logits"]
    y = program.apply(params, MODEL.frozen, OTHERS[:4])
    np.testing.assert_allclose(y, wanted, rtol=2e-4)
    # room that is left votes for nothing
    wide, more = started(recipe, examples=40)
    np.testing.assert_allclose(
        wide.apply(more, MODEL.frozen, OTHERS[:4]), wanted, rtol=2e-4
    )


def test_sixty_steps_are_those_of_the_official_code():
    program, params = started(tip_adapter_f)
    preset = LEARNED.preset._replace(
        optimizer=lambda rate, *pace: LEARNED.preset.optimizer(0.01, *pace)
    )
    losses, last = trained(program, params, MODEL.frozen, preset)
    wanted = official()["tip"]["losses"]
    np.testing.assert_allclose(losses, wanted, rtol=1e-3)
    assert np.mean(wanted[-3:]) < 0.75 * np.mean(wanted[:3])
    np.testing.assert_array_equal(part(last, "output").fixed["labels"], Y)


def test_the_search_ends_where_the_official_one_does():
    _, params = started(tip_adapter)
    logits = MODEL.forward(MODEL.frozen, OTHERS)
    found = tuned(params, logits, image_features(PAIR, OTHERS), LABELS)
    own = part(found, "output").fixed
    best = [float(own["sharpness"]), float(own["strength"])]
    np.testing.assert_allclose(best, official()["tip"]["best"], rtol=1e-5)


def test_an_empty_cache_is_zero_shot():
    program = tip_adapter(MODEL, examples=5)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    y = program.apply(params, MODEL.frozen, X)
    np.testing.assert_array_equal(y, MODEL.forward(MODEL.frozen, X))


def test_the_contract():
    program = tip_adapter_f(MODEL, examples=6)

    def init(key, frozen, x, context=None):
        return with_examples(program.init(key, frozen, x), CACHE[:6], Y[:6])

    found = contract(
        program._replace(init=init),
        MODEL.frozen,
        X[:4],
        jnp.asarray(Y[:4]),
        forward=MODEL.forward,
        shape=(4, 3),
    )
    assert found.learnable == 6 * JOINT


def test_what_does_not_fit_is_refused(unchecked):
    program = tip_adapter(MODEL, examples=5)
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    with pytest.raises(ValueError, match="24 labels, expected features .* at most 5"):
        with_examples(params, CACHE, Y)
    with pytest.raises(ValueError, match="got 4 classes and small clip with 3 names"):
        tip_adapter(MODEL, targets=4)
    from reprojax import alignments, reprogram

    alone = reprogram(MODEL.forward, {}, alignments.voting(3, 5))
    with pytest.raises(ValueError, match="expected a pair of logits and features"):
        alone.init(jax.random.key(0), MODEL.frozen, X)
