"""DePT (arXiv 2309.05173) against prompt tuning of a model that holds A B in its table
of positions.

The wrong variants: A B on the prompt too, or by index where there is padding; one rate
for all.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_languages import KEY, POSITIONS, QUERIES, WIDTH, card, losses

from reprojax.alignments import label_words
from reprojax.core import padded
from reprojax.decoding import generate
from reprojax.recipes.prompt_tuning import decomposed_prompt_tuning, prompt_tuning
from reprojax.recipes.prompt_tuning.decomposed_prompt_tuning import METHOD
from reprojax.taxonomy import describe
from reprojax.testing import contract
from reprojax.training.optimizers import two_rates

P, RANK, PLACES, EMBED = 3, 2, 7, "embed:out"
SMALL = {"length": P, "rank": RANK, "words": PLACES}


def begun(program, language):
    return program.init(KEY, language.frozen, padded(QUERIES))


def moved(program, language):
    params = begun(program, language)
    own = params.learnable[EMBED]
    right = 3 * jax.random.normal(KEY, own["words"]["right"].shape)
    own = own | {"words": own["words"] | {"right": right}}
    return params._replace(learnable={EMBED: own})


def in_positions(language, params):
    """The frozen tree with A B in the rows of the text's positions; the prompt."""
    own = jax.tree.map(np.asarray, params.learnable[EMBED])
    rows = own["words"]["left"] @ own["words"]["right"] * 8 / RANK**0.5
    tree = language.frozen["params"]
    table = np.array(tree["positions"]["embedding"])
    table[P : P + len(rows)] += rows
    frozen = {"params": tree | {"positions": {"embedding": jnp.asarray(table)}}}
    return frozen, {EMBED: jnp.asarray(own["prompt"])}


def test_it_is_a_short_prompt_and_rows_by_place():
    language = card("learned")
    program = decomposed_prompt_tuning(language, **SMALL)
    plain = prompt_tuning(language, length=P)
    params = moved(program, language)
    frozen, prompt = in_positions(language, params)
    same = begun(plain, language)._replace(learnable=prompt)
    run, other = jax.jit(program.apply), jax.jit(plain.apply)
    for x in (padded(QUERIES), padded(QUERIES, "left", 9)):
        y, z = run(params, language.frozen, x), other(same, frozen, x)
        real = np.asarray(y.weight) > 0
        np.testing.assert_allclose(y.value[real], z.value[real], rtol=1e-4, atol=2e-4)
    keys = jax.random.split(KEY, 3)  # places 2 to 6 of the shortest are written
    out = jax.jit(generate(program, 6))(params, language.frozen, x, keys)
    written = jax.jit(generate(plain, 6))(same, frozen, x, keys)
    np.testing.assert_array_equal(out.ids, written.ids)
    np.testing.assert_allclose(out.logp, written.logp, atol=1e-4)


def test_at_the_start_it_is_prompt_tuning():
    language, x = card("rotary"), padded(QUERIES)
    program = decomposed_prompt_tuning(language, **SMALL)
    params = begun(program, language)
    own = params.learnable[EMBED]
    assert own["words"]["left"].shape == (PLACES, RANK)
    assert 0.5 < np.abs(own["words"]["left"]).max() <= RANK**-0.5
    plain = prompt_tuning(language, length=P)
    same = begun(plain, language)._replace(learnable={EMBED: own["prompt"]})
    np.testing.assert_array_equal(
        program.apply(params, language.frozen, x).value,
        plain.apply(same, language.frozen, x).value,
    )


def test_there_are_two_rates():
    """Of a constant gradient Adam moves by its rate."""
    p = {EMBED: {"prompt": jnp.zeros(2), "words": {"left": jnp.zeros(3)}}}
    p[EMBED]["words"]["right"] = jnp.zeros(1)
    optimizer = two_rates(0.3, 5, 2)
    state = optimizer.init(p)
    for step in range(3):
        update, state = optimizer.update(jax.tree.map(jnp.ones_like, p), state, p)
        rate = 0.3 * (1 - step / 10)
        np.testing.assert_allclose(update[EMBED]["prompt"], -rate, rtol=1e-4)
        for leaf in update[EMBED]["words"].values():
            np.testing.assert_allclose(leaf, -rate / 60, rtol=1e-4)


def test_the_default_settings_learn():
    """The loss of 32 rows falls below a third of what guessing has, in 100 steps."""
    language = card("rotary")
    program = decomposed_prompt_tuning(language, label_words([0, 1]), length=8, rank=4)
    found, params = losses(program, language, METHOD.preset, 100)
    assert found[-1] < np.log(2) / 3, found[::10]
    assert np.abs(params.learnable[EMBED]["words"]["right"]).max() > 0.05


def test_the_contract():
    language = card("rotary")
    program = decomposed_prompt_tuning(language, label_words((11, 6, 17)), **SMALL)
    x = padded(QUERIES + [[4, 4, 4, 4, 4, 4]], "left")
    labels = jnp.array([0, 2, 1, 1])
    found = contract(
        program, language.frozen, x, labels, shape=(4, 3), no_gradient=("left",)
    )
    assert found.learnable == P * WIDTH + RANK * (PLACES + WIDTH)
    seen = describe(program, language.frozen, x, roles=language.roles)
    assert seen.coordinates == "learnable embedding additive -> rule"


def test_what_does_not_fit_is_refused():
    language, x = card("rotary"), padded(QUERIES)
    for length in (0, POSITIONS):
        with pytest.raises(ValueError, match=f"prompt of {length} tokens, expected"):
            decomposed_prompt_tuning(language, length=length)
    with pytest.raises(ValueError, match="got words=0"):
        decomposed_prompt_tuning(language, length=P, words=0)
    for rank in (0, WIDTH + 1):
        wide = decomposed_prompt_tuning(language, length=P, rank=rank)
        with pytest.raises(ValueError, match=f"got a rank of {rank} for 29 vectors"):
            wide.init(KEY, language.frozen, x)
