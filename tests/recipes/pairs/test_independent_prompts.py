"""IVLP and PromptSRC (arXiv 2210.03117, 2307.06948) beside the published modules.

The numbers are from muzairkhattak/PromptSRC, its learners, towers, loss and averaging
in float32, with the weights of `small_pairs.pair()` and Dassl's schedule. The wrong
variants are in `mutants.py`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_pairs import pair, pictures
from small_training import trained

from reprojax.core import record
from reprojax.models.image_text import classifier
from reprojax.models.image_text.card import encoded, image_features, text_features
from reprojax.recipes import find_method
from reprojax.recipes.prompt_tuning import ivlp, prompt_src
from reprojax.recipes.prompt_tuning.independent_prompts import SITES, taught
from reprojax.testing import contract
from reprojax.testing.compiled import operations
from reprojax.training.averages import averaged, gaussian_epochs, mean_of_epochs
from reprojax.training.losses import Seen
from reprojax.training.optimizers import sgd_by_epochs

NAMES = ["cat", "dog", "bird"]
MODEL = classifier(pair(), NAMES)
X, Y = pictures(12), np.arange(12) % 3
ORDER = ["text/embed:out", "text/block_1:in"]
ORDER += ["image/norm_before:in", "image/block_1:in"]
IVLP_LOGITS = [[4.87039, 5.90094, 5.18567], [3.13185, 4.10001, 3.01181]]
# 10 epochs of 6 steps at rate .1
IVLP_LOSSES = """
1.22057 1.22057 1.22057 1.22057 1.22057 1.22056 1.22056 1.1956 1.17458 1.15833 1.14639
1.13778 1.13155 1.12706 1.12365 1.12099 1.11887 1.11713 1.11567 1.11449 1.11343 1.11246
1.11156 1.1107 1.10988 1.10919 1.10852 1.10786 1.10721 1.10658 1.10596 1.10546 1.10496
1.10447 1.10398 1.1035 1.10303 1.10267 1.10231 1.10195 1.1016 1.10125 1.1009 1.10065
1.10041 1.10017 1.09994 1.0997 1.09946 1.09932 1.09918 1.09903 1.09889 1.09875 1.09861
1.09854 1.09848 1.09841 1.09835 1.09828
"""
# 20 epochs of 3 steps at rate .02, and the answers of the averaged params
SRC_LOSSES = """
7.38307 7.383 7.38286 7.38267 6.93082 6.52727 6.13364 5.70644 5.25727 4.93769 4.71252
4.49878 4.30822 4.14634 3.98401 3.80383 3.62373 3.46805 3.33421 3.23526 3.18595 3.15622
3.14416 3.12681 3.09944 3.07119 3.04517 3.01884 2.99726 2.97693 2.95335 2.93003 2.90645
2.88607 2.86874 2.85399 2.84091 2.82745 2.81445 2.80487 2.79923 2.7935 2.7877 2.78309
2.77838 2.77358 2.7699 2.76619 2.76244 2.75978 2.75712 2.75445 2.75271 2.75095 2.7492
2.74819 2.7472 2.7462 2.74575 2.7453
"""
SRC_LOGITS = [[3.58818, 4.95188, 4.07561], [0.63115, 1.88732, 0.70341]]


def numbers(text):
    return np.fromstring(text, sep=" ")


def drawn(program):
    """Params far from the small first ones, drawn as for the published modules."""
    params = program.init(jax.random.key(0), MODEL.frozen, X)
    draw = np.random.default_rng(6)
    own = {
        site: jnp.asarray(draw.standard_normal((2, width)) / 2, "f4")
        for site, width in zip(ORDER, (8, 8, 12, 12), strict=True)
    }
    return params._replace(learnable=params.learnable | own)


def regulated(teacher=True):
    """The program and params of PromptSRC, whose teacher reads three templates."""
    program = prompt_src(MODEL, length=2)
    params, own = drawn(program), pair()
    templates = ["a photo of a {}.", "the small {} on blue", "a red {}"]
    texts = [[t.replace("{}", n) for n in NAMES] for t in templates]
    features = jnp.stack([text_features(own, encoded(own, t)) for t in texts]).mean(0)
    return program, taught(params, features) if teacher else params


def test_ivlp_of_the_published_modules():
    program = ivlp(MODEL, length=2)
    params = drawn(program)
    y = jax.jit(program.apply)(params, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, IVLP_LOGITS, atol=2e-5)
    optimizer = find_method("ivlp").preset.optimizer(0.1, 6, 10)
    found, _ = trained(program, MODEL.frozen, X, Y, optimizer, 60, params)
    np.testing.assert_allclose(found, numbers(IVLP_LOSSES), atol=5e-5)


def test_prompt_src_of_the_published_trainer():
    program, params = regulated()
    preset = find_method("promptsrc").preset
    optimizer = preset.optimizer(0.02, 3, 20)
    how = {"loss": preset.loss, "sites": preset.sites}
    found, state = trained(program, MODEL.frozen, X, Y, optimizer, 60, params, **how)
    np.testing.assert_allclose(found, numbers(SRC_LOSSES), atol=2e-4)
    mean = preset.evaluated(state.opt, state.params.learnable)
    last, own = state.params, state.params._replace(learnable=mean)
    apply = jax.jit(program.apply)
    y = apply(own, MODEL.frozen, X[:2])
    np.testing.assert_allclose(y, SRC_LOGITS, atol=2e-4)
    assert np.abs(apply(last, MODEL.frozen, X[:2]) - y).max() > 0.002


def test_the_frozen_features_are_those_without_prompts_and_may_be_given():
    program, params = regulated()
    wanted = ["image/features", "image/features/frozen", "image/features/teacher"]
    look = jax.jit(record(program.apply, wanted))
    y, seen = look(params, MODEL.frozen, X)
    frozen = image_features(pair(), X)
    np.testing.assert_allclose(seen[wanted[1]], frozen, rtol=1e-4, atol=1e-5)
    assert np.abs(seen[wanted[0]] - frozen).max() > 0.1
    np.testing.assert_array_equal(seen[wanted[2]], params.fixed["image/features"])
    again, same = look(params, MODEL.frozen, X, frozen)
    np.testing.assert_allclose(again, y, rtol=1e-4, atol=1e-5)
    own = program.init(jax.random.key(0), MODEL.frozen, X).fixed["image/features"]
    np.testing.assert_array_equal(own, MODEL.frozen["texts"].features)


def test_only_training_runs_the_image_tower_twice():
    program, params = regulated()

    plain = ivlp(MODEL, length=2)
    bare = operations(plain.apply, drawn(plain), MODEL.frozen, X)
    given = params, MODEL.frozen, X
    assert operations(program.apply, *given) < 1.01 * bare
    assert operations(record(program.apply, SITES), *given) > 1.3 * bare


@pytest.mark.parametrize("recipe, work", [(ivlp, 1.05), (prompt_src, 1.6)])
def test_the_contract_and_the_cost(recipe, work):
    """PromptSRC's loss asks for a pass of the image tower without prompts."""
    preset = find_method(recipe.__name__.replace("_", "")).preset
    found = contract(
        recipe(MODEL, length=2),
        MODEL.frozen,
        X[:4],
        Y[:4],
        forward=MODEL.forward,
        shape=(4, 3),
        loss=preset.loss,
        sites=preset.sites,
        work=work,
    )
    assert found.learnable == 2 * 2 * (8 + 12)


def test_the_average_weighs_epochs_as_a_gaussian():
    weights = gaussian_epochs(0.75, 0.05)(20)
    epochs = np.arange(1, 21)
    wanted = np.exp(-((epochs - 15) ** 2) / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(weights, wanted / wanted.sum(), atol=1e-12)
    assert np.isfinite(gaussian_epochs(0.75, 0.05)(1)).all()
    optimizer = averaged(sgd_by_epochs, lambda epochs: [1.0, 0.0, 3.0])(0.5, 2, 3)
    plain = sgd_by_epochs(0.5, 2, 3)
    params, own, states = jnp.array([1.0, -2.0]), optimizer, []
    state, bare = own.init(params), plain.init(params)
    np.testing.assert_array_equal(mean_of_epochs(state, params), params)
    for step in range(6):
        update, state = own.update(params, state, params)
        same, bare = plain.update(params, bare, params)
        np.testing.assert_array_equal(update, same)
        params = params + update
        states += [params] if step % 2 else []
    mean = (states[0] + 3 * states[2]) / 4
    np.testing.assert_allclose(mean_of_epochs(state, params), mean, rtol=1e-6)


def test_the_average_of_early_epochs_is_that_of_their_weights():
    """Of twenty, the first have weights from 1e-43 on, far below float32."""
    weigh = gaussian_epochs(0.75, 0.05)
    optimizer = averaged(lambda *pace: optax.sgd(1.0), weigh)(1.0, 1, 20)
    params, weights = jnp.array([0.02, -0.01]), weigh(20)
    state, seen, update = optimizer.init(params), [], jax.jit(optimizer.update)
    for epoch in range(20):
        move, state = update(jnp.array([-0.001, 0.002]), state, params)
        params = optax.apply_updates(params, move)
        seen.append(np.asarray(params, np.float64))
        own = weights[: epoch + 1] / weights[: epoch + 1].sum()
        wanted = (own[:, None] * np.stack(seen)).sum(0)
        np.testing.assert_allclose(mean_of_epochs(state, params), wanted, rtol=1e-5)


def test_the_optimiser_inside_gets_the_loss():
    """As those do that search along a line."""

    def update(grads, state, params=None, *, value_fn, **extra):
        return -value_fn(params) * grads, state

    own = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer = averaged(lambda *pace: own, lambda epochs: [1.0])(1.0, 1, 1)
    assert isinstance(optimizer, optax.GradientTransformationExtraArgs)
    given = {"value": 0.0, "grad": None, "value_fn": lambda params: 3 * params.sum()}
    params = jnp.array([1.0, 2.0])
    move, state = optimizer.update(jnp.ones(2), optimizer.init(params), params, **given)
    np.testing.assert_array_equal(move, [-9.0, -9.0])
    np.testing.assert_array_equal(mean_of_epochs(state, params), [-8.0, -7.0])


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, np.nan]])
def test_weights_of_other_epochs_are_refused(weights):
    with pytest.raises(ValueError, match="for 2 epochs, expected a number for each"):
        averaged(sgd_by_epochs, lambda epochs: weights)(1.0, 1, 2)


def test_in_half_precision_prompts_and_loss_are_in_single():
    halves = lambda a: a.astype(jnp.bfloat16) if a.dtype == jnp.float32 else a
    frozen = jax.tree.map(halves, MODEL.frozen)
    program, loss = prompt_src(MODEL, length=2), find_method("promptsrc").preset.loss
    params = program.init(jax.random.key(0), frozen, X)
    assert {a.dtype for a in jax.tree.leaves(params.learnable)} == {np.dtype("f4")}
    y, seen = jax.jit(record(program.apply, SITES))(params, frozen, X)
    assert y.dtype == jnp.bfloat16
    single = lambda tree: jax.tree.map(lambda a: a.astype(jnp.float32), tree)
    found = loss(Seen(seen | {"output": y}, jnp.asarray(Y)))
    assert found.dtype == jnp.float32
    wanted = loss(Seen(single(seen | {"output": y}), jnp.asarray(Y)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_the_published_settings():
    for name in ("ivlp", "promptsrc"):
        preset = find_method(name).preset
        assert (preset.learning_rate, preset.epochs, preset.batch) == (0.0025, 20, 4)


def test_bad_texts_and_teachers_are_refused():
    several = classifier(pair(), NAMES, ["a photo of a {}.", "a photo of the {}."])
    with pytest.raises(ValueError, match="got 6 texts for 3 classes"):
        prompt_src(several, length=2)
    program, params = regulated(teacher=False)
    with pytest.raises(ValueError, match=r"got features \[3, 5\] for a teacher"):
        taught(params, jnp.zeros((3, 5)))
    own = ivlp(MODEL, length=2).init(jax.random.key(0), MODEL.frozen, X)
    with pytest.raises(ValueError, match="take the params of prompt_src"):
        taught(own, jnp.zeros((3, 6)))
