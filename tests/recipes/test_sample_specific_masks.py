"""SMM (arXiv 2406.03150): x + mask(x) * prompt, after normalisation.

The wrong variants: masks that see pixels before normalisation; masks that a sigmoid
bounds; batch statistics of the batch in evaluation.
"""

import backbones
import by_hand
import jax
import numpy as np
import pytest

from reprojax.core import estimation, record
from reprojax.models.vision.mask_generator import MaskGenerator
from reprojax.recipes import sample_specific_masks as smm

SIZE = 20  # three halvings reach 16 of 20 pixels: the rest is zero
BACKBONE, X = backbones.convolutional(SIZE), backbones.photos(3)


def convolved(x, kernel, bias):
    """3 x 3 with zeros around."""
    height, width = x.shape[1:3]
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = bias + np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(3):
        for j in range(3):
            out = out + x[:, i : i + height, j : j + width] @ kernel[i, j]
    return out


def pooled(x):
    """The maximum over 2 x 2, a last odd row or column dropped."""
    height, width = (n // 2 * 2 for n in x.shape[1:3])
    x = x[:, :height, :width]
    corners = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return np.max(corners, axis=0)


def masks(learnable, stored, x, pools, own_batch=False):
    """The published network; `own_batch`: normalised by what the batch shows."""
    layers = sum(name.startswith("Conv") for name in learnable)
    v, shown = x, {}
    for i in range(layers - 1):
        conv, norm = learnable[f"Conv_{i}"], learnable[f"BatchNorm_{i}"]
        v = convolved(v, conv["kernel"], conv["bias"])
        mean, var = stored[f"BatchNorm_{i}"]["mean"], stored[f"BatchNorm_{i}"]["var"]
        if own_batch:
            mean, var = v.mean((0, 1, 2)), v.var((0, 1, 2))
        shown[f"BatchNorm_{i}"] = mean, var
        v = (v - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
        v = np.maximum(v, 0)
        v = pooled(v) if i < pools else v
    last = learnable[f"Conv_{layers - 1}"]
    v, side = convolved(v, last["kernel"], last["bias"]), 2**pools
    out = np.zeros(x.shape)
    reach = v.shape[1] * side
    out[:, :reach, :reach] = np.kron(v, np.ones((1, side, side, 1)))
    return out, shown


def fitted(**sizes):
    program = smm(BACKBONE, targets=3, **sizes)
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, X))
    stats = params.fixed["normalized"]["mask"]["batch_stats"]
    for norm in stats.values():
        norm["var"] = np.abs(norm["var"]) + 0.5
    return program, params, params.learnable["normalized"], stats


@pytest.mark.parametrize("layers, pools", [(5, 3), (6, 2)])
def test_the_network_gets_masked_prompts(layers, pools):
    program, params, own, stats = fitted(layers=layers, pools=pools)
    seen, y = by_hand.run(program, params, BACKBONE.frozen, X)
    image = by_hand.resized(X, SIZE)
    normal = by_hand.normalised(image)
    mask, _ = masks(own["mask"], stats, normal, pools)
    wanted = normal + mask * own["prompt"]
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(seen, wanted, atol=1e-5 * scale, rtol=1e-4)
    assert by_hand.close(y, by_hand.logits(seen) @ params.fixed["output"])

    early, _ = masks(own["mask"], stats, image, pools)
    assert not by_hand.close(seen, normal + early * own["prompt"])
    bounded = (1 + np.tanh(mask / 2)) / 2
    assert not by_hand.close(seen, normal + bounded * own["prompt"])
    batch, _ = masks(own["mask"], stats, normal, pools, own_batch=True)
    assert not by_hand.close(seen, normal + batch * own["prompt"])


def test_masks_are_constant_over_patches_and_zero_beyond():
    program, params, own, _ = fitted()
    one = params._replace(
        learnable=params.learnable
        | {"normalized": own | {"prompt": np.ones_like(own["prompt"])}}
    )
    seen, _ = by_hand.run(program, one, BACKBONE.frozen, X)
    mask = seen - by_hand.normalised(by_hand.resized(X, SIZE))
    scale = np.abs(mask).max()
    tiles = mask[:, :16, :16].reshape(3, 2, 8, 2, 8, 3)
    assert np.ptp(tiles, axis=(2, 4)).max() < 1e-5 * scale
    assert np.abs(mask[:, 16:]).max() < 1e-5 and np.abs(mask[:, :, 16:]).max() < 1e-5
    assert np.ptp(tiles[:, :, 0, :, 0], axis=0).min() > 0  # each sample its own


def test_training_normalises_by_the_batch_and_moves_the_stored_statistics():
    program, params, own, stats = fitted()
    call = record(program.apply, ["normalized"], also=estimation.is_news)
    key = jax.random.key(0)
    _, seen = jax.jit(lambda p, x: call(p, BACKBONE.frozen, x, key=key))(params, X)
    normal = by_hand.normalised(by_hand.resized(X, SIZE))
    mask, shown = masks(own["mask"], stats, normal, 3, own_batch=True)
    wanted = normal + mask * own["prompt"]
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(seen["normalized"], wanted, atol=1e-4 * scale)
    news = estimation.put_news(params, seen).fixed["normalized"]["mask"]["batch_stats"]
    for name, (mean, var) in shown.items():
        for found, old, batch in (
            (news[name]["mean"], stats[name]["mean"], mean),
            (news[name]["var"], stats[name]["var"], var),
        ):
            np.testing.assert_allclose(found, 0.9 * old + 0.1 * batch, rtol=1e-3)


def test_the_published_numbers_of_weights():
    large = backbones.convolutional(224)
    one = ({"channels": 1}, 24_768)  # without the last convolution
    six = ({"layers": 6, "pools": 4}, 102_339)
    for sizes, count in (({}, 26_499), one, six):
        own = by_hand.planned(smm(large, targets=3, **sizes)).learnable["normalized"]
        assert by_hand.numbers(own["mask"]) == count
        assert by_hand.numbers(own["prompt"]) == 224 * 224 * 3
        assert MaskGenerator(**sizes).layers == sizes.get("layers", 5)


def test_the_layers_follow_the_backbone():
    for backbone, layers in ((backbones.transformer(), 6), (BACKBONE, 5)):
        params = smm(backbone, targets=3).init(jax.random.key(0), backbone.frozen, X)
        mask = params.learnable["normalized"]["mask"]
        assert sum(name.startswith("Conv") for name in mask) == layers


def test_one_mask_for_all_colours_is_the_mean_of_the_last_maps():
    program, params, own, stats = fitted(channels=1)
    assert sum(name.startswith("Conv") for name in own["mask"]) == 4
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    normal = by_hand.normalised(by_hand.resized(X, SIZE))
    width = own["mask"]["Conv_3"]["kernel"].shape[-1]
    mean = np.zeros((3, 3, width, 3))
    mean[1, 1] = 1 / width  # a last convolution that takes the mean
    whole = own["mask"] | {"Conv_4": {"kernel": mean, "bias": np.zeros(3)}}
    mask, _ = masks(whole, stats, normal, 3)
    wanted = normal + mask * own["prompt"]
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(seen, wanted, atol=1e-5 * scale, rtol=1e-4)


def test_the_mask_network_starts_as_pytorch_starts_it():
    params = smm(BACKBONE, targets=3, layers=6).init(
        jax.random.key(0), BACKBONE.frozen, X
    )
    mask = params.learnable["normalized"]["mask"]
    for i in (3, 4):
        kernel, bias = mask[f"Conv_{i}"]["kernel"], mask[f"Conv_{i}"]["bias"]
        bound = (9 * kernel.shape[2]) ** -0.5
        for a in (kernel, bias):
            assert 0.9 * bound < np.abs(a).max() <= bound
        np.testing.assert_allclose(np.std(kernel), bound / 3**0.5, rtol=0.03)


@pytest.mark.parametrize("sizes", [{"pools": 5}, {"layers": 1}, {"channels": 2}])
def test_a_network_that_cannot_be_is_refused(sizes):
    with pytest.raises(ValueError, match="fewer pools than layers, and 1 or 3"):
        smm(BACKBONE, targets=3, **sizes)


def test_augmentation_is_for_training_alone():
    large = backbones.convolutional(32)
    program, plain = smm(large, targets=3, augment=True), smm(large, targets=3)
    params = program.init(jax.random.key(0), large.frozen, X)
    still, _ = by_hand.run(program, params, large.frozen, X)
    wanted, _ = by_hand.run(
        plain, plain.init(jax.random.key(0), large.frozen, X), large.frozen, X
    )
    np.testing.assert_array_equal(still, wanted)
    moved, _ = by_hand.run(program, params, large.frozen, X, jax.random.key(1))
    assert not by_hand.close(moved, wanted)


def test_it_starts_at_rest():
    program = smm(BACKBONE, targets=3)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    seen, _ = by_hand.run(program, params, BACKBONE.frozen, X)
    assert by_hand.close(seen, by_hand.normalised(by_hand.resized(X, SIZE)))
