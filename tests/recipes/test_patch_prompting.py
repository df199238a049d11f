"""Fixed and random patches (arXiv 2203.17274), added after normalisation.

The wrong variants: a patch that never moves, or moves in evaluation; one place for rows
and columns; a patch in place of the pixels.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_image_learning import (
    STEPS,
    T,
    X,
    Y,
    cross_entropy,
    descended,
    momentum,
    pulled,
    same,
    warms,
)

from reprojax.recipes import find_method, fixed_patch, random_patch
from reprojax.training import steps

BACKBONE = backbones.convolutional()
NORMAL = by_hand.normalised(by_hand.resized(X, 16))


def begun(program):
    return program.init(jax.random.key(0), BACKBONE.frozen, X)


def patched(patch, row, column):
    """As FixedPatchPrompter and RandomPatchPrompter: zeros, and the patch in them."""
    prompt, side = np.zeros((16, 16, 3)), len(patch)
    prompt[row : row + side, column : column + side] = patch
    return NORMAL + prompt


def test_a_fixed_patch_lies_on_the_upper_left_corner():
    program = fixed_patch(BACKBONE, targets=3, side=5)
    params = begun(program)
    patch = params.learnable["normalized"]
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    assert by_hand.close(seen, patched(patch, 0, 0))
    assert by_hand.close(y, by_hand.logits(seen)[:, :3])
    trained, _ = by_hand.run(program, params, BACKBONE.frozen, X, jax.random.key(1))
    assert by_hand.close(trained, seen)


def test_a_random_patch_moves_in_training_alone():
    program = random_patch(BACKBONE, targets=3, side=5)
    params = begun(program)
    patch = params.learnable["normalized"]
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    assert by_hand.close(seen, patched(patch, 5, 5))  # 11 // 2
    places = set()
    for seed in range(40):
        key = jax.random.key(seed)
        seen, _ = by_hand.run(program, params, BACKBONE.frozen, X, key)
        at = np.argwhere(np.abs(seen - NORMAL).max((0, 3)) > 1e-6)
        row, column = at.min(0)
        assert by_hand.close(seen, patched(patch, row, column))  # one for the batch
        places.add((int(row), int(column)))
    rows, columns = map(set, zip(*places, strict=True))
    assert any(row != column for row, column in places)
    assert rows <= {*range(11)} and min(len(rows), len(columns)) > 7


def test_2700_numbers_that_start_normal():
    large = fixed_patch(backbones.convolutional(224), targets=3)
    params = by_hand.planned(large)
    assert by_hand.numbers(params.learnable) == 30 * 30 * 3
    patch = begun(random_patch(BACKBONE, targets=3, side=15)).learnable["normalized"]
    assert abs(np.mean(patch)) < 0.1 and abs(np.std(patch) - 1) < 0.1


@pytest.mark.parametrize("side", [0, 16])
def test_a_patch_without_room_is_refused(side):
    with pytest.raises(ValueError, match="expected (at least 1|1 to 15)"):
        begun(fixed_patch(BACKBONE, targets=3, side=side))


# Losses of FixedPatchPrompter of hjbahng/visual_prompting @679e71f, every sixth step,
# around the same network, images and first patch.
PUBLISHED = [
    1.165021, 1.159411, 1.142210, 1.127707, 1.119087,
    1.114530, 1.111782, 1.109994, 1.109027, 1.108651,
]  # fmt: skip


@pytest.mark.parametrize("name", ["vp-fixed-patch", "vp-random-patch"])
def test_the_law_of_learning(name):
    """The places are those that a step showed; all else is NumPy's."""
    method = find_method(name)
    program = method.build(BACKBONE, targets=T, side=6)
    optimizer = method.preset.optimizer(2.0, 1, STEPS)
    state = steps.begin(program, optimizer, BACKBONE.frozen, X, 0, STEPS)
    first, found, places = np.asarray(state.params.learnable["normalized"]), [], []
    for _ in range(STEPS):
        state = state._replace(loss=jnp.zeros(()))
        places.append(place_of(program, state))
        what = (program, optimizer, method.preset.loss, (), state, BACKBONE.frozen)
        state = steps.train_step(*what, jnp.asarray(X), jnp.asarray(Y))
        found.append(float(state.loss))
    still = name == "vp-fixed-patch"
    assert ({*places} == {(0, 0)}) if still else (len({*places}) > 20)
    left = iter(places)

    def step(w):
        row, column = next(left)
        x = patched(w, row, column)
        y = by_hand.logits(x)
        value, dy = cross_entropy(y[:, :T])
        dy = np.pad(dy, ((0, 0), (0, y.shape[1] - T)))
        slope = pulled(x, dy).sum(0)
        return value, slope[row : row + 6, column : column + 6]

    wanted = descended(first, step, momentum(warms(2.0, 6)))[0]
    if still:
        same(np.array(found), wanted)
        same(np.array(found[::6]), np.array(PUBLISHED))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def place_of(program, state):
    """Where the next step's patch is: its gradient does not reach other pixels."""
    key = jax.random.fold_in(state.key, state.step)  # as `train_step` draws it
    ones = jax.tree.map(jnp.ones_like, state.params.learnable)
    own = state.params._replace(learnable=ones)
    seen, _ = by_hand.run(program, own, BACKBONE.frozen, X, key)
    at = np.argwhere(np.abs(seen - NORMAL).max((0, 3)) > 1e-6)
    return tuple(int(n) for n in at.min(0))
