"""Vectors added to a text's words, against a model whose table was moved.

The wrong variants: added to the padding's place instead of the first word's; by index.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, POSITIONS, QUERIES, WIDTH, card, losses

from reprojax.alignments import label_words
from reprojax.core import Params, last_value, padded
from reprojax.models.language.maps import vocabulary_map
from reprojax.recipes.model_reprogramming import additive_prompt
from reprojax.recipes.model_reprogramming.additive_prompts import METHOD
from reprojax.taxonomy import describe
from reprojax.testing import contract


def test_a_vector_for_every_word_is_another_table():
    language = card("learned")  # its head has no part in the embedding's table
    program, x = additive_prompt(language), padded(QUERIES, "left")
    params = program.init(KEY, language.frozen, x)
    moved = jnp.asarray(np.random.default_rng(1).normal(size=WIDTH), jnp.float32)
    own = Params({"embed:out": moved}, params.fixed)
    found = jax.jit(program.apply)(own, language.frozen, x)
    inner = language.frozen["params"]
    by_hand = lambda site, v: (
        v._replace(value=inner["embed"]["embedding"][x.value] + moved)
        if site == "embed:out"
        else v
    )
    whole = jax.jit(lambda f, x: language.forward(f, x, edit=by_hand))
    expected = last_value(whole(language.frozen, x))
    np.testing.assert_allclose(last_value(found), expected, atol=2e-5)


def test_the_first_words_have_one_each_wherever_the_padding_is():
    language, random = card("rotary"), np.random.default_rng(1)
    program = additive_prompt(language, length=3)
    moved = jnp.asarray(random.normal(size=(3, WIDTH)), jnp.float32)
    seen = {}

    def look(site, v):
        return seen.setdefault(site, v)

    for side in ("left", "right"):
        seen.clear()
        x = padded(QUERIES, side, 7)
        params = program.init(KEY, language.frozen, x)
        own = Params({"embed:out": moved}, params.fixed)
        program.apply(own, language.frozen, x, edit=look)
        change = seen["embed:out"].value - seen["embed:out/raw"].value
        for i, query in enumerate(QUERIES):
            start = 7 - len(query) if side == "left" else 0
            expected = np.zeros((7, WIDTH))
            n = min(3, len(query))
            expected[start : start + n] = moved[:n]
            np.testing.assert_allclose(change[i], expected, atol=1e-6)


def test_the_default_settings_learn():
    """The loss of 32 rows falls below two thirds of what guessing has, in 100 steps."""
    language = card("rotary")
    program = additive_prompt(language, label_words([0, 1]))
    found, _ = losses(program, language, METHOD.preset, 100)
    assert found[-1] < 0.66 * np.log(2) < found[0], found[::10]


def test_the_contract():
    language, x = card("rotary"), padded(QUERIES, "left")
    program = additive_prompt(language, vocabulary_map(language, 3), length=2)
    found = contract(program, language.frozen, x, jnp.array([0, 2, 1]), shape=(3, 3))
    assert found.learnable == 2 * WIDTH
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable embedding additive -> statistical"


def test_at_the_start_it_is_the_bare_model():
    language, x = card("rotary"), padded(QUERIES)
    program = additive_prompt(language)
    params = program.init(KEY, language.frozen, x)
    found = jax.jit(program.apply)(params, language.frozen, x).value
    expected = jax.jit(language.forward)(language.frozen, x).value
    np.testing.assert_array_equal(found, expected)


def test_a_length_without_room_is_refused():
    for length in (0, POSITIONS):
        with pytest.raises(ValueError, match=f"prompt of {length} tokens, expected"):
            additive_prompt(card("rotary"), length=length)
