"""P-tuning v2 (arXiv 2110.07602) against the bare model on words that are there.

The wrong variants: a head that reads padding, the prefix's place or another token; a
text whose positions begin before the prefix's end; dropout in evaluation, or none in
training.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, KV, POSITIONS, QUERIES, WIDTH, card, losses

from reprojax.alignments import last
from reprojax.core import padded, record
from reprojax.models.language.states import keys_and_values
from reprojax.recipes.prompt_tuning import p_tuning_v2, prefix_tuning
from reprojax.recipes.prompt_tuning.p_tuning_v2 import METHOD
from reprojax.taxonomy import describe
from reprojax.testing import contract

P, T, TEXT = 3, 4, [9, 4, 12]
FEATURES = "head:in"


def begun(program, language):
    return program.init(KEY, language.frozen, padded(QUERIES))


def seen(language, row):
    """The features [L D] of one text, and its keys and values [n L H d]."""
    look = jax.jit(record(language.forward, [FEATURES, *KV]))
    _, found = look(language.frozen, padded([row]))
    parts = [a[0] for site in KV for a in found[site].value]
    return np.asarray(found[FEATURES].value[0]), jnp.stack(parts)


def by_hand(params, feature):
    head = jax.tree.map(np.asarray, params.learnable["output"]["head"])
    return feature @ head["kernel"] + head["bias"]


@pytest.mark.parametrize(
    "kind", ["rotary", pytest.param("learned", marks=pytest.mark.slow)]
)
def test_of_a_decoder_the_head_reads_the_last_token(kind):
    """Where the prefix is a text's keys and values, it is that text."""
    language = card(kind)
    start = keys_and_values(language, TEXT)
    program = p_tuning_v2(language, targets=T, length=P, start=start)
    params, run = begun(program, language), jax.jit(program.apply)
    whole = [seen(language, TEXT + query)[0][-1] for query in QUERIES]
    expected = by_hand(params, np.stack(whole))
    for x in (padded(QUERIES), padded(QUERIES, "left"), padded(QUERIES, "left", 9)):
        y = run(params, language.frozen, x)
        np.testing.assert_allclose(y, expected, rtol=2e-4, atol=2e-4)


def test_of_an_encoder_the_head_reads_the_first_token():
    """A text's keys and values, beside the query, are that text again."""
    language = card("encoder")
    program = p_tuning_v2(language, targets=T, length=P)
    params, run = begun(program, language), jax.jit(program.apply)
    for i, query in enumerate(QUERIES):
        features, kv = seen(language, TEXT + query)
        start = params.learnable | {KV[0]: kv[:, :P]}
        own = params._replace(learnable=start)
        for x in (padded(QUERIES), padded(QUERIES, "left", 9)):
            y = run(own, language.frozen, x)
            np.testing.assert_allclose(
                y[i], by_hand(params, features[P]), rtol=2e-4, atol=2e-4
            )
        others = by_hand(params, np.delete(features, P, 0)) - by_hand(
            params, features[P]
        )
        assert np.abs(others).max(1).min() > 0.005


def test_what_differs_from_prefix_tuning_is_the_head():
    language = card("rotary")
    start = keys_and_values(language, TEXT)
    x = padded(QUERIES, "left")
    ours = p_tuning_v2(language, last(), length=P, start=start)
    theirs = prefix_tuning(language, length=P, hidden=None, start=start)
    features = ours.apply(begun(ours, language), language.frozen, x)
    look = record(theirs.apply, [FEATURES])
    _, found = look(begun(theirs, language), language.frozen, x)
    np.testing.assert_allclose(features, found[FEATURES].value[:, -1], atol=1e-6)


def test_dropout_is_for_training_alone():
    language, x = card("encoder"), padded(QUERIES)
    program, plain = (
        p_tuning_v2(language, targets=T, drop=rate) for rate in (0.5, 0.0)
    )
    params = begun(program, language)
    params = params._replace(
        learnable=params.learnable | {KV[0]: 50 * params.learnable[KV[0]]}
    )
    y = program.apply(params, language.frozen, x)
    z = plain.apply(params, language.frozen, x)
    np.testing.assert_array_equal(y, z)
    sites = [*KV, "output"]
    _, found = record(program.apply, sites)(params, language.frozen, x, key=KEY)
    prompt = np.asarray(found[KV[1]].value[0][0, :8])
    kept, right = prompt != 0, 2 * np.asarray(params.learnable[KV[0]][2])
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_allclose(prompt[kept], right[kept], rtol=1e-5)
    assert np.abs(found["output"] - y).max() > 0.1


def test_it_starts_small():
    language = card("rotary")
    params = begun(p_tuning_v2(language, targets=T), language)
    prompt = params.learnable[KV[0]]
    assert prompt.shape == (4, 8, 2, 4)
    assert abs(float(prompt.std()) - 0.02) < 0.004


@pytest.mark.parametrize(
    "kind, rate",
    [("rotary", None), pytest.param("encoder", 0.1, marks=pytest.mark.slow)],
)
def test_the_default_settings_learn(kind, rate):
    """The loss of 32 rows falls below a half of what guessing has, in 100 steps; of an
    encoder of random weights with a larger rate."""
    language = card(kind)
    found, _ = losses(
        p_tuning_v2(language, targets=2), language, METHOD.preset, 100, rate
    )
    assert found[-1] < np.log(2) / 2, found[::10]


@pytest.mark.parametrize(
    "kind", ["encoder", pytest.param("rotary", marks=pytest.mark.slow)]
)
def test_the_contract(kind):
    language = card(kind)
    program = p_tuning_v2(language, targets=3, length=P)
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    labels = jnp.array([0, 2, 1, 1])
    found = contract(program, language.frozen, x, labels, shape=(4, 3))
    heads = 4 if kind == "encoder" else 2
    assert found.learnable == 4 * P * heads * 4 + (WIDTH + 1) * 3
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable hidden concatenative -> linear"


def test_an_mlp_may_make_it():
    language = card("rotary")
    params = begun(p_tuning_v2(language, targets=T, length=P, hidden=5), language)
    prompt = params.learnable[KV[0]]
    assert prompt["second"]["kernel"].shape == (5, 4, 2, 4)


def test_what_does_not_fit_is_refused():
    language, x = card("encoder"), padded(QUERIES)
    for length in (0, POSITIONS):
        with pytest.raises(ValueError, match=f"prompt of {length} tokens, expected"):
            p_tuning_v2(language, targets=T, length=length)
    long = p_tuning_v2(language, targets=T, length=POSITIONS - 5)
    with pytest.raises(ValueError, match="6 tokens behind a prefix of 27"):
        long.init(KEY, language.frozen, x)
    with pytest.raises(ValueError, match="rate of 1.0, expected 0 <= rate < 1"):
        p_tuning_v2(language, targets=T, drop=1.0)
    bare = language._replace(roles={"kv": KV})
    with pytest.raises(ValueError, match="expected 'features' among them"):
        p_tuning_v2(bare, targets=T)
    start = keys_and_values(language, TEXT)
    with pytest.raises(ValueError, match="learnable got"):
        begun(p_tuning_v2(language, targets=T, length=4, start=start), language)
