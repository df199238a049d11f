"""AR (arXiv 1806.11146): the image in the middle of a frame, before normalisation.

The wrong variants: a frame that enters after normalisation; tanh on the image too.
"""

import backbones
import by_hand
import jax
import numpy as np

from reprojax.recipes import adversarial_reprogramming as ar
from reprojax.taps import record

BACKBONE, X = backbones.convolutional(), backbones.photos(3)


def fitted(**sizes):
    program = ar(BACKBONE, 3, **sizes)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    return program, by_hand.drawn(params)


def weights(params):
    return params.learnable["input"]["program"]["prompt"]


def test_the_network_gets_the_image_in_a_frame():
    program, params = fitted(inner=7)
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    frame, image = (1 + np.tanh(weights(params))) / 2, by_hand.resized(X, 7)
    wanted = by_hand.normalised(by_hand.framed(image, frame, before=4))
    assert by_hand.close(seen, wanted)
    assert by_hand.close(y, by_hand.logits(wanted)[:, :3])  # the first classes answer

    late = by_hand.framed(by_hand.normalised(image), frame, before=4)
    assert not by_hand.close(seen, late)
    everywhere = by_hand.framed(image, 0 * frame, before=4) + frame
    assert not by_hand.close(seen, by_hand.normalised(everywhere))


def test_pixels_inside_the_frame_never_move():
    program, params = fitted(inner=7)
    inside = slice(4, 11)
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    for seed in (1, 2):
        other, _ = by_hand.run(program, by_hand.drawn(params, seed), BACKBONE.frozen, X)
        np.testing.assert_array_equal(other[:, inside, inside], seen[:, inside, inside])
        assert np.all(other[:, :4] != seen[:, :4])


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
    program = ar(large, 3)
    params = by_hand.planned(program)
    assert weights(params).shape == (224, 224, 3)
    assert by_hand.numbers(params.learnable) == 224 * 224 * 3
    reached = jax.eval_shape(
        lambda p, x: record(program.apply, ["input"])(p, large.frozen, x),
        params,
        jax.ShapeDtypeStruct((1, 28, 28, 1), "uint8"),
    )
    assert reached[1]["input"].shape == (1, 224, 224, 3)
    seen, _ = by_hand.run(ar(BACKBONE, 3), fitted()[1], BACKBONE.frozen, X)
    again, _ = by_hand.run(ar(BACKBONE, 3, inner=2), fitted()[1], BACKBONE.frozen, X)
    np.testing.assert_array_equal(seen, again)  # 16 / 8 = 2
