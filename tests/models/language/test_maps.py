"""Maps over a vocabulary, and masked models asked at their mask.

The wrong variants: an answer read at the end of a masked text, or at the mask's index
without the prompt's; one word counted where the answers hardly repeat.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, V, card, parity

from reprojax import reprogram
from reprojax.alignments import (
    bayesian,
    bayesian_map,
    bayesian_plus,
    label_words,
    one_to_one,
    soft_pair_counts,
)
from reprojax.core import Scope, last_value, padded
from reprojax.data import Split
from reprojax.models.language import Special
from reprojax.models.language.maps import one_word, vocabulary_map
from reprojax.recipes.prompt_tuning import prompt_tuning
from reprojax.testing import contract
from reprojax.training.steps import estimate, evaluate

MASK = V - 1
CLOZES = [[3, 1, MASK, 1, 5, 9], [2, MASK, 5], [MASK, 7]]
LABELS = jnp.array([0, 2, 1])
MAPS = {
    "flm": one_to_one(2),
    "ilm": one_to_one(2),
    "blm": bayesian(2),
    "blm+": bayesian_plus(2, k=9),
}


def masked(kind="masked"):
    return card("encoder")._replace(kind=kind, special=Special(mask=MASK))


# -- asked for one word


def test_a_causal_model_answers_behind_the_last_word():
    language = card("rotary")
    whole, short = jax.jit(language.forward), jax.jit(one_word(language).forward)
    for side in ("left", "right"):
        x = padded([[3, 1, 4, 1, 5, 9], [2, 6, 5], [8, 7]], side, 8)
        found = short(language.frozen, x)
        assert found.value.shape == (3, 1, V)
        expected = last_value(whole(language.frozen, x))
        np.testing.assert_allclose(last_value(found), expected, rtol=1e-5, atol=1e-5)


def test_a_masked_model_answers_at_its_mask():
    language = masked()
    whole, short = jax.jit(language.forward), jax.jit(one_word(language).forward)
    sides = [padded(CLOZES, side, 7) for side in ("left", "right")]
    for i, row in enumerate(CLOZES):
        alone = whole(language.frozen, padded([row], "right", 7))
        expected = alone.value[0, row.index(MASK)]
        for x in sides:
            found = short(language.frozen, x)
            np.testing.assert_allclose(found.value[i, 0], expected, atol=2e-5)


def test_prompts_and_label_words_of_causal_models_serve_masked_ones():
    """A prompt that is a text's own words gives the answers to text and cloze."""
    from reprojax.models.language.starts import from_text

    language, text, words = masked(), [9, 4, 4], [11, 6, 17]
    program = prompt_tuning(
        one_word(language),
        label_words(words),
        length=3,
        initial=from_text(language, text),
    )
    x = padded(CLOZES, "left")
    params = program.init(KEY, language.frozen, x)
    found, whole = jax.jit(program.apply), jax.jit(language.forward)
    found = found(params, language.frozen, x)
    for i, row in enumerate(CLOZES):
        there = padded([text + row], "right", 9)
        logits = whole(language.frozen, there).value[0, 3 + row.index(MASK)]
        np.testing.assert_allclose(found[i], logits[jnp.array(words)], atol=3e-5)


def test_a_model_without_words_is_refused():
    with pytest.raises(ValueError, match="a bare model .* expected one that answers"):
        one_word(masked("bare"))
    nowhere = masked()._replace(special=Special())
    with pytest.raises(ValueError, match="with the mask None"):
        one_word(nowhere)
    unnamed = masked()._replace(roles={})
    with pytest.raises(ValueError, match="expected 'features' among them"):
        one_word(unnamed)


# -- maps


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("centre", [True, False])
def test_a_kind_is_that_map_behind_the_last_word(kind, centre):
    x, labels = parity()
    logits = np.random.default_rng(1).normal(size=(32, V)) + np.arange(V) / 4
    y = jnp.asarray(logits, jnp.float32)
    m = vocabulary_map(card("rotary"), 2, kind, k=9, centre=centre)
    there = x._replace(value=jnp.zeros((32, 5, V)).at[:, -1].set(y))
    params = m.init(KEY, there, Scope())
    params = m.refresh(params, m.observe(params, there, labels))
    plain = MAPS[kind]
    own = plain.init(KEY, y, Scope())
    weights = plain.refresh(own, plain.observe(own, y, labels)).fixed
    expected = (y - y.mean(0) if centre else y) @ weights
    found = m.apply(params, there, Scope())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_as_many_words_count_as_there_are_up_to_a_hundred():
    y = jnp.asarray(np.random.default_rng(0).normal(size=(4, 120)), jnp.float32)
    x, labels = padded([[1]] * 4)._replace(value=y[:, None]), jnp.zeros(4, int)
    for size in (V, 120):
        m = vocabulary_map(card("rotary")._replace(vocabulary=size), 2)
        spec = x._replace(value=x.value[..., :size])
        sums = m.observe(m.init(KEY, spec, Scope()), spec, labels)
        assert ((sums["map"]["map"] > 0).sum() > 100 - 1) == (size > 100)


def test_without_a_prompt_a_task_is_read_off():
    """Its last word says a row's class: 64 rows, read on 128 others."""
    language, random = card("rotary"), np.random.default_rng(0)
    ids, y = random.integers(0, V, (192, 2)), random.integers(0, 2, 192)
    ids[:, -1] = np.array([5, 17])[y]
    rows = lambda a, b: Split(
        jax.tree.map(np.asarray, padded(ids[a:b].tolist())), y[a:b]
    )
    program = reprogram(
        one_word(language).forward, {"output": vocabulary_map(language, 2)}
    )
    params = program.init(KEY, language.frozen, rows(0, 64).x)
    params = estimate(program, params, language.frozen, rows(0, 64), 64)
    assert evaluate(program, params, language.frozen, rows(64, 192), 64) > 0.7


def test_columns_that_sum_to_one_read_logits_as_log_probabilities():
    """BLM+ over all words, without smoothing in effect, is minus a cross entropy."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(3 * rng.normal(size=(30, 50)), jnp.float32)
    labels = jnp.arange(30) % 3
    p = np.asarray(jax.nn.softmax(logits), float)
    mean = np.stack([p[labels == t].mean(0) for t in range(3)], 1)
    counts = soft_pair_counts(logits, labels, 3, 50)
    found = logits @ bayesian_map(counts, 1e6)
    expected = np.log(p) @ mean  # -CE(mean answer of t, p)
    differences = lambda a: np.asarray(a)[:, 1:] - np.asarray(a)[:, :1]
    np.testing.assert_allclose(differences(found), differences(expected), atol=1e-4)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'bml', expected one of flm.*did you"):
        vocabulary_map(card("rotary"), 2, "bml")


@pytest.mark.slow
def test_the_contract():
    language = one_word(masked())
    program = prompt_tuning(language, vocabulary_map(language, 3), length=4)
    found = contract(
        program,
        language.frozen,
        padded(CLOZES, "left"),
        LABELS,
        forward=language.forward,
        shape=(3, 3),
    )
    assert found.fixed == V * 3 + V
