"""The token at the mask, wherever padding and a prompt are.

The wrong variants: the index in the task's input taken as that in the longer answer; a
mask among the padding; position 0 of a row without a mask.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Params, Scope
from reprojax.alignments import at_mask
from reprojax.core import last_value, padded

MASK = 7
ROWS = [[1, MASK, 2, 3], [4, 5, MASK], [MASK]]


def answer(x, prompt=0):
    """What a model with a prompt of so many tokens in front gives: place numbers."""
    b, n = x.weight.shape
    value = jnp.arange(b * (n + prompt) * 2.0).reshape(b, n + prompt, 2)
    pad = lambda a, fill: jnp.pad(a, ((0, 0), (prompt, 0)), constant_values=fill)
    return x._replace(value=value, position=pad(x.position, 0), weight=pad(x.weight, 1))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("prompt", [0, 3])
def test_the_token_at_the_mask(side, prompt):
    x = padded(ROWS, side, 6, fill=MASK)  # the padding is masks too, of weight 0
    y, m = answer(x, prompt), at_mask(MASK)
    found = m.apply(Params(), y, Scope(x=x))
    assert found.value.shape == (3, 1, 2)
    for i, row in enumerate(ROWS):
        ahead = 6 - len(row) if side == "left" else 0
        place = prompt + ahead + row.index(MASK)
        np.testing.assert_array_equal(last_value(found)[i], y.value[i, place])
        assert found.position[i] == y.position[i, place]
    np.testing.assert_array_equal(found.weight, 1)


def test_a_row_without_a_mask_or_with_two_is_nan():
    x = padded([[1, 2], [MASK, MASK], [3, MASK]])
    found = last_value(at_mask(MASK).apply(Params(), answer(x), Scope(x=x)))
    assert jnp.isnan(found[:2]).all() and jnp.isfinite(found[2]).all()


def test_the_gradient_reaches_the_mask_alone():
    x = padded(ROWS)
    y = answer(x)

    def total(value):
        picked = at_mask(MASK).apply(Params(), y._replace(value=value), Scope(x=x))
        return picked.value.sum()

    slope = jax.grad(total)(y.value)
    assert (slope != 0).any(-1).sum(1).tolist() == [1, 1, 1]
    assert slope[0, 1, 0] == slope[1, 2, 0] == slope[2, 0, 0] == 1
