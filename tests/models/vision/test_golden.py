"""The real weights, through `load_backbone`, against an independent implementation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.shared.assets import file, load_backbone

pytestmark = pytest.mark.verify

GOLDEN = {
    "vit_tiny_patch16_224": "vit_tiny_patch16_224/golden.npz",
    "mobilenet_v2": "mobilenet_v2_1.0_224/golden.npz",
    "resnet20_cifar10": "cifar10_resnets/golden_resnet20.npz",
    "resnet56_cifar10": "cifar10_resnets/golden_resnet56.npz",
}
CLASSES = {
    "vit_tiny_patch16_224": (1000, 0, "tench"),
    "mobilenet_v2": (1001, 1, "tench, Tinca tinca"),
    "resnet20_cifar10": (10, 3, "cat"),
    "resnet56_cifar10": (10, 9, "truck"),
}


def outputs(name):
    """What the model and the reference make of normal noise."""
    golden = np.load(file(f"weights/{GOLDEN[name]}"))
    model = load_backbone(name)
    shape = (len(golden["output"]), 3, model.input.size, model.input.size)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = x.clip(-1, 1) if name == "mobilenet_v2" else x  # as the file's recipe says
    pixels = x.transpose(0, 2, 3, 1) * np.float32(model.input.std) + np.float32(
        model.input.mean
    )
    return jax.jit(model.forward)(model.frozen, pixels), golden["output"]


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_are_the_references(name):
    ours, theirs = outputs(name)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    print(f"{name}: largest difference {np.abs(ours - theirs).max():.1e}")
    model, (count, index, word) = load_backbone(name), CLASSES[name]
    assert len(model.classes) == count == theirs.shape[1]
    assert model.classes[index] == word


def test_on_other_conventions_they_are_not(monkeypatch):
    """Symmetric padding at stride 2, new channels all at the end, no GELU."""
    conv, pad = nn.Conv, jnp.pad

    def symmetric(features, kernel, strides=1, **kw):
        return conv(features, kernel, strides, **kw | {"padding": kernel[0] // 2})

    def at_the_end(x, pads):
        return pad(x, (*pads[:3], (0, sum(pads[3]))))

    for place, wrong, name in (
        ("flax.linen.Conv", symmetric, "mobilenet_v2"),
        ("jax.numpy.pad", at_the_end, "resnet20_cifar10"),
        ("reprojax.models.vision.vit.lax.erf", lambda x: x, "vit_tiny_patch16_224"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, wrong)
            ours, theirs = outputs(name)
        assert np.abs(ours - theirs).max() > 0.1, name
