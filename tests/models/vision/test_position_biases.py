"""Biases by distance, turned keys, and tokens that a prompt inserts."""

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.models.vision import beit, dinov3, swin, vit

SIDE, HEADS = 3, 2
TABLE = jnp.arange(28 * HEADS, dtype=jnp.float32).reshape(28, HEADS) + 1


def test_a_bias_is_that_of_the_distance_down_and_right():
    bias = np.asarray(swin.between(TABLE[:25]))[0]
    for query in range(SIDE**2):
        for key in range(SIDE**2):
            down = query // SIDE - key // SIDE + SIDE - 1
            right = query % SIDE - key % SIDE + SIDE - 1
            expected = TABLE[down * (2 * SIDE - 1) + right]
            np.testing.assert_array_equal(bias[:, query, key], expected)


def test_beside_the_class_token_it_is_the_same():
    bias = np.asarray(beit.between(TABLE, SIDE, SIDE**2 + 1))[0]
    windows = np.asarray(swin.between(TABLE[:25]))[0]
    np.testing.assert_array_equal(bias[:, 1:, 1:], windows)
    np.testing.assert_array_equal(bias[:, 0, 1:].T, [TABLE[25]] * SIDE**2)
    np.testing.assert_array_equal(bias[:, 1:, 0].T, [TABLE[26]] * SIDE**2)
    np.testing.assert_array_equal(bias[:, 0, 0], TABLE[27])


def test_inserted_tokens_have_none_and_move_no_other():
    bias = np.asarray(beit.between(TABLE, SIDE, SIDE**2 + 5))[0]
    inserted = range(1, 5)
    assert not bias[:, inserted].any() and not bias[:, :, inserted].any()
    others = np.delete(np.delete(bias, inserted, 1), inserted, 2)
    np.testing.assert_array_equal(others, beit.between(TABLE, SIDE, SIDE**2 + 1)[0])


def test_keys_in_front_have_no_bias():
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    query, bias = draw(0, 2, 4, 3, 8), draw(1, 1, 3, 4, 4)
    key, value = draw(2, 2, 6, 3, 8), draw(3, 2, 6, 3, 8)
    mine = vit.attended(query, key, value, bias)
    scores = jnp.einsum("blhd,bmhd->bhlm", query, key) / 8**0.5
    scores = scores.at[..., 2:].add(bias)
    mixed = jnp.einsum("bhlm,bmhd->blhd", jax.nn.softmax(scores), value)
    np.testing.assert_allclose(mine, mixed.reshape(2, 4, 24), rtol=1e-5, atol=1e-5)


def test_turned_keys_meet_by_distance_and_what_is_inserted_stays():
    x = jnp.ones((1, SIDE**2 + 2, 1, 8)) + jnp.arange(8.0)
    x = x.at[:, :2].multiply(2)
    turned = dinov3.turned(x, SIDE, 100.0)
    np.testing.assert_array_equal(turned[:, :2], x[:, :2])
    patches = turned[0, 2:, 0].reshape(SIDE, SIDE, 8)
    meet = jnp.einsum("ijd,kld->ijkl", patches, patches)
    np.testing.assert_allclose(meet[0, 0, 1, 2], meet[1, 0, 2, 2], rtol=1e-5)
    assert abs(meet[0, 0, 1, 2] - meet[0, 0, 2, 1]) > 1
    alone = dinov3.turned(x[:, 2:], SIDE, 100.0)
    np.testing.assert_array_equal(turned[:, 2:], alone)


def test_places_that_a_roll_brings_together_are_apart():
    """Three by three windows of two, rolled by one: in the last row and column."""
    mask = np.asarray(swin.apart(6, 2, 1)).reshape(3, 3, 4, 4)
    assert not mask[:2, :2].any()
    alone = -100 * (1 - np.eye(4))
    np.testing.assert_array_equal(mask[2, 2], alone)
    same_row = np.kron(1 - np.eye(2), np.ones((2, 2)))
    np.testing.assert_array_equal(mask[2, 0], -100 * same_row)
    same_column = np.kron(np.ones((2, 2)), 1 - np.eye(2))
    np.testing.assert_array_equal(mask[0, 2], -100 * same_column)
