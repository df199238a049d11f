"""EVP (arXiv 2212.10556): a shrunken image in a border, with normalised gradients.

The wrong variants: a border that enters after normalisation; the norm of the border's
gradient alone; momentum; a rate that falls at every step.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_image_learning import (
    STD,
    STEPS,
    N,
    T,
    Y,
    cross_entropy,
    descended,
    inside,
    pulled,
    same,
)

from reprojax.data import Split
from reprojax.recipes import build, enhanced_visual_prompting, find_method
from reprojax.training import steps

BACKBONE, X = backbones.convolutional(), backbones.photos(3)


def begun(program, x=X):
    return program.init(jax.random.key(0), BACKBONE.frozen, x)


def prompt_of(params):
    return np.asarray(params.learnable["input"]["border"]["prompt"])


def test_a_small_image_stands_in_a_free_border_that_starts_black():
    x = backbones.photos(3, 12)
    program = enhanced_visual_prompting(BACKBONE, targets=3)  # 164 of 224: 12 of 16
    params = by_hand.drawn(begun(program, x))
    seen, y = by_hand.run(program, params, BACKBONE.frozen, x)
    prompt = prompt_of(params)
    wanted = by_hand.normalised(by_hand.framed(x / 255, prompt, before=2))
    assert by_hand.close(seen, wanted)
    assert by_hand.close(y, by_hand.logits(wanted) @ params.fixed["output"])
    late = by_hand.framed(by_hand.normalised(x / 255), prompt, before=2)
    assert not by_hand.close(seen, late)

    black, _ = by_hand.run(program, begun(program, x), BACKBONE.frozen, x)
    wanted = by_hand.normalised(by_hand.framed(x / 255, 0 * prompt, before=2))
    assert by_hand.close(black, wanted)


def test_images_are_shrunk_as_cubics():
    program = enhanced_visual_prompting(BACKBONE, targets=3)
    x = backbones.photos(2, 20)
    seen, _ = by_hand.run(program, begun(program, x), BACKBONE.frozen, x)
    cubic = jax.image.resize(jnp.float32(x) / 255, (2, 12, 12, 3), "cubic")
    wanted = by_hand.normalised(np.clip(cubic, 0, 1))
    np.testing.assert_allclose(seen[:, 2:14, 2:14], wanted, atol=1e-5)
    assert not by_hand.close(wanted, by_hand.normalised(by_hand.resized(x, 12)))


def test_a_mirror_is_for_training_alone():
    program = enhanced_visual_prompting(BACKBONE, targets=3, augment=True)
    x = backbones.photos(12, 12)
    params = begun(program, x)
    still, _ = by_hand.run(program, params, BACKBONE.frozen, x)
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, x, jax.random.key(0))
    turned = [not by_hand.close(a, b) for a, b in zip(seen, still, strict=True)]
    assert any(turned) and not all(turned)
    both = np.where(np.reshape(turned, (-1, 1, 1, 1)), still[:, :, ::-1], still)
    assert by_hand.close(seen, both)


def test_the_published_numbers():
    program = enhanced_visual_prompting(backbones.convolutional(224), targets=3)
    assert by_hand.numbers(by_hand.planned(program).learnable) == 224 * 224 * 3
    flat = jnp.ones(3)
    optimizer = find_method("evp").preset.optimizer(70.0, 2, 10)
    state, found = optimizer.init(flat), []
    for _ in range(8):
        update, state = optimizer.update(9 * flat, state, flat)
        found.append(float(jnp.linalg.norm(update)))
    wanted = 35 * (1 + np.cos(np.pi * np.arange(4) / 10))
    np.testing.assert_allclose(found, np.repeat(wanted, 2), rtol=1e-5)


PHOTOS = backbones.photos(N, 12)
# Losses of `train_with_prompt` of UCSC-VLAA/EVP @96b7131, every sixth epoch, around the
# same network, images and first classes.
PUBLISHED = [
    1.289968, 1.158916, 1.130792, 1.114959, 1.105213,
    1.097813, 1.092558, 1.089390, 1.087705, 1.087050,
]  # fmt: skip


def trained():
    """(losses, last prompt) of whole-batch training, by the preset's optimiser."""
    method = find_method("evp")
    program = build("evp", BACKBONE, T, "first")
    optimizer = method.preset.optimizer(0.5, 1, STEPS)
    state = steps.begin(program, optimizer, BACKBONE.frozen, PHOTOS, 0, STEPS)
    found = []
    for _ in range(STEPS):
        state = state._replace(loss=jnp.zeros(()))
        what = (program, optimizer, method.preset.loss, (), state, BACKBONE.frozen)
        state = steps.train_step(*what, jnp.asarray(PHOTOS), jnp.asarray(Y))
        found.append(float(state.loss))
    return np.array(found), prompt_of(state.params)


def by_the_paper(norm_of=lambda g, border: g):
    border = inside(2, 12)

    def step(w):
        x = by_hand.normalised(by_hand.framed(PHOTOS / 255, w, before=2))
        y = by_hand.logits(x)
        value, dy = cross_entropy(y[:, :T])
        dy = np.pad(dy, ((0, 0), (0, y.shape[1] - T)))
        g = (pulled(x, dy) / STD).sum(0)
        return value, border * g / np.linalg.norm(norm_of(g, border))

    rates = iter(0.25 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS)))
    return descended(np.zeros((16, 16, 3)), step, lambda g: -next(rates) * g)


def test_the_law_of_learning_beside_the_published_code():
    found, prompt = trained()
    wanted, last = by_the_paper()
    same(found, wanted)
    same(found[::6], np.array(PUBLISHED))
    border = inside(2, 12)
    np.testing.assert_allclose(border * prompt, border * last, atol=0.03)
    alone = by_the_paper(lambda g, border: border * g)[0]
    assert np.abs(found / alone - 1).max() > 0.01  # the norm of the border alone


def test_the_map_is_of_each_class_its_most_frequent_answer():
    """Estimated once, before the border has moved."""
    program = build("evp", BACKBONE, T)
    params = begun(program, PHOTOS)
    split = Split(PHOTOS, Y)
    params = steps.estimate(program, params, BACKBONE.frozen, split, N)
    x = by_hand.normalised(by_hand.framed(PHOTOS / 255, np.zeros((16, 16, 3)), 2))
    answers = by_hand.logits(x).argmax(1)
    wanted = [np.bincount(answers[Y == t], minlength=12).argmax() for t in range(T)]
    np.testing.assert_array_equal(params.fixed["output"].argmax(0), wanted)


@pytest.mark.parametrize("inner", [0, 16])
def test_an_image_without_a_border_is_refused(inner):
    with pytest.raises(ValueError, match="expected 0 < inner < 16"):
        enhanced_visual_prompting(BACKBONE, targets=3, inner=inner)
