"""CoCoOp (arXiv 2203.05557) beside its official code.

The wrong variants: a vector for each word; features that are not of unit length; the
words of another image; a net without its ReLU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import NAMES, X, Y, model, official, trained
from small_pairs import WIDTH, pair

from reprojax.core import Params, Scope, record, tokens
from reprojax.formats import learnable
from reprojax.models.image_text import classifier
from reprojax.recipes.prompt_tuning import cocoop
from reprojax.recipes.prompt_tuning.conditional_context import METHOD, conditional
from reprojax.testing import contract
from reprojax.testing.compiled import operations

SITE, JOINT = "text/embed:out", 32  # the net's hidden layer is a sixteenth as wide
MODEL = classifier(pair("clip", JOINT), NAMES)
PROGRAM = cocoop(MODEL)


def started():
    """Params with the net that official code started from."""
    params = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
    draw = np.random.default_rng(13)  # a ReLU that is off for some images
    layer = lambda wide, into: {
        "kernel": jnp.asarray(draw.normal(size=(wide, into)).T, jnp.float32),
        "bias": jnp.asarray(0.1 * draw.normal(size=wide), jnp.float32),
    }
    net = {"first": layer(2, JOINT), "second": layer(WIDTH, 2)}
    own = {"words": params.learnable[SITE]["words"], "net": net}
    return params._replace(learnable={**params.learnable, SITE: own})


def test_sixty_steps_are_those_of_the_official_code():
    wanted, params = official()["cocoop"], started()
    losses, last = trained(
        PROGRAM, params, MODEL.frozen, METHOD.preset, epochs=10, batch=4
    )
    np.testing.assert_allclose(losses, wanted["losses"], rtol=5e-4)
    y = PROGRAM.apply(last, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, wanted["logits"], rtol=2e-3, atol=1e-3)
    assert losses[-6:].mean() < losses[:6].mean()


def test_each_image_has_words_of_its_own():
    params = started()
    both = PROGRAM.apply(params, MODEL.frozen, X[:2])
    other = PROGRAM.apply(params, MODEL.frozen, X[[1, 0]])
    np.testing.assert_allclose(both, other[::-1], rtol=1e-4, atol=1e-5)
    _, seen = record(PROGRAM.apply, [SITE])(params, MODEL.frozen, X[:2])
    rows = seen[SITE].value.reshape(2, 3, -1, WIDTH)
    assert np.abs(rows[0] - rows[1])[:, 1:5].max() > 0.1
    moved = rows[0] - rows[1]
    np.testing.assert_allclose(moved[:, 1:5], moved[:1, 1:2] + 0 * moved[:, 1:5],
                               atol=1e-5)  # fmt: skip
    np.testing.assert_array_equal(moved[:, 5:], 0)


def test_the_image_tower_runs_once():
    params = started()
    context = jnp.ones((8, JOINT))
    with_context = lambda f, x: PROGRAM.apply(params, f, x, context)
    without = lambda f, x: PROGRAM.apply(params, f, x)
    known = operations(with_context, MODEL.frozen, jnp.asarray(X[:8]))
    own = operations(without, MODEL.frozen, jnp.asarray(X[:8]))
    assert own < 1.02 * known


def test_the_contract():
    found = contract(
        PROGRAM,
        MODEL.frozen,
        X[:4],
        jnp.asarray(Y[:4]),
        forward=MODEL.forward,
        shape=(4, 3),
    )
    net = JOINT * 2 + 2 + 2 * WIDTH + WIDTH
    assert found.learnable == 4 * WIDTH + net


def test_words_without_an_images_feature_are_refused():
    own = conditional(learnable(jax.nn.initializers.zeros))
    for context in (None, jnp.ones(JOINT)):
        with pytest.raises(ValueError, match="expected a feature of each row"):
            own.init(jax.random.key(0), (4, WIDTH), Scope(context=context))
    params = started()
    own = Params(params.learnable[SITE], params.fixed[SITE])
    words = tokens(jnp.zeros((3, 9), jnp.int32))
    with pytest.raises(ValueError, match="expected a feature of each row"):
        conditional(learnable(jnp.zeros((4, WIDTH)))).read(own, words, Scope())


def test_other_texts_are_refused():
    with pytest.raises(ValueError, match="cocoop got texts that begin with 0 common"):
        cocoop(model())
