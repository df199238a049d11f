"""One recipe on one transformer written six times: linen, nnx, a function, and with
equinox, haiku and keras."""

from functools import cache
from itertools import pairwise

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import optax
import other_libraries
import own_models
import pytest
from flax import nnx as flax_nnx

from reprojax import data, models
from reprojax.alignments import one_to_one
from reprojax.locations import nnx
from reprojax.recipes import METHODS
from reprojax.recipes.prompt_tuning import visual_prompt_tuning
from reprojax.recipes.registry import rebuild
from reprojax.saving.programs import Card, load, save
from reprojax.training import fit
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import (
    begin,
    estimate,
    observe_batch,
    refresh_maps,
    train_step,
)

OTHERS = [
    pytest.param(kind, marks=pytest.mark.verify) for kind in other_libraries.KINDS
]
KINDS = ["nnx", "function", *OTHERS]
SETTINGS = {"input": models.Pixels(16, backbones.MEAN, backbones.STD)}


@cache
def own(kind):
    linen = backbones.transformer()
    if kind == "linen":
        return linen
    if kind in other_libraries.KINDS:
        params = linen.frozen["params"]
        network, frozen = other_libraries.transformer(kind, params)
    elif kind == "nnx":
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


X = jnp.asarray(backbones.photos(8, side=16) / 255, jnp.float32)
Y = jnp.arange(8) % 3


def built(name, kind):
    # A wide border has one answer for all images, of which BLM makes equal columns.
    align = one_to_one(3) if name == "padding" else None
    program = METHODS[name].build(own(kind), align, **({} if align else {"targets": 3}))
    return program, prepared(own(kind), program, X, Y)


@cache
def on_linen(name):
    program, params = built(name, "linen")
    return params, *answers(own("linen"), program, params, X, Y)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["padding", "watermark", "vpt-deep"])
def test_the_same_recipe_gives_the_same_answers(name, kind):
    params, logits, slope = on_linen(name)
    scale = float(jnp.abs(slope).max())
    assert scale > 1e-4  # the comparison says something
    # the shift and scale of a standardised head divide by what features hardly vary
    tolerance = 1e-3 if name == "vpt-deep" else 1e-5
    program, theirs = built(name, kind)
    assert jax.tree.structure(theirs) == jax.tree.structure(params)
    for a, b in zip(*map(jax.tree.leaves, (theirs, params)), strict=True):
        close(np.float32(a), np.float32(b), tolerance)
    found, gradient = answers(own(kind), program, params, X, Y)
    close(found, logits)
    close(gradient / scale, slope / scale)


IMAGES, LABELS = backbones.photos(24), np.arange(24) % 3
TASK = data.from_arrays(IMAGES, LABELS, list("abc"), validation=6, test=6)
SGD = optax.sgd(0.05)


def shallow(kind):
    """Tokens in front of the first block, with a head on the features."""
    return METHODS["vpt-shallow"].build(own(kind), targets=3, length=2)


def step_of(kind):
    """state -> the next, on all training images."""
    x, y, frozen = (
        jnp.asarray(TASK.train.x),
        jnp.asarray(TASK.train.y),
        own(kind).frozen,
    )
    static = shallow(kind), SGD, cross_entropy, ()
    return jax.jit(lambda state: train_step(*static, state, frozen, x, y))


@cache
def states():
    """The linen model's, before each of 50 steps and after the last."""
    program, frozen = shallow("linen"), own("linen").frozen
    state = begin(program, SGD, frozen, TASK.train.x)
    params = estimate(program, state.params, frozen, TASK.train, len(TASK.train.y))
    found, step = [state._replace(params=params)], step_of("linen")
    for _ in range(50):
        found.append(step(found[-1]))
    return found


@pytest.mark.parametrize("kind", OTHERS)
def test_fifty_steps_of_training_are_the_same(kind, tmp_path):
    """Step by step from equal numbers: what another order of sums rounds would grow
    over fifty, on each CPU in its own way."""
    before, step = jax.tree.map(np.asarray, own(kind).frozen), step_of(kind)
    for state, expected in pairwise(states()):
        new = step(state)
        np.testing.assert_allclose(new.numbers.loss, expected.numbers.loss, rtol=1e-5)
        learned = new.params.learnable, expected.params.learnable
        for a, b in zip(*map(jax.tree.leaves, learned), strict=True):
            close(a, b)
    how = {"optimizer": SGD, "epochs": 50, "batch": 24, "progress": False}
    program = shallow(kind)
    fitted = fit(program, own(kind).frozen, TASK, **how)
    losses = fitted.curves[:, 0]
    assert losses[-1] < 0.9 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, own(kind).frozen, before)
    made = {"method": "vpt-shallow", "arguments": {"length": 2, "alignment": None}}
    made |= {"classes": tuple("abc"), "image": (10, 10, 3)}
    save(tmp_path / "program", fitted.params, Card.of(own(kind), **made))
    again, params = rebuild(load(tmp_path / "program"), own(kind))
    x, frozen = backbones.photos(2), own(kind).frozen
    expected = program.apply(fitted.params, frozen, x)
    np.testing.assert_array_equal(again.apply(params, frozen, x), expected)


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
        (
            {"classes": ["a", "b"]},
            "answers .1, 12. to one row, expected an array, .1, S. for",
        ),
    ],
)
def test_a_card_that_does_not_fit(change, message):
    given = {"blocks": "block_*:in", "features": "head:in", **SETTINGS, **change}
    with pytest.raises(ValueError, match=message):
        models.card(own_models.function, own("linen").frozen, name="own", **given)
