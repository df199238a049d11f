"""Attention over Tokens: position and weight decide, the index never."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.core import Tokens, tokens
from reprojax.models.language.layers import Embed, Positions, attend, dot, rotated

draw = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(draw.standard_normal(shape), jnp.float32)


QUERY, KEY, VALUE = normal(2, 5, 4, 6), normal(2, 5, 2, 6), normal(2, 5, 2, 6)
POSITION = jnp.array([[3, 0, 4, 1, 2], [0, 1, 2, 3, 3]])
WEIGHT = jnp.array([[1, 1, 1, 1, 1], [1, 0, 1, 1, 0.0]])


def kv(key=KEY, value=VALUE, weight=WEIGHT):
    return Tokens((key, value), POSITION, weight)


def by_hand(causal, window=None, copies=None):
    """Row by row in numpy; a key of weight w stands there w times."""
    out = np.zeros(QUERY.shape)
    for b, i, h in np.ndindex(QUERY.shape[:3]):
        back = np.asarray(POSITION[b, i] - POSITION[b])
        seen = np.asarray(WEIGHT[b] > 0)
        if causal:
            seen = seen & (back >= 0) & (back < (window or 99))
        keys, values = np.asarray(KEY[b, :, h // 2]), np.asarray(VALUE[b, :, h // 2])
        share = np.exp(keys @ np.asarray(QUERY[b, i, h]) / 6**0.5) * seen
        if copies is not None:
            share = share * np.asarray(copies[b])
        out[b, i, h] = share @ values / share.sum()
    return out


@pytest.mark.parametrize("causal, window", [(True, None), (False, None), (True, 2)])
def test_attention_is_that_by_hand(causal, window):
    """Grouped queries, order by position, padding in the middle."""
    y = attend(QUERY, kv(), POSITION, causal, window)
    real = np.asarray(WEIGHT > 0)[..., None, None]
    np.testing.assert_allclose(
        y * real, by_hand(causal, window) * real, rtol=1e-4, atol=1e-5
    )


def test_a_weight_counts_a_key_as_often():
    weight = WEIGHT * jnp.array([3, 1, 0.5, 2, 1])
    y = attend(QUERY, kv(weight=weight), POSITION)
    expected = by_hand(True, copies=weight)
    real = np.asarray(WEIGHT > 0)[..., None, None]
    np.testing.assert_allclose(y * real, expected * real, rtol=1e-4, atol=1e-5)


def test_what_sees_nothing_is_finite_and_so_is_its_gradient():
    nothing = kv(weight=jnp.zeros((2, 5)))
    run = lambda query: attend(query, nothing, POSITION).sum()
    assert np.isfinite(run(QUERY)) and np.isfinite(jax.grad(run)(QUERY)).all()


def test_rotation_sees_differences_alone():
    frequencies = (1.0, 0.3, 0.01)
    score = lambda by: jnp.einsum(
        "blhd,bmhd->bhlm",
        rotated(KEY, POSITION + by, frequencies),
        rotated(VALUE, POSITION + by, frequencies),
    )
    np.testing.assert_allclose(score(0), score(17), rtol=1e-3, atol=1e-4)
    at_zero = rotated(KEY, jnp.zeros_like(POSITION), frequencies)
    np.testing.assert_array_equal(at_zero, KEY)
    assert (
        rotated(KEY.astype(jnp.bfloat16), POSITION, frequencies).dtype == jnp.bfloat16
    )


def test_beyond_a_table_is_nan_not_a_neighbour():
    x = tokens(jnp.array([[0, 4, 3, -1]]))
    y = Embed(4, 2).apply({"params": {"embedding": jnp.ones((4, 2))}}, x)
    nan = np.isnan(y.value[0, :, 0])
    np.testing.assert_array_equal(nan, [False, True, False, True])
    x = x._replace(value=normal(1, 3, 2), position=jnp.array([[0, 2, 3]]))
    y = Positions(3).apply({"params": {"embedding": jnp.ones((3, 2))}}, x)
    np.testing.assert_array_equal(np.isnan(y.value[0, :, 0]), [False, False, True])


@pytest.mark.parametrize("rows", [(2, 3), (1, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_halves_are_summed_in_float32_there_and_back(rows, axis):
    """As by float32; and XLA is asked for sums in float32 of bfloat16 alone."""
    half = lambda a: a.astype(jnp.bfloat16)
    x, kernel = half(normal(*rows, 64)), half(normal(64, 48))
    table = kernel.T if axis else kernel
    weigh = half(normal(*rows, 48))

    def ours(x, table):
        y = dot(x, table, (((2,), (axis,)), ((), ())))
        assert y.dtype == jnp.bfloat16
        return (y * weigh).sum(dtype=jnp.float32)

    found = jax.jit(jax.grad(ours, (0, 1)))
    exact = lambda a: a.astype(jnp.float32)
    by_x = exact(weigh) @ exact(kernel).T
    by_kernel = jnp.einsum("bld,blv->dv", exact(x), exact(weigh))
    by_kernel = by_kernel.T if axis else by_kernel
    for one, other in zip(found(x, table), (by_x, by_kernel), strict=True):
        np.testing.assert_allclose(exact(one), other, rtol=1e-2, atol=2e-2)
    y = dot(x, table, (((2,), (axis,)), ((), ())))
    np.testing.assert_allclose(exact(y), exact(x) @ exact(kernel), rtol=1e-2, atol=2e-2)
    asked = str(jax.make_jaxpr(jax.grad(ours, (0, 1)))(x, table))
    assert asked.count("dot_general") == asked.count("preferred_element_type=float32")
    wanted = re.findall(r":(\w+)\[[\d,]*\] = dot_general", asked)
    assert len(wanted) >= 3 and set(wanted) == {"f32"}


def test_a_kernel_of_heads_is_multiplied_as_linen_does():
    """Float32 is linen's own; bfloat16 is that but for its rounding."""
    layer = lambda **kw: nn.DenseGeneral((2, 3), use_bias=False, **kw)
    x = normal(2, 5, 8)
    params = layer().init(jax.random.key(0), x)
    expected = layer().apply(params, x)
    np.testing.assert_array_equal(layer(dot_general=dot).apply(params, x), expected)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (params, x))
    slope = lambda kw, *args: jax.grad(
        lambda p, x: (layer(**kw).apply(p, x) ** 2).sum(dtype=jnp.float32), (0, 1)
    )(*args)
    ours, plain = slope({"dot_general": dot}, *half), slope({}, params, x)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert one.dtype == jnp.bfloat16
        scale = np.abs(other).max()
        np.testing.assert_allclose(one / scale, other / scale, atol=3e-2)
