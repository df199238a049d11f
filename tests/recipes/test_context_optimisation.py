"""CoOp (arXiv 2109.01134) beside its official code on a small CLIP.

The wrong variants: words in front of the first token; names without new positions; the
same words for each class, or their gradients' mean; a rate that moves by steps.
"""

import contexts
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import NAMES, RATE, X, Y, model, official, trained, words
from small_pairs import WIDTH, pair

from reprojax import recipes
from reprojax.formats import learnable
from reprojax.models.image_text import classifier
from reprojax.models.language.starts import from_text
from reprojax.recipes.prompt_tuning import coop
from reprojax.recipes.prompt_tuning.context_optimisation import METHOD
from reprojax.testing import contract
from reprojax.testing.compiled import operations

SITE, P = "text/embed:out", 3
CASES = {
    "end": {},
    "middle": {"place": "middle"},
    "front": {"place": "front"},
    "each": {"each": True},
}


def started(**sizes):
    """A program, and params with the words that official code started from."""
    program = coop(model(), length=P, **sizes)
    params = program.init(jax.random.key(0), model().frozen, X)
    count = (3,) if sizes.get("each") else ()
    drawn = words(*count, P, WIDTH)
    if sizes.get("place") == "middle":
        drawn = {"before": drawn[:1], "behind": drawn[1:]}
    return program, params._replace(learnable={**params.learnable, SITE: drawn})


@pytest.mark.parametrize("case", CASES)
def test_sixty_steps_are_those_of_the_official_code(case):
    program, params = started(**CASES[case])
    wanted = official()["coop"][case]
    losses, last = trained(program, params, model().frozen, METHOD.preset)
    np.testing.assert_allclose(losses, wanted["losses"], rtol=2e-4)
    y = program.apply(last, model().frozen, X[:2])
    np.testing.assert_allclose(y, wanted["logits"], rtol=2e-3, atol=1e-3)
    assert wanted["losses"][-1] < 0.7 * wanted["losses"][0]


def test_the_rate_is_that_of_the_official_schedule():
    wanted = np.repeat(official()["coop"]["end"]["rates"], 3)
    optimizer = METHOD.preset.optimizer(RATE, 3, 20)
    p, found, moved = jnp.zeros(()), [], 0.0
    state = optimizer.init(p)
    for _ in wanted:
        update, state = jax.jit(optimizer.update)(jnp.ones(()), state, p)
        moved = 0.9 * moved + 1
        found.append(-float(update) / moved)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_words_start_small_or_as_words_of_a_text():
    program = coop(model(), length=4)
    start = program.init(jax.random.key(0), model().frozen, X).learnable[SITE]
    assert start.shape == (4, WIDTH) and 0.01 < np.std(start) < 0.03
    text = pair().text
    ids = text.input.tokenizer.encode("a photo of a", special=False)
    spoken = coop(model(), length=4, initial=from_text(text, ids), each=True)
    params = spoken.init(jax.random.key(0), model().frozen, X)
    assert params.learnable[SITE].shape == (3, 4, WIDTH)
    whole = classifier(pair(), NAMES)
    np.testing.assert_allclose(
        spoken.apply(params, model().frozen, X),
        whole.forward(whole.frozen, X),
        rtol=1e-4,
        atol=1e-5,
    )


def test_siglips_texts_have_no_first_token_and_all_positions():
    names = ["cat", "dog", "bird"]
    model = classifier(pair("siglip"), names, ["{}."], room=P)
    program = coop(model, length=P, ahead=0)
    params = program.init(jax.random.key(0), model.frozen, X)
    assert program.apply(params, model.frozen, X).shape == (24, 3)
    with pytest.raises(ValueError, match="place='end', or texts of the template"):
        coop(model, length=P, place="front", ahead=0)


@pytest.mark.parametrize("case", ["end", "middle", "each"])
def test_the_contract(case):
    program, _ = started(**CASES[case])
    found = contract(
        program,
        model().frozen,
        X[:4],
        jnp.asarray(Y[:4]),
        forward=model().forward,
        shape=(4, 3),
    )
    assert found.learnable == P * WIDTH * (3 if case == "each" else 1)


def test_a_step_costs_no_more_than_both_towers_and_the_texts_gradient():
    """At most 1.05 of the forward and the gradient at the words' vectors."""
    program, params = started()
    x = jnp.asarray(X[:8])

    def step(learnable, frozen, x):
        own = params._replace(learnable=learnable)
        return program.apply(own, frozen, x).sum()

    def bare(vectors, frozen, x):
        def edit(site, value):
            if site != SITE:
                return value
            pads = ((0, 0), (0, P))
            weight = jnp.pad(value.weight, pads, constant_values=1)
            long = jnp.pad(value.value, (*pads, (0, 0))) + vectors
            place = jnp.pad(value.position, pads)
            return value._replace(value=long, weight=weight, position=place)

        return model().forward(frozen, x, edit=edit).sum()

    shape = model().frozen["texts"].tokens.value.shape
    vectors = jnp.zeros((shape[0], shape[1] + P, WIDTH))
    least = operations(jax.value_and_grad(bare), vectors, model().frozen, x)
    own = operations(jax.value_and_grad(step), params.learnable, model().frozen, x)
    assert own <= 1.05 * least


def test_parts_of_images_are_for_training_alone():
    program, params = started()
    other = coop(model(), length=P, augment=True)
    y = program.apply(params, model().frozen, X)
    np.testing.assert_array_equal(other.apply(params, model().frozen, X), y)
    moved = other.apply(params, model().frozen, X, key=jax.random.key(1))
    assert np.abs(moved - y).max() > 0.01


def test_what_does_not_fit_is_refused(unchecked):
    with pytest.raises(ValueError, match="got 4 classes and small clip with 3 names"):
        coop(model(), targets=4)
    with pytest.raises(ValueError, match="place='behind' for 3 words, expected 'end'"):
        coop(model(), length=3, place="behind")
    with pytest.raises(ValueError, match="'middle' of at least two words"):
        coop(model(), length=1, place="middle")
    long = coop(model(), length=10)
    with pytest.raises(ValueError, match="15 tokens for a model that has 12 positions"):
        long.init(jax.random.key(0), model().frozen, X)
    with pytest.raises(ValueError, match="expected 'text_embedding' among them"):
        coop(model()._replace(roles={}))
    wide = coop(model(), length=P, initial=learnable(jnp.zeros((P, WIDTH + 1))))
    with pytest.raises(ValueError, match="expected"):
        wide.init(jax.random.key(0), model().frozen, X)
    other = classifier(pair(), ["cat", "dog"], ["a {}.", "a {} on blue"])
    with pytest.raises(ValueError, match="got texts whose last 2 tokens are"):
        coop(other, place="front")
    assert "coop" in recipes.methods(contexts.model())
