"""The papers' settings, seen in the steps that their optimisers take."""

import assets
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import recipes
from reprojax.models import Pixels
from reprojax.recipes import BlackBox, find_alignment, find_method
from reprojax.training.losses import Seen, cross_entropy
from reprojax.training.optimizers import adam_decayed, adam_in_steps, sgd_cosine

STEPS = 2  # an epoch


def rates(method, epochs, learning_rate=None):
    """The length of each step along a gradient that is always 1."""
    preset = find_method(method).preset
    rate = preset.learning_rate if learning_rate is None else learning_rate
    return lengths_of(preset.optimizer(rate, STEPS, epochs), STEPS * epochs)


def lengths_of(optimizer, steps):
    params, one = jnp.zeros(()), jnp.ones(())
    state, lengths = optimizer.init(params), []
    for _ in range(steps):
        update, state = optimizer.update(one, state, params)
        lengths.append(-float(update))
    return np.array(lengths)


IMAGES = [n for n, m in recipes.methods(Pixels).items() if m.preset]


def settings(method):
    preset = find_method(method).preset
    epochs = None if isinstance(preset, BlackBox) else preset.epochs
    return preset.learning_rate, epochs, preset.batch


def test_published_settings():
    assert {name: settings(name) for name in IMAGES} == {
        "ar": (0.05, 30, 30),
        "vp": (40.0, 1000, 128),
        "autovp": (0.001, 200, 128),
        "dam-vp": (0.1, 50, 128),
        "evp": (70.0, 1000, 256),
        "lor-vp": (0.02, 20, 256),
        "vp-fixed-patch": (40.0, 1000, 128),
        "vp-random-patch": (40.0, 1000, 128),
        "refine": (0.01, 150, 256),
        "padding": (0.01, 200, 256),
        "watermark": (0.01, 200, 256),
        "smm": (0.01, 200, 256),
        "vpt-shallow": (0.025, 100, 128),
        "vpt-deep": (0.025, 100, 128),
        "e2vpt": (0.025, 100, 64),
        "explicit-visual-prompting": (2e-4, 20, 4),
        "l2p": (0.03, 5, 16),
        "dualprompt": (0.03, 5, 24),
        "coda-prompt": (0.001, 20, 128),
        "bar": (0.05, None, 10),
        "blackvip": (0.01, None, 128),
        "linear-probe": (0.01, 50, 128),
    }


@pytest.mark.parametrize("method", ["padding", "watermark"])
def test_adam_in_two_steps(method):
    # Along a constant gradient Adam moves by its rate.
    found = rates(method, 40).reshape(40, STEPS)
    wanted = [1.0] * 20 + [0.1] * (int(40 * 0.72) - 20)
    wanted += [0.01] * (40 - len(wanted))
    np.testing.assert_allclose(found, np.outer(wanted, [0.01] * STEPS), rtol=1e-3)


def smm_rates(learning_rate, epochs, layers, steps=1):
    """([epochs] of the prompt, of a mask's bias): what Adam moves each by."""
    optimizer = find_method("smm").preset.optimizer(learning_rate, steps, epochs)
    norms = {f"BatchNorm_{i}": jnp.zeros(()) for i in range(layers - 1)}
    learnable = {"normalized": {"prompt": jnp.zeros(()), "mask": norms}, "output": ()}
    one, found = jax.tree.map(jnp.ones_like, learnable), []
    state, update = optimizer.init(learnable), jax.jit(optimizer.update)
    for _ in range(epochs * steps):
        moved, state = update(one, state, learnable)
        own = moved["normalized"]
        found.append((-float(own["prompt"]), -float(own["mask"]["BatchNorm_0"])))
    return np.array(found).T


@pytest.mark.verify
@pytest.mark.parametrize("network, layers", [("vit", 6), ("resnet", 5)])
def test_the_rates_of_smm_are_the_published_codes(network, layers):
    given = assets.official("vpt_head")
    assert given[f"smm_{network}_mask_layers"] == layers
    prompt, mask = smm_rates(0.01, 200, layers)
    for name, found in (("program", prompt), ("mask", mask)):
        wanted = given[f"smm_{network}_{name}_rate"]
        np.testing.assert_allclose(found, wanted, rtol=2e-3)


@pytest.mark.parametrize("layers", [5, 6])
def test_a_deep_mask_network_learns_slowly_and_evenly(layers):
    prompt, mask = smm_rates(0.02, 8, layers, STEPS)  # falls at epochs 4 and 5
    wanted = np.repeat([0.02] * 4 + [0.002] + [0.0002] * 3, STEPS)
    np.testing.assert_allclose(prompt, wanted, rtol=1e-3)
    np.testing.assert_allclose(mask, wanted if layers == 5 else 0.002, rtol=1e-3)


def test_adam_that_decays():
    found = rates("ar", 6).reshape(3, 2 * STEPS)  # a stair every two epochs
    wanted = 0.05 * 0.96 ** np.arange(3)[:, None]
    np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-3)


def test_adam_of_adversarial_reprogramming_forgets_faster():
    optimizer = find_method("ar").preset.optimizer(0.05, 10, 1)
    state = optimizer.init(jnp.zeros(()))
    for gradient in (1.0, -1.0):
        update, state = optimizer.update(jnp.float32(gradient), state)
    mean = (0.5 * 0.5 - 0.5) / (1 - 0.5**2)  # beta_1 = .5, without bias
    np.testing.assert_allclose(update, -0.05 * mean, rtol=1e-3)


@pytest.mark.parametrize("method, epochs, warm", [("vp", 600, 1000), ("vp", 100, 200)]
                         + [("vpt-shallow", 100, 200)])  # fmt: skip
def test_sgd_with_a_warm_up_and_a_cosine(method, epochs, warm):
    """1000 steps of warm-up for VP, a tenth of a shorter run; for VPT ten epochs."""
    steps = 20
    total = steps * epochs
    optimizer = find_method(method).preset.optimizer(1.0, steps, epochs)
    t = np.arange(total)
    down = (1 + np.cos(np.pi * (t - warm) / (total - warm))) / 2
    rate = np.where(t < warm, (t + 1) / warm, down)
    velocity, wanted = 0.0, []
    for r in rate:
        velocity = 0.9 * velocity + 1
        wanted.append(r * velocity)
    found = scanned(optimizer, total)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def scanned(optimizer, total):
    """`lengths_of` many steps, compiled as one."""

    def step(state, _):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        return state, -update

    start = optimizer.init(jnp.zeros(()))
    return np.asarray(jax.lax.scan(step, start, length=total)[1])


@pytest.mark.verify
@pytest.mark.parametrize("steps", [391, 79, 20])
def test_the_rates_of_visual_prompting_are_the_published_codes(steps):
    given = assets.official("vpt_head")
    preset = find_method("vp").preset
    optimizer = preset.optimizer(preset.learning_rate, steps, preset.epochs)
    at = given[f"vp_{steps}_steps"]
    moved = scanned(optimizer, int(at.max()) + 1)
    velocity = 10 * (1 - 0.9 ** (at + 1.0))  # of a gradient that is always 1
    wanted = given[f"vp_{steps}_rate"]
    np.testing.assert_allclose(moved[at] / velocity, wanted, rtol=1e-4, atol=1e-5)


def test_the_schedules_count_epochs_of_any_length():
    found = lengths_of(adam_in_steps(1.0, 3, 25), 75)  # at epochs 12 and 18
    wanted = [1.0] * 36 + [0.1] * 18 + [0.01] * 21
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    found = lengths_of(adam_decayed()(1.0, 3, 5), 15)
    np.testing.assert_allclose(found, 0.96 ** (np.arange(15) // 6), rtol=1e-3)
    cosine = lengths_of(sgd_cosine(0.2)(1.0, 3, 10), 30)  # six steps up
    velocity = 10 * (1 - 0.9 ** np.arange(1, 31))
    up, down = (np.arange(6) + 1) / 6, (1 + np.cos(np.pi * np.arange(24) / 24)) / 2
    wanted = np.concatenate([up, down]) * velocity
    np.testing.assert_allclose(cosine, wanted, rtol=1e-4, atol=1e-5)


def test_coda_falls_by_epochs_along_a_part_of_a_cosine():
    found = rates("coda-prompt", 5).reshape(5, STEPS)
    wanted = 0.001 * np.cos(0.99 * np.pi / 2 * np.arange(5) / 4)
    np.testing.assert_allclose(found, np.outer(wanted, [1] * STEPS), rtol=1e-3)


@pytest.mark.parametrize("method, ratio", [("vp", 50.0), ("vpt-deep", 1.0)])
def test_gradients_of_tokens_are_clipped_and_those_of_pixels_not(method, ratio):
    optimizer = find_method(method).preset.optimizer(1.0, STEPS, 10)

    def third_update(gradient):
        params = jnp.zeros(2)
        state, update = optimizer.init(params), params
        for _ in range(3):  # the first of a warm-up is zero
            update, state = optimizer.update(gradient, state, params)
        return np.asarray(update)

    small, large = map(third_update, (jnp.array([0.6, 0.8]), jnp.array([30.0, 40.0])))
    assert np.abs(small).max() > 0.1
    np.testing.assert_allclose(large, ratio * small, rtol=1e-5)


def test_few_methods_have_losses_of_their_own():
    learnable = {"a": jnp.array([3.0, 4.0]), "b": jnp.array(2.0)}
    seen, labels = {"output": jnp.array([[2.0, 0.0], [1.0, 5.0]])}, jnp.array([0, 1])
    plain = cross_entropy(Seen(seen, labels, learnable))[0]
    np.testing.assert_allclose(plain, np.log(1 + np.exp(-2.0)), rtol=1e-6)
    # of log h = 2, which no map would give; class 0 has a quarter of the labels
    focal = -((1 - np.exp(2.0)) ** 2) * 2.0 * 4 / (2 * 1)
    wanted = {"ar": -2.0 + 5e-7 * 29.0, "bar": focal}
    # 1 - h has a least value of 2^-23; two equal images of two classes, twice each
    wanted["refine"] = -(2.0 + np.log(2.0**-23)) / 2 + 0.1 * np.log(3)
    seen["input"] = jnp.ones((2, 2, 2, 3))
    wanted |= {"l2p": plain - 0.7, "dualprompt": plain - 0.7}
    seen["block_0:in/match"] = jnp.array([0.7, 0.0])
    for name in IMAGES:
        method = find_method(name)
        loss = method.preset.loss
        if isinstance(method.preset, BlackBox):
            loss = method.preset.loss(np.array([1, 0, 1, 1]), 2)
        found = loss(Seen(seen, labels, learnable))[0]
        np.testing.assert_allclose(found, wanted.get(name, plain), rtol=1e-6)


def test_names():
    assert find_method("vp") is recipes.METHODS["vp"]
    with pytest.raises(ValueError, match="no method 'vpt_deep'; did you mean 'vpt-de"):
        find_method("vpt_deep")
    with pytest.raises(ValueError, match="no alignment 'bml'.*expected one of first"):
        find_alignment("bml")


def test_every_method_says_what_it_needs():
    for method in recipes.METHODS.values():
        assert method.enters
        assert method.source  # of its preset, and what differs
        if method.alignment is not None:
            assert method.alignment in recipes.ALIGNMENTS
    own = [name for name in IMAGES if find_method(name).alignment is None]
    tuned = [
        "dam-vp",
        "lor-vp",
        "vpt-shallow",
        "vpt-deep",
        "e2vpt",
        "explicit-visual-prompting",
        "l2p",
        "dualprompt",
        "coda-prompt",
    ]
    assert {*own} == {"linear-probe", *tuned}
