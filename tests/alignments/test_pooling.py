"""Sentence embeddings against loops in NumPy, and against the model card's cosines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared.assets import load_language
from reprojax import Params, Scope, chain
from reprojax.alignments import mean, normalised
from reprojax.core import Tokens, padded

VALUE = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
POSITION = np.array([[0, 1, 2, 3, 4], [2, 1, 0, 0, 3], [1, 0, 2, 2, 2]])
WEIGHT = np.array([[1, 1, 1, 1, 1], [1, 0.5, 1, 0, 1], [1, 1, 0, 0, 0]], "float32")
SENTENCES = (
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
)
Y = Tokens(jnp.asarray(VALUE), jnp.asarray(POSITION), jnp.asarray(WEIGHT))


def done(manipulation, y):
    return np.asarray(manipulation.apply(Params(), y, Scope()))


@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_mean_of_real_tokens_by_weight(start):
    for row, pooled in enumerate(done(mean(start), Y)):
        total, count = np.zeros(4), 0.0
        for value, place, weight in zip(
            VALUE[row], POSITION[row], WEIGHT[row], strict=True
        ):
            if place >= start and weight > 0:
                total, count = total + weight * value, count + weight
        wanted = total / count if count else total
        np.testing.assert_allclose(pooled, wanted, rtol=1e-5, atol=1e-6)


def test_padding_and_its_side_change_nothing():
    rows = [[3, 1, 4], [2], [6, 5, 3, 5]]
    table = jnp.asarray(np.random.default_rng(1).normal(size=(9, 4)), jnp.float32)
    pooled = [
        done(mean(), x._replace(value=table[x.value]))
        for x in (padded(rows, "right", 7), padded(rows, "left", 5))
    ]
    np.testing.assert_allclose(*pooled, rtol=1e-6)


def test_of_an_array_all_rows_count():
    np.testing.assert_allclose(
        done(mean(2), jnp.asarray(VALUE)), VALUE[:, 2:].mean(1), rtol=1e-5
    )


def test_directions_of_one_length():
    found = done(normalised(3.0), jnp.asarray(VALUE[0]))
    wanted = 3 * VALUE[0] / np.linalg.norm(VALUE[0], axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    half = done(normalised(), jnp.asarray(VALUE[0], jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_a_row_of_padding_gives_zeros_and_no_nan():
    sentence = chain(mean=mean(), unit=normalised())
    params = sentence.init(jax.random.key(0), Y, Scope())
    empty = Y._replace(weight=Y.weight.at[1].set(0))

    def total(value):
        return sentence.apply(params, empty._replace(value=value), Scope()).sum()

    slope = jax.grad(total)(empty.value)
    assert not done(mean(), empty)[1].any()
    assert np.isfinite(slope).all() and not slope[1].any() and slope[0].any()


def test_a_start_before_the_sequence_is_refused():
    with pytest.raises(ValueError, match="start=-1, expected a position from 0"):
        mean(-1)


@pytest.mark.verify
def test_the_cosines_of_the_model_card():
    """One sentence beside three others: the example of its page on the hub."""
    model = load_language("all_MiniLM_L6_v2")
    assert model.input.tokenizer is not None
    x = padded([model.input.tokenizer.encode(text) for text in SENTENCES])
    sentence = chain(mean=mean(), unit=normalised())
    y = model.forward(model.frozen, x)
    found = sentence.apply(sentence.init(jax.random.key(0), y, Scope()), y, Scope())
    np.testing.assert_allclose(found[1:] @ found[0], [0.695, 0.943, 0.257], atol=1e-3)
