"""Padding (arXiv 2211.11635) and watermark (arXiv 2410.24018).

The wrong variants: a border that enters after normalisation, or starts at zero, or has
the odd pixel behind; a watermark that enters before normalisation; an evaluation on
crops.
"""

import backbones
import by_hand
import jax
import numpy as np

from reprojax.recipes import map_only, padding, watermark

BACKBONE, X = backbones.convolutional(), backbones.photos(3)


def begun(program, backbone=BACKBONE):
    return program.init(jax.random.key(0), backbone.frozen, X)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def test_a_padded_image_stands_in_a_sigmoid_border():
    program = padding(BACKBONE, targets=3, inner=9)
    params = by_hand.drawn(begun(program))
    prompt = params.learnable["input"]["border"]["prompt"]
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    image = by_hand.resized(X, 9)
    wanted = by_hand.normalised(by_hand.framed(image, sigmoid(prompt), before=4))
    assert by_hand.close(seen, wanted)
    assert by_hand.close(y, by_hand.logits(wanted) @ params.fixed["output"])

    late = by_hand.framed(by_hand.normalised(image), sigmoid(prompt), before=4)
    assert not by_hand.close(seen, late)
    free = by_hand.normalised(by_hand.framed(image, prompt, before=4))
    assert not by_hand.close(seen, free)


def test_the_border_starts_at_grey_before_normalisation():
    program = padding(BACKBONE, targets=3)
    seen, _ = by_hand.run(program, begun(program), BACKBONE.frozen, X)
    grey = (0.5 - np.array(backbones.MEAN)) / np.array(backbones.STD)
    inner = round(16 * 128 / 224)
    assert inner == 9
    border = np.ones((16, 16), bool)
    border[4:13, 4:13] = False
    np.testing.assert_allclose(
        seen[:, border], np.broadcast_to(grey, (3, border.sum(), 3)), atol=1e-6
    )
    assert not np.allclose(grey, 0) and not np.allclose(grey, 0.5)


def test_pixels_inside_the_border_never_move():
    program = padding(BACKBONE, targets=3)
    params, inside = begun(program), slice(4, 13)
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    other, _ = by_hand.run(program, by_hand.drawn(params), BACKBONE.frozen, X)
    np.testing.assert_array_equal(other[:, inside, inside], seen[:, inside, inside])
    assert np.all(other[:, 13:] != seen[:, 13:])


def test_a_watermark_is_added_to_normalised_pixels():
    program = watermark(BACKBONE, targets=3)
    params = by_hand.drawn(begun(program))
    prompt = params.learnable["normalized"]
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    image = by_hand.resized(X, 16)
    wanted = by_hand.normalised(image) + prompt
    assert by_hand.close(seen, wanted)
    assert by_hand.close(y, by_hand.logits(wanted) @ params.fixed["output"])
    assert not by_hand.close(seen, by_hand.normalised(image + prompt))


def test_a_watermark_starts_at_rest():
    program, bare = watermark(BACKBONE, targets=3), map_only(BACKBONE, targets=3)
    params = begun(program)
    assert not np.any(params.learnable["normalized"])
    found = by_hand.run(program, params, BACKBONE.frozen, X)
    wanted = by_hand.run(bare, begun(bare), BACKBONE.frozen, X)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_augmentation_crops_and_mirrors_in_training_alone():
    backbone = backbones.convolutional(32)
    program = watermark(backbone, targets=3, augment=True)
    params = begun(program, backbone)
    large = by_hand.resized(X, 33)  # 228 of 224, at 32
    views = {
        (top, left, step): large[:, top : top + 32, left : left + 32][:, :, ::step]
        for top in (0, 1)
        for left in (0, 1)
        for step in (1, -1)
    }
    views = {how: by_hand.normalised(view) for how, view in views.items()}
    still, _ = by_hand.run(program, params, backbone.frozen, X)
    # Evaluated whole: a crop from the larger image is another picture.
    assert by_hand.close(still, by_hand.normalised(by_hand.resized(X, 32)))
    assert not by_hand.close(still, views[0, 0, 1])
    met, apart = set(), 0
    for seed in range(12):
        key = jax.random.key(seed)
        seen, _ = by_hand.run(program, params, backbone.frozen, X, key)
        here = []
        for row in range(3):
            fits = [how for how, v in views.items() if by_hand.close(seen[row], v[row])]
            assert len(fits) == 1
            here += fits
        met |= {*here}
        apart += len({how[:2] for how in here}) > 1
    assert len(met) == 8  # every crop, each way round
    assert apart > 6  # and each image its own


def test_learnable_numbers():
    large = backbones.convolutional(224)
    for recipe in (padding, watermark):
        params = by_hand.planned(recipe(large, targets=3))
        assert by_hand.numbers(params.learnable) == 224 * 224 * 3
