"""The red circle (arXiv 2304.06712): drawn pixel by pixel, and nothing learned.

The wrong variants: a disc; a circle inside the box; rows and columns exchanged; drawn
after normalisation.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Scope
from reprojax.operators import circle
from reprojax.recipes import red_circle

BACKBONE, X = backbones.convolutional(), backbones.photos(3, 16)
RED = np.array([1.0, 0, 0])


def drawn(image, box, width):
    """Each pixel's middle, by the equation of an ellipse in the box."""
    top, left, bottom, right = box
    image, size = image.copy(), image.shape[0]
    middle = (top + bottom) / 2, (left + right) / 2
    half = (bottom - top) / 2, (right - left) / 2
    for i in range(size):
        for j in range(size):
            y, x = (i + 0.5) / size - middle[0], (j + 0.5) / size - middle[1]
            outer = (y / half[0]) ** 2 + (x / half[1]) ** 2 <= 1
            inner = (y / (half[0] - width)) ** 2 + (x / (half[1] - width)) ** 2 <= 1
            if outer and not inner:
                image[i, j] = RED
    return image


def test_a_ring_in_the_middle_before_normalisation():
    program = red_circle(BACKBONE, targets=3, radius=0.375, width=0.1)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    assert not jax.tree.leaves(params.learnable)
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    box = (0.125, 0.125, 0.875, 0.875)
    wanted = np.stack([drawn(image, box, 0.1) for image in X / 255])
    assert by_hand.close(seen, by_hand.normalised(wanted))
    assert by_hand.close(y, by_hand.logits(seen)[:, :3])  # no map is estimated yet
    changed = np.any(wanted != X / 255, axis=3)[0]
    assert not changed[8, 8] and not changed[0, 0] and changed.sum() > 20


def test_boxes_in_the_context_are_circled_through_their_corners():
    boxes = np.array([[0.3, 0.2, 0.5, 0.6], [0.4, 0.4, 0.6, 0.5], [0.1, 0.5, 0.7, 0.6]])
    image = jnp.asarray(X, jnp.float32) / 255
    m = circle(width=0.08)
    scope = Scope(context=jnp.asarray(boxes))
    found = m.apply(m.init(jax.random.key(0), image, scope), image, scope)
    for i, (top, left, bottom, right) in enumerate(boxes):
        middle = (top + bottom) / 2, (left + right) / 2
        half = (bottom - top) / 2**0.5, (right - left) / 2**0.5
        around = [middle[0] - half[0], middle[1] - half[1]]
        around += [middle[0] + half[0], middle[1] + half[1]]
        wanted = drawn(X[i] / 255, around, 0.08)
        np.testing.assert_allclose(found[i], wanted, atol=1e-6)
        ring = np.all(wanted == RED, axis=2)
        assert ring.any()
        assert not np.array_equal(ring, ring.T)


def test_a_colour_of_ones_own():
    image = jnp.zeros((1, 16, 16, 3))
    m = circle(radius=0.4, width=0.1, colour=(0.0, 0.5, 1.0))
    found = m.apply(m.init(jax.random.key(0), image, Scope()), image, Scope())
    ring = np.asarray(found)[0][np.any(np.asarray(found)[0] > 0, axis=2)]
    np.testing.assert_array_equal(ring, np.tile([0, 0.5, 1], (len(ring), 1)))


@pytest.mark.parametrize(
    "given", [{"radius": 0.0}, {"width": 2.0}, {"colour": (255.0, 0.0, 0.0)}]
)
def test_sizes_in_pixels_are_refused(given):
    with pytest.raises(ValueError, match="expected shares of the image's side"):
        circle(**given)
