"""One recipe on one transformer written three times: linen, nnx, a function."""

from functools import cache

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import own_models
import pytest
from flax import nnx as flax_nnx

from reprojax import models
from reprojax.alignments import one_to_one
from reprojax.locations import nnx
from reprojax.recipes import METHODS
from reprojax.recipes.prompt_tuning import visual_prompt_tuning
from reprojax.training.steps import observe_batch, refresh_maps

KINDS = ("nnx", "function")
SETTINGS = {"size": 16, "mean": backbones.MEAN, "std": backbones.STD}


@cache
def own(kind):
    linen = backbones.transformer()
    if kind == "linen":
        return linen
    if kind == "nnx":
        module = own_models.ViT(8, 16, 2, 2, 32, backbones.CLASSES, flax_nnx.Rngs(0))
        network, theirs = nnx(module)
        frozen = linen.frozen["params"]
        assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, frozen)
    else:
        network, frozen = own_models.function, linen.frozen
    return models.card(
        network, frozen, name=kind, blocks="block_*:in", features="head:in", **SETTINGS
    )


def prepared(backbone, program, x, y):
    """Random params, with the label map, or the head's statistics, of the images."""
    params = jax.jit(program.init)(jax.random.key(0), backbone.frozen, x)
    draw = lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape), a.dtype)
    params = params._replace(learnable=jax.tree.map(draw, params.learnable))
    sums = observe_batch(program, params, backbone.frozen, x, y)
    return refresh_maps(program, params, sums)


def answers(backbone, program, params, x, y):
    """Logits and the gradient of the pixels."""

    def loss(x):
        logits = program.apply(params, backbone.frozen, x)
        return jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    run = lambda x: (program.apply(params, backbone.frozen, x), jax.grad(loss)(x))
    return jax.jit(run)(x)


def close(found, expected, tolerance=1e-5):
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found / scale, expected / scale, atol=tolerance)


@pytest.mark.parametrize("name", ["padding", "watermark", "vpt-deep"])
def test_the_same_recipe_gives_the_same_answers(name):
    x = jnp.asarray(backbones.photos(8, side=16) / 255, jnp.float32)
    y = jnp.arange(8) % 3
    # A wide border has one answer for all images, of which BLM makes equal columns.
    align = one_to_one(3) if name == "padding" else None
    build, linen = METHODS[name].build, own("linen")
    program = build(linen, 3, align)
    params = prepared(linen, program, x, y)
    logits, slope = answers(linen, program, params, x, y)
    scale = float(jnp.abs(slope).max())
    assert scale > 1e-4  # the comparison says something
    # the shift and scale of a standardised head divide by what features hardly vary
    tolerance = 1e-3 if name == "vpt-deep" else 1e-5
    for kind in KINDS:
        program = build(own(kind), 3, align)
        theirs = prepared(own(kind), program, x, y)
        assert jax.tree.structure(theirs) == jax.tree.structure(params)
        for a, b in zip(*map(jax.tree.leaves, (theirs, params)), strict=True):
            close(np.float32(a), np.float32(b), tolerance)
        found, gradient = answers(own(kind), program, params, x, y)
        close(found, logits)
        close(gradient / scale, slope / scale)


def test_a_card_finds_its_sites_and_its_class_count():
    card, linen = own("nnx"), own("linen")
    for role in ("input", "embedding", "blocks", "features"):
        assert card.roles[role] == linen.roles[role]
    assert card.classes == tuple(map(str, range(12)))
    assert visual_prompt_tuning.transformer_blocks(card) == linen.roles["blocks"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"blocks": "blok_*:in"}, "blocks is 'blok_.*no such site.*'block_0:in'"),
        ({"features": "block_*:in"}, "features='block_.*expected one site of .B D."),
        ({"features": "block_1:in"}, "expected one site of .B D."),
        ({"classes": ["a", "b"]}, "answers .2, 12. to two images, expected .2, S. for"),
    ],
)
def test_a_card_that_does_not_fit(change, message):
    given = {"blocks": "block_*:in", "features": "head:in", **SETTINGS, **change}
    with pytest.raises(ValueError, match=message):
        models.card(own_models.function, own("linen").frozen, name="own", **given)
