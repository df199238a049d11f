"""BlackVIP (arXiv 2303.14773): features and a trigger become a prompt for each image.

The wrong variants: no clip, or one to [0, 1] in normalised units; a prompt that enters
before normalisation, or is the same for all images; a trigger in front of the features;
doublings that mix their pixels.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Params, Scope, models
from reprojax.core import until
from reprojax.models.vision.coordinator import Decoder, coordinator
from reprojax.recipes import black_vip

BACKBONE, X = backbones.convolutional(), backbones.photos(3, 16)
MEAN, STD = np.array(backbones.MEAN), np.array(backbones.STD)


def fitted():
    program = black_vip(BACKBONE, targets=3, encoder=BACKBONE)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    random = np.random.default_rng(0)
    draw = lambda a: jnp.asarray(random.normal(size=a.shape) / 2, jnp.float32)
    learnable = jax.tree.map(draw, params.learnable)
    fixed = dict(params.fixed["normalized"])
    fixed["decoder"] = jax.tree.map(lambda a: abs(draw(a)) + 0.5, fixed["decoder"])
    fixed = params.fixed | {"normalized": fixed}
    return program, Params(learnable, fixed)


def test_the_network_gets_the_clipped_sum():
    program, params = fitted()
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    weights = jax.tree.map(np.asarray, params.learnable["normalized"])
    statistics = params.fixed["normalized"]["decoder"]["batch_stats"]
    image = by_hand.resized(X, 16)
    features = by_hand.features(by_hand.normalised(image))
    statistics = jax.tree.map(np.asarray, statistics)
    prompt = by_hand.black_vip_prompt(features, weights, statistics)
    wanted = by_hand.normalised(image) + prompt
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    assert by_hand.close(seen, np.clip(wanted, low, high))
    assert not by_hand.close(seen, wanted)
    assert not by_hand.close(seen, np.clip(wanted, 0, 1))
    assert not by_hand.close(prompt[0], prompt[1])
    assert by_hand.close(
        y, by_hand.logits(np.asarray(seen)) @ np.asarray(params.fixed["output"])
    )


def test_the_published_size():
    decoder = jax.eval_shape(
        lambda key, x: Decoder(224).init(key, x, False),
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, 768), "float32"),
    )
    weights = decoder["params"]
    assert weights["trigger"].shape == (800,)
    assert by_hand.numbers(weights) == 9920


def test_the_trigger_starts_small_and_the_encoder_is_fixed():
    program = black_vip(BACKBONE, targets=3)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    trigger = np.asarray(params.learnable["normalized"]["trigger"])
    assert 0 <= trigger.min() and 0.08 < trigger.max() < 0.1
    glyphs = models.load("glyphs")
    kept = params.fixed["normalized"]["encoder"]
    jax.tree.map(np.testing.assert_array_equal, kept, glyphs.frozen)
    other = jax.tree.map(lambda a: a * 1.5, kept)
    fixed = params.fixed | {
        "normalized": params.fixed["normalized"] | {"encoder": other}
    }
    before = by_hand.run(program, params, BACKBONE.frozen, X)[0]
    after = by_hand.run(program, params._replace(fixed=fixed), BACKBONE.frozen, X)[0]
    assert not by_hand.close(before, after)  # the weights are read from there


def test_the_encoder_sees_the_image_at_its_own_size():
    program = black_vip(BACKBONE, targets=3)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    glyphs = models.load("glyphs")
    features = until(glyphs.forward, glyphs.roles["features"][0])
    wanted = features(glyphs.frozen, jnp.asarray(by_hand.resized(X, 32), jnp.float32))
    weights, fixed = params.learnable["normalized"], params.fixed["normalized"]
    tree = {"params": weights, **fixed["decoder"]}
    prompt = Decoder(16).apply(tree, wanted, False)
    low, high = (0 - MEAN) / STD, (1 - MEAN) / STD
    sum_ = by_hand.normalised(by_hand.resized(X, 16)) + np.asarray(prompt)
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    assert by_hand.close(seen, np.clip(sum_, low, high))


def test_an_encoder_with_too_many_features():
    broad = BACKBONE._replace(size=20)  # the map is 5 x 5 x 32, and 800 are too many
    wide = lambda frozen, x, edit: edit("head:in", jnp.zeros((len(x), 800)))
    encoder = BACKBONE._replace(
        forward=wide, frozen={}, roles={"features": ("head:in",)}
    )
    x = jnp.zeros((2, 20, 20, 3))
    with pytest.raises(ValueError, match="room for 800 numbers at 20 pixels.* 800 fea"):
        coordinator(broad, encoder).init(jax.random.key(0), x, Scope())


def test_wrong_sizes():
    large = backbones.convolutional(18)
    with pytest.raises(ValueError, match="a model of 18 pixels, expected a multiple"):
        black_vip(large, targets=3).init(
            jax.random.key(0), large.frozen, backbones.photos(2, 18)
        )
