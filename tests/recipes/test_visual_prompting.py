"""VP (arXiv 2203.17274): four strips, added after normalisation.

The wrong variants: strips added before normalisation; strips instead of pixels.
"""

import backbones
import by_hand
import jax
import numpy as np

from reprojax.recipes import visual_prompting

BACKBONE, X = backbones.convolutional(), backbones.photos(3)


def strips(params):
    """[16 16 3] put together by hand: top and bottom go over the corners."""
    part = {name: np.asarray(a) for name, a in params.learnable["normalized"].items()}
    width = part["top"].shape[0]
    out = np.zeros((16, 16, 3))
    out[:width], out[-width:] = part["top"], part["bottom"]
    out[width:-width, :width] = part["left"]
    out[width:-width, -width:] = part["right"]
    return out


def test_strips_are_added_to_normalised_pixels():
    program = visual_prompting(BACKBONE, targets=3, width=3)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    image, prompt = by_hand.resized(X, 16), strips(params)
    wanted = by_hand.normalised(image) + prompt
    assert by_hand.close(seen, wanted)
    assert by_hand.close(y, by_hand.logits(wanted)[:, :3])

    assert not by_hand.close(seen, by_hand.normalised(image + prompt))
    instead = np.where(prompt != 0, prompt, by_hand.normalised(image))
    assert not by_hand.close(seen, instead)


def test_pixels_inside_the_strips_never_move():
    program = visual_prompting(BACKBONE, targets=3, width=3)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    bare = by_hand.normalised(by_hand.resized(X, 16))
    for seed in (1, 2):
        moved = by_hand.drawn(params, seed)
        seen, _ = by_hand.run(program, moved, BACKBONE.frozen, X)
        assert by_hand.close(seen[:, 3:13, 3:13], bare[:, 3:13, 3:13])
        assert np.all(seen[:, :3] != bare[:, :3])


def test_69840_numbers_that_start_normal():
    program = visual_prompting(backbones.convolutional(224), targets=3)
    params = by_hand.planned(program)
    assert by_hand.numbers(params.learnable) == 69_840
    assert not by_hand.numbers(params.fixed)
    shapes = {n: a.shape for n, a in params.learnable["normalized"].items()}
    flat, tall = (30, 224, 3), (164, 30, 3)
    assert shapes == {"top": flat, "bottom": flat, "left": tall, "right": tall}

    wide = visual_prompting(backbones.convolutional(64), targets=3, width=30)
    frozen = backbones.convolutional(64).frozen
    start = wide.init(jax.random.key(0), frozen, X).learnable
    flat = np.concatenate([np.ravel(a) for a in jax.tree.leaves(start)])
    assert abs(flat.mean()) < 0.05 and abs(flat.std() - 1) < 0.05
