"""Layers in a fast form equal the convolution or the pool that they stand for."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from reprojax.models.vision.layers import Depthwise, Pointwise, Stem
from reprojax.models.vision.resnet import max_pool

FORMS = {
    "stem": (Stem(5), nn.Conv(5, (7, 7), 2, padding=3, use_bias=False)),
    "1x1": (Pointwise(5), nn.Conv(5, (1, 1))),
    "1x1, stride 2": (
        Pointwise(5, 2, bias=False),
        nn.Conv(5, (1, 1), 2, use_bias=False),
    ),
    "a filter a channel": (
        Depthwise(2),
        nn.Conv(3, (3, 3), 2, feature_group_count=3),
    ),
    "a filter a channel, as in torch": (
        Depthwise(2, padding=(1, 1), bias=False),
        nn.Conv(3, (3, 3), 2, padding=1, feature_group_count=3, use_bias=False),
    ),
    "a wide filter a channel": (
        Depthwise(side=7),
        nn.Conv(3, (7, 7), feature_group_count=3),
    ),
}


def pixels(rows, columns, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, rows, columns, 3))


def pulled(layer, x):
    """Value, and gradient of the value's sum against numbers that differ."""

    def total(x):
        value = layer(x)
        weights = jnp.sin(jnp.arange(value.size, dtype=value.dtype))
        return (value.ravel() * weights).sum(), value

    return jax.grad(total, has_aux=True)(x)


def equal(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 20), (15, 18), (9, 9)])
@pytest.mark.parametrize("name", FORMS)
def test_the_same_weights_give_the_same_values_and_gradients(name, shape):
    ours, theirs = FORMS[name]
    x = pixels(*shape)
    frozen = toys.weights(theirs, x)
    assert jax.tree.map(jnp.shape, toys.weights(ours, x)) == jax.tree.map(
        jnp.shape, frozen
    )
    equal(*(pulled(lambda x, f=f: f.apply(frozen, x), x) for f in (ours, theirs)))


@pytest.mark.parametrize("shape", [(16, 20), (15, 18), (9, 9)])
def test_maxima_are_those_of_every_three_by_three(shape):
    pads: Any = ((1, 1), (1, 1))  # any: flax declares a string
    windows = lambda x: nn.max_pool(x, (3, 3), (2, 2), pads)
    equal(pulled(max_pool, pixels(*shape)), pulled(windows, pixels(*shape)))


@pytest.mark.parametrize("name", FORMS)
def test_they_pass_through_transformations(name):
    """bfloat16 in and out; vmap, remat and forward mode as plain code."""
    layer, x = FORMS[name][0], pixels(8, 8)
    frozen = toys.weights(layer, x)
    apply = lambda x: layer.apply(frozen, x)
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), (frozen, x))
    assert layer.apply(*half).dtype == jnp.bfloat16
    equal(pulled(jax.checkpoint(apply), x), pulled(apply, x))
    rows = jax.vmap(lambda row: apply(row[None])[0])(x)
    np.testing.assert_allclose(rows, apply(x), rtol=1e-5, atol=1e-5)
    value, along = jax.jvp(apply, (x,), (x,))
    np.testing.assert_allclose(along, value - apply(0 * x), rtol=1e-4, atol=1e-5)
