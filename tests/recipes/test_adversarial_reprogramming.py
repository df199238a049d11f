"""AR (arXiv 1806.11146): the image in the middle of a frame, before normalisation.

The wrong variants: a frame that enters after normalisation; tanh on the image too; a
loss that looks at the first T classes alone; a program that starts near grey.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.core import record
from reprojax.recipes import adversarial_reprogramming as ar
from reprojax.recipes import find_alignment, find_method
from reprojax.training.losses import Seen, cross_entropy, mean_loss

BACKBONE, X = backbones.convolutional(), backbones.photos(3)


def fitted(**sizes):
    program = ar(BACKBONE, targets=3, **sizes)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    return program, by_hand.drawn(params)


def weights(params):
    return params.learnable["input"]["program"]["prompt"]


def test_the_network_gets_the_image_in_a_frame():
    program, params = fitted(inner=7)
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    frame, image = (1 + np.tanh(weights(params))) / 2, by_hand.resized(X, 7)
    wanted = by_hand.normalised(by_hand.framed(image, frame, before=5))
    assert by_hand.close(seen, wanted)
    log = by_hand.log_softmax(by_hand.logits(wanted))
    assert by_hand.close(y, log[:, :3])  # the first classes answer, among all twelve

    late = by_hand.framed(by_hand.normalised(image), frame, before=5)
    assert not by_hand.close(seen, late)
    everywhere = by_hand.framed(image, 0 * frame, before=5) + frame
    assert not by_hand.close(seen, by_hand.normalised(everywhere))


def test_pixels_inside_the_frame_never_move():
    program, params = fitted(inner=7)
    inside = slice(5, 12)
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    for seed in (1, 2):
        other, _ = by_hand.run(program, by_hand.drawn(params, seed), BACKBONE.frozen, X)
        np.testing.assert_array_equal(other[:, inside, inside], seen[:, inside, inside])
        assert np.all(other[:, :5] != seen[:, :5])


def test_the_frame_is_a_picture_whatever_the_weights():
    program, params = fitted()
    for scale, low, high in ((0, 0.5, 0.5), (100, 0, 1)):
        scaled = jax.tree.map(lambda a, s=scale: s * a, params)
        seen, _ = by_hand.run(program, scaled, BACKBONE.frozen, X)
        pixels = seen * np.array(backbones.STD) + np.array(backbones.MEAN)
        border = np.concatenate([pixels[:, :7].ravel(), pixels[:, 9:].ravel()])
        np.testing.assert_allclose([border.min(), border.max()], [low, high], atol=1e-6)


def test_the_image_is_28_pixels_in_224():
    large = backbones.convolutional(224)
    program = ar(large, targets=3)
    params = by_hand.planned(program)
    assert weights(params).shape == (224, 224, 3)
    assert by_hand.numbers(params.learnable) == 224 * 224 * 3
    reached = jax.eval_shape(
        lambda p, x: record(program.apply, ["input"])(p, large.frozen, x),
        params,
        jax.ShapeDtypeStruct((1, 28, 28, 1), "uint8"),
    )
    assert reached[1]["input"].shape == (1, 224, 224, 3)
    seen, _ = by_hand.run(ar(BACKBONE, targets=3), fitted()[1], BACKBONE.frozen, X)
    again, _ = by_hand.run(
        ar(BACKBONE, targets=3, inner=2), fitted()[1], BACKBONE.frozen, X
    )
    np.testing.assert_array_equal(seen, again)  # 16 / 8 = 2


@pytest.mark.parametrize("name", ["first", "ilm", "blm"])
def test_the_loss_is_of_all_source_classes(name):
    """-log P(label's source class) among S classes, not among the T that answer."""
    align = find_alignment(name).build(3)
    program = ar(BACKBONE, align)
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, X))
    label_map = np.eye(12, 3)[np.random.default_rng(0).permutation(12)]
    if name == "blm":
        label_map = np.abs(label_map + np.random.default_rng(1).normal(size=(12, 3)))
        label_map /= label_map.sum(0)
    if name == "first":
        label_map = np.eye(12, 3)
    else:
        fixed = params.fixed | {"output": label_map.astype(np.float32)}
        params = params._replace(fixed=fixed)
    pixels, y = by_hand.run(program, params, BACKBONE.frozen, X)
    log, y = by_hand.log_softmax(by_hand.logits(pixels)), jnp.asarray(y)
    labels = jnp.array([2, 0, -1])  # a filled row counts for nothing
    among_all = -np.mean([log[0] @ label_map[:, 2], log[1] @ label_map[:, 0]])
    norm = sum((np.asarray(a) ** 2).sum() for a in jax.tree.leaves(params.learnable))
    loss = find_method("ar").preset.loss
    found = mean_loss(loss(Seen({"output": y}, labels, params.learnable)), labels)
    np.testing.assert_allclose(found, among_all + 5e-7 * norm, rtol=1e-5)
    among_three = float(mean_loss(cross_entropy(Seen({"output": y}, labels)), labels))
    assert abs(among_three - among_all) > 0.3


def test_the_program_starts_as_in_the_re_implementation():
    large = backbones.convolutional(64)
    params = ar(large, targets=3).init(jax.random.key(0), large.frozen, X)
    start = np.asarray(weights(params))
    np.testing.assert_allclose([start.mean(), start.std()], [0, 1], atol=0.03)
