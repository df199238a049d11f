"""What a learned prompt has to beat: the map alone, and a linear head.

The wrong variants: an image in a canvas instead of resized; a probe on logits.
"""

import backbones
import by_hand
import jax
import numpy as np
import pytest

from reprojax.recipes import linear_probe, map_only

BACKBONE = backbones.convolutional()


@pytest.mark.parametrize("channels, side", [(1, 10), (3, 16), (3, 31)])
def test_map_only_is_the_image_resized_and_a_map(channels, side):
    program, x = map_only(BACKBONE, targets=3), backbones.photos(3, side, channels)
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, x))
    seen, y = by_hand.run(program, params, BACKBONE.frozen, x)
    wanted = by_hand.normalised(by_hand.resized(x, 16))
    assert by_hand.close(seen, wanted)
    assert by_hand.close(y, by_hand.logits(wanted) @ params.fixed["output"])
    assert not jax.tree.leaves(params.learnable)
    if side == 10:
        canvas = by_hand.framed(by_hand.resized(x, 10), np.zeros((16, 16, 3)), 3)
        assert not by_hand.close(seen, by_hand.normalised(canvas))


def test_the_probe_is_linear_on_features():
    program, x = linear_probe(BACKBONE, targets=3), backbones.photos(3)
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, x))
    _, y = by_hand.run(program, params, BACKBONE.frozen, x)
    head = params.learnable["output"]
    assert head["kernel"].shape == (16, 3)
    normal = by_hand.normalised(by_hand.resized(x, 16))
    middle = params.fixed["output"]
    scaled = (by_hand.features(normal) - middle["mean"]) / middle["deviation"]
    wanted = scaled @ head["kernel"] + head["bias"]
    assert by_hand.close(y, wanted)
    frozen = BACKBONE.frozen["params"]["head"]
    logits = by_hand.features(normal) @ frozen["kernel"] + frozen["bias"]
    assert by_hand.close(logits, by_hand.logits(normal))  # these are the features
    assert not by_hand.close(y, logits[:, :3])
