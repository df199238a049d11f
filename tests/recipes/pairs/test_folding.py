"""A folded program answers as the one that it is made of, and is smaller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_training
from attributes import NAMES, looks, model
from small_pairs import pair, pictures

from reprojax.alignments import bayesian
from reprojax.models.image_text import classifier
from reprojax.recipes.folding import folded
from reprojax.recipes.model_reprogramming import attrvr, padding, rvp
from reprojax.recipes.prompt_tuning import (
    coop,
    ivlp,
    maple,
    optimal_transport,
    prompt_src,
)
from reprojax.saving.programs import Card, load, save
from reprojax.testing.compiled import operations

X, Y = pictures(12), np.arange(12) % 3
NAMED = classifier(pair(), NAMES)
SHORT = classifier(pair(), NAMES, ["{}."])


def drawn(program, model):
    return small_training.drawn(program, model, X, Y)


PROGRAMS = {
    "coop": (SHORT, coop(SHORT, length=3)),
    "maple": (NAMED, maple(NAMED)),
    "ivlp": (NAMED, ivlp(NAMED, length=2)),
    "promptsrc": (NAMED, prompt_src(NAMED, length=2)),
    "blm": (looks(), padding(looks(), bayesian(3), inner=12)),
    "rvp": (looks(), rvp(looks(), targets=3, inner=12)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_answers_the_same_with_less(name):
    card, program = PROGRAMS[name]
    params, image = drawn(program, card), pair().image
    small = folded(program, params, card, image)
    x = pictures(20, 7)  # other images than those it was compared on
    y = jax.jit(program.apply)(params, card.frozen, x)
    again = jax.jit(small.program.apply)(small.params, image.frozen, x)
    np.testing.assert_allclose(again, y, rtol=1e-4, atol=2e-5)
    before, after = small.numbers
    assert after < 0.8 * before
    assert set(small.model.frozen) == {"params"}  # no text tower, no texts
    runs = operations(small.program.apply, small.params, image.frozen, x)
    assert runs < operations(program.apply, params, card.frozen, x)
    if name == "coop":  # nothing is left but the image tower and its head
        assert runs < 1.02 * operations(image.forward, image.frozen, x)


def test_in_half_precision_answers_agree_to_its_last_places():
    halves = lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a
    card, program = PROGRAMS["maple"]
    card = card._replace(frozen=jax.tree.map(halves, card.frozen))
    image = pair().image
    image = image._replace(frozen=jax.tree.map(halves, image.frozen))
    params = drawn(program, card)
    small = folded(program, params, card, image)
    y = jax.jit(program.apply)(params, card.frozen, X)
    again = jax.jit(small.program.apply)(small.params, image.frozen, X)
    assert again.dtype == y.dtype == jnp.bfloat16
    apart = np.abs(np.asarray(again, "f4") - np.asarray(y, "f4")).max()
    assert apart < 0.07 * np.abs(np.asarray(y, "f4")).max()
    with pytest.raises(ValueError, match="above 1e-05"):
        folded(program, params, card, image, tolerance=1e-5)


def test_prompts_of_the_text_tower_become_rows_of_the_images():
    card, program = PROGRAMS["maple"]
    params = drawn(program, card)
    small = folded(program, params, card, pair().image)
    own = params.learnable["text/embed:out"]
    made = own["prompts"] @ own["kernel"] + own["bias"][:, None]
    for i, site in enumerate(("norm_before:in", "block_1:in")):
        np.testing.assert_allclose(small.params.fixed[site], made[i], rtol=1e-4)
    assert not jax.tree.leaves(small.params.learnable)


def test_it_is_saved_and_loaded_without_the_text_tower(tmp_path):
    card, program = PROGRAMS["maple"]
    params, image = drawn(program, card), pair().image
    small = folded(program, params, card, image)
    about = {"method": "folded", "arguments": {}, "classes": tuple(NAMES)}
    save(tmp_path / "whole", params, Card.of(card, **about))
    save(tmp_path / "small", small.params, Card.of(image, **about))
    back = load(tmp_path / "small", image)
    again = back.params_for(small.program, image.frozen, X)
    y = jax.jit(small.program.apply)(again, image.frozen, X)
    wanted = jax.jit(program.apply)(params, card.frozen, X)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=2e-5)


def test_what_is_no_linear_head_is_refused():
    card = model()
    program = attrvr(card, targets=3, inner=12)
    with pytest.raises(ValueError, match="no linear function of an image's feature"):
        folded(program, drawn(program, card), card, pair().image)
    program = optimal_transport(SHORT, prompts=2, length=2)
    with pytest.raises(ValueError, match="answers differ by"):
        folded(program, drawn(program, SHORT), SHORT, pair().image)


def test_another_image_tower_is_noticed():
    card, program = PROGRAMS["coop"]
    other = pair(depth=3).image
    with pytest.raises(ValueError, match="answers differ by"):
        folded(program, drawn(program, card), card, other)
