"""The pair without a pair's weights, as the experiments take it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared.ridge import STRENGTH, fitted, ridge_pair
from reprojax import recipes
from reprojax.models.image_text import classifier


@pytest.mark.verify
def test_prompts_that_begin_at_the_texts_words_answer_as_without():
    """They read the words' vectors in the frozen tree of the sentence encoder."""
    model = classifier(ridge_pair(), ["shirt", "shoe", "hat"], ["a photo of a {}."])
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 256, (2, 224, 224, 3)), jnp.uint8)
    bare = model.forward(model.frozen, x)
    assert np.ptp(bare) > 0.1
    program = recipes.build("kgcoop", model, 3)
    params = program.init(jax.random.key(0), model.frozen, x)
    np.testing.assert_allclose(
        program.apply(params, model.frozen, x), bare, atol=1e-4, rtol=1e-4
    )


def test_the_map_is_the_least_penalised_square():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    found = fitted(x, y)

    def cost(kernel):
        gaps = (x - x.mean(0)) @ kernel - (y - y.mean(0))
        return np.square(gaps).sum() + STRENGTH * np.square(kernel).sum()

    least = cost(np.asarray(found["map"], float))
    others = [np.asarray(found["map"]) + s for s in 1e-2 * rng.normal(size=(20, 5, 3))]
    assert all(least < cost(other) for other in others)
    mean = x.mean(0) @ np.asarray(found["map"]) + np.asarray(found["middle"])
    np.testing.assert_allclose(mean, y.mean(0), atol=1e-5)
