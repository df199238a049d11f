"""The embedded backbone, its generator and the script that trained it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.train_glyphs import drawing as drawn
from experiments.train_glyphs.__main__ import digits, held_out, in_training, outputs
from reprojax.core import sites
from reprojax.models import random
from reprojax.models.vision import glyphs

FRESH = 20_011  # a seed that neither training nor the card used


@pytest.fixture(scope="module")
def net():
    return glyphs.load_glyphs()


def test_weights_are_small_and_their_card_is_complete(net):
    about = glyphs.glyphs_card()
    assert glyphs.WEIGHTS.stat().st_size <= 2_000_000
    assert net.classes == tuple(about["classes"]) == drawn.CLASSES
    assert len(set(net.classes)) == 128
    assert about["held_out"] > 0.95 and about["held_out_random"] < 0.05
    assert about["probe_digits"] > about["probe_digits_random"] + 0.03


def test_roles_name_sites_that_exist(net):
    x = np.zeros((2, net.input.size, net.input.size, 3), np.uint8)
    found = sites(net.forward, net.frozen, x)
    for role, names in net.roles.items():
        assert names and set(names) <= set(found), role
    (features,) = net.roles["features"]
    assert found[features] == (2, glyphs.BLOCKS[-1][0])
    assert found["output"] == (2, 128)


def test_fresh_glyphs_are_recognised_as_the_card_says(net):
    right = held_out(net, 512, FRESH)
    assert abs(right - glyphs.glyphs_card()["held_out"]) < 0.03
    images, _ = drawn.draw(np.random.default_rng(FRESH), 128)
    assert held_out(random(net, jax.random.key(0), images), 512, FRESH) < 0.1


def test_forward_is_convolution_norm_relu_mean_and_head(net):
    x, _ = drawn.draw(np.random.default_rng(1), 128)
    p = net.frozen["params"]
    y = (jnp.asarray(x[:4], jnp.float32) / 255 - 0.5) / 0.5
    strides = [2, *(stride for _, stride in glyphs.BLOCKS)]
    names = ["stem", *(f"block_{i}" for i in range(len(glyphs.BLOCKS)))]
    for name, stride in zip(names, strides, strict=True):
        y = jax.lax.conv_general_dilated(
            y,
            p[name]["conv"]["kernel"],
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        n = p[name]["norm"]
        y = (y - n["mean"]) / jnp.sqrt(n["var"] + 1e-5) * n["scale"] + n["bias"]
        y = jnp.maximum(y, 0)
    y = y.mean((1, 2)) @ p["head"]["kernel"] + p["head"]["bias"]
    np.testing.assert_allclose(outputs(net, x)[:4], y, rtol=1e-3, atol=1e-3)


def test_generator_is_deterministic_balanced_and_varied():
    x, y = drawn.draw(np.random.default_rng(3), 256)
    again, labels = drawn.draw(np.random.default_rng(3), 256)
    assert x.dtype == np.uint8 and x.shape == (256, 32, 32, 3)
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(y, labels)
    assert (np.bincount(y, minlength=128) == 2).all()
    other, _ = drawn.draw(np.random.default_rng(4), 256)
    assert (other != x).any()
    assert len({image.tobytes() for image in x}) == 256  # no two of a class alike


def test_a_figure_is_drawn_where_its_segments_lie():
    segments = np.full((1, drawn.SEGMENTS, 2, 2), [[8.5, 4.5], [8.5, 20.5]])
    distance = drawn._distance(segments)[0]
    assert np.allclose(distance[10, 8], 0, atol=1e-3)  # row 10 is within, column 8 on
    assert np.allclose(distance[10, 13], 5, atol=1e-3)
    assert np.allclose(distance[23, 12], 5, atol=1e-3)  # 3 below the end, 4 beside


@pytest.mark.parametrize("number", [0, 100, -128])
def test_unequal_shares_are_refused(number):
    with pytest.raises(ValueError, match="positive multiple of 128"):
        drawn.draw(np.random.default_rng(0), number)


def test_training_statistics_give_the_same_net_when_stored(net):
    x, _ = drawn.draw(np.random.default_rng(5), 128)
    flat = flatten_dict(net.frozen["params"], sep="/")
    fresh = {
        k: jnp.zeros_like(v) if k.endswith("/mean") else v for k, v in flat.items()
    }
    fresh = {k: jnp.ones_like(v) if k.endswith("/var") else v for k, v in fresh.items()}
    logits, seen = in_training(net.forward, fresh, x)
    assert len(seen) == 8
    for path, (mean, var) in seen.items():
        fresh |= {f"{path}/mean": mean, f"{path}/var": var}
    stored = glyphs.glyphs_model(
        {"params": unflatten_dict(fresh, sep="/")}, net.classes
    )
    np.testing.assert_allclose(outputs(stored, x), logits, rtol=1e-2, atol=1e-2)


def test_digits_fill_the_range_and_every_class():
    x, y = digits()
    assert x.shape == (1797, 32, 32, 3) and x.dtype == np.uint8
    assert x.max() == 255 and x.min() == 0 and set(y) == set(range(10))
