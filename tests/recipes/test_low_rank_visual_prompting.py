"""LoR-VP (arXiv 2502.00896): a low-rank image, added before normalisation.

The wrong variants: added after normalisation; one matrix for all colours; a start at
which A gets no gradient, or both move; decay behind the momentum.
"""

import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_image_learning import STD, STEPS, T, X, Y, cross_entropy, same

from reprojax.alignments import one_to_one
from reprojax.core import until
from reprojax.recipes import find_method, low_rank_visual_prompting
from reprojax.testing import contract
from reprojax.training import steps

BACKBONE = backbones.convolutional()
HEAD = 16 * 3 + 3


def begun(program):
    return program.init(jax.random.key(0), BACKBONE.frozen, X)


def image_of(own):
    """[H W 3] put together number by number."""
    left, right = (np.asarray(own[n], np.float64) for n in ("left", "right"))
    out = np.zeros((16, 16, 3))
    for c in range(3):
        for r in range(left.shape[2]):
            out[:, :, c] += np.outer(left[c, :, r], right[c, r])
    return out


def test_the_product_is_added_before_normalisation():
    program = low_rank_visual_prompting(BACKBONE, targets=3, rank=2)
    params = by_hand.drawn(begun(program))
    own, head = params.learnable["input"]["prompt"], params.learnable["output"]
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    image, prompt = by_hand.resized(X, 16), image_of(own)
    wanted = by_hand.normalised(image + prompt)
    assert by_hand.close(seen, wanted)
    out = by_hand.features(wanted)
    assert by_hand.close(y, out @ head["kernel"] + head["bias"])
    assert not by_hand.close(seen, by_hand.normalised(image) + prompt)
    assert all(np.linalg.matrix_rank(prompt[..., c]) == 2 for c in range(3))
    assert not by_hand.close(prompt[..., 0], prompt[..., 1])


def test_an_alignment_maps_the_models_answers():
    program = low_rank_visual_prompting(BACKBONE, one_to_one(3))
    params = begun(program)
    _, y = by_hand.run(program, params, BACKBONE.frozen, X)
    bare = by_hand.logits(by_hand.normalised(by_hand.resized(X, 16)))
    assert by_hand.close(y, bare[:, :3])  # at rest, before a map is estimated
    with pytest.raises(ValueError, match="got neither of align and targets"):
        low_rank_visual_prompting(BACKBONE)
    with pytest.raises(ValueError, match="got both of align and targets"):
        low_rank_visual_prompting(BACKBONE, one_to_one(3), targets=3)


def test_5376_numbers_that_start_at_zero_times_small_normals():
    """As published: 2 x 3 x 4 x 224 numbers, B at zero, A at N(0, .01^2)."""
    large = low_rank_visual_prompting(backbones.convolutional(224), targets=3)
    assert by_hand.numbers(by_hand.planned(large).learnable["input"]) == 5376
    own = begun(low_rank_visual_prompting(BACKBONE, targets=3, rank=16)).learnable
    prompt, head = own["input"]["prompt"], own["output"]
    assert not np.any(prompt["left"])
    assert abs(np.std(prompt["right"]) - 0.01) < 0.001
    bound = np.abs(head["kernel"]).max()
    assert 0.9 * 0.25 < bound <= 0.25 and not np.any(head["bias"])  # 16 features
    with pytest.raises(ValueError, match="rank of 17 .* expected 1 to 16"):
        begun(low_rank_visual_prompting(BACKBONE, targets=3, rank=17))


def test_the_contract():
    program = low_rank_visual_prompting(BACKBONE, targets=3)
    forward = until(BACKBONE.forward, BACKBONE.roles["features"][0])
    images, labels = jnp.asarray(backbones.photos(4, 16)), jnp.array([0, 1, 2, 1])
    still = {"no_gradient": ("right",)}  # behind a B that starts at zero
    what = {"forward": forward, "shape": (4, 3), **still}
    found = contract(program, BACKBONE.frozen, images, labels, **what)
    assert found.learnable == 2 * 3 * 4 * 16 + HEAD


# Losses of the class LoR_VP and the schedule of jincan333/LoR-VP @107e677, every sixth
# step, around the same network, images and first numbers.
PUBLISHED = [
    1.234557, 1.235524, 1.007958, 0.972347, 0.912057,
    0.865056, 0.791238, 0.708508, 0.656675, 0.633904,
]  # fmt: skip


NET = backbones.residual_net(classes=0)
WEIGHTS = BACKBONE.frozen["params"]
BODY = {"params": {n: v for n, v in WEIGHTS.items() if n != "head"}}


@jax.jit
def features(x):
    return NET.apply(BODY, x)


@jax.jit
def pulled(x, dy):
    """The gradient of the pixels, from that of the features."""
    return jax.vjp(features, x)[1](dy)[0]


def test_the_law_of_learning_beside_the_published_code():
    method = find_method("lor-vp")
    program = method.build(BACKBONE, targets=T, rank=2)
    optimizer = method.preset.optimizer(0.5, 1, STEPS)
    state = steps.begin(program, optimizer, BACKBONE.frozen, X, 0, STEPS)
    first, found = jax.tree.map(np.array, state.params.learnable), []
    for _ in range(STEPS):
        state = state._replace(loss=jnp.zeros(()))
        what = (program, optimizer, method.preset.loss, (), state, BACKBONE.frozen)
        state = steps.train_step(*what, jnp.asarray(X), jnp.asarray(Y))
        found.append(float(state.loss))
    wanted = by_the_paper(first)
    same(np.array(found), wanted)
    same(np.array(found[::6]), np.array(PUBLISHED))


def by_the_paper(first):
    own, head = first["input"]["prompt"], first["output"]
    names = {"left": own["left"], "right": own["right"], **head}
    w = {name: np.asarray(a, np.float64) for name, a in names.items()}
    velocity = {name: 0.0 for name in w}
    image, losses = by_hand.resized(X, 16), []
    for t in range(STEPS):
        x = by_hand.normalised(image + image_of(w))
        out = np.asarray(features(np.float32(x)), np.float64)
        value, dy = cross_entropy(out @ w["kernel"] + w["bias"])
        back = pulled(np.float32(x), np.float32(dy @ w["kernel"].T))
        g = (np.asarray(back, np.float64) / STD).sum(0)
        slopes = {
            "left": np.einsum("hwc,crw->chr", g, w["right"]),
            "right": np.einsum("hwc,chr->crw", g, w["left"]),
            "kernel": out.T @ dy,
            "bias": dy.sum(0),
        }
        rate = 0.25 * (1 + np.cos(np.pi * t / STEPS))
        for name, slope in slopes.items():
            velocity[name] = 0.9 * velocity[name] + slope + 1e-4 * w[name]
            w[name] = w[name] - rate * velocity[name]
        losses.append(value)
    return np.array(losses)
