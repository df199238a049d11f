"""Every recipe keeps the contract, on a transformer and on a convolutional net."""

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax.alignments import identity
from reprojax.core import until
from reprojax.recipes import (
    BlackBox,
    build,
    find_alignment,
    find_method,
    linear_probe,
    map_only,
)
from reprojax.testing import contract
from reprojax.training.losses import cross_entropy

LABELS = jnp.array([0, 1, 2, 1])
# Pixels of the side that the model, or a frame, has room for: nothing is resized, which
# would be work that the bare model has not.
SIDES = {"ar": 2, "bar": 2, "padding": 9, "evp": 12, "autovp": 9}
PIXELS = [("convolutional", m) for m in ("ar", "vp", "padding", "watermark", "smm")]
PIXELS += [
    ("convolutional", m) for m in ("bar", "blackvip", "evp", "autovp", "red-circle")
]
PIXELS += [("convolutional", m) for m in ("vp-fixed-patch", "vp-random-patch")]
PIXELS += [("transformer", m) for m in ("padding", "watermark")]
AT_REST = ("vp", "watermark", "smm", "vp-fixed-patch", "vp-random-patch")
MASKS = {"smm": ("mask",)}  # behind a prompt that starts at zero
# A prompt costs nothing; what computes one from each image states its own bound.
WORK = {
    "autovp": 1.2,  # images sampled at a learned scale
    "smm": 2.8,  # its mask net of 26,499 weights, trained, beside 18,000 frozen ones
    "blackvip": 21,  # a frozen encoder's pass, and a decoder of prompts 16 pixels wide
}


def still(params):
    """A prompt of zeros."""
    zero = jax.tree.map(jnp.zeros_like, params.learnable["normalized"])
    return params._replace(learnable=params.learnable | {"normalized": zero})


def program(method, backbone, alignment=None):
    name = alignment or find_method(method).alignment
    return build(method, backbone, 3, name)


def own_loss(method):
    preset = find_method(method).preset
    if isinstance(preset, BlackBox):
        return preset.loss(np.asarray(LABELS), 3)
    return preset.loss if preset else cross_entropy


def bare(backbone, alignment):
    """The model with the same map and no prompt."""
    plain = map_only(backbone, find_alignment(alignment).build(3))

    def answer(frozen, x):
        return plain.apply(plain.init(jax.random.key(0), frozen, x), frozen, x)

    return answer


def images(method=""):
    return jnp.asarray(backbones.photos(4, SIDES.get(method, 16)))


@pytest.mark.parametrize("backbone, method", PIXELS)
def test_prompts_in_pixels(backbone, method):
    model = getattr(backbones, backbone)()
    found = contract(
        program(method, model),
        model.frozen,
        images(method),
        LABELS,
        forward=model.forward,
        shape=(4, 3),
        key=jax.random.key(1),
        loss=own_loss(method),
        no_gradient=MASKS.get(method, ()),
        neutral=still if method in AT_REST else None,
        bare=bare(model, find_method(method).alignment),
        work=WORK.get(method, 1.1),
    )
    assert (
        found.learnable
        == {
            "ar": 16 * 16 * 3,
            "padding": 16 * 16 * 3,
            "watermark": 16 * 16 * 3,
            "vp": 2 * 2 * 16 * 3 + 2 * 12 * 2 * 3,  # strips of 2 pixels
            "smm": 16 * 16 * 3 + 26_499,
            "vp-fixed-patch": 2 * 2 * 3,
            "vp-random-patch": 2 * 2 * 3,
            "red-circle": 0,
            "bar": 16 * 16 * 3,
            "evp": 16 * 16 * 3,
            "autovp": 16 * 16 * 3 + 1 + 12 * 3,
            # a trigger beside 192 features; 32 -> 16 -> 3 channels, doubled twice
            "blackvip": 512 - 192 + 160 + 512 + 32 + 192,
        }[method]
    )


@pytest.mark.parametrize("method", ["vpt-shallow", "vpt-deep"])
def test_prompts_in_tokens(method):
    model = backbones.transformer()
    features = until(model.forward, model.roles["features"][0])
    found = contract(
        program(method, model),
        model.frozen,
        images(),
        LABELS,
        forward=features,
        shape=(4, 3),
    )
    blocks = 1 if method == "vpt-shallow" else 2
    assert found.learnable == blocks * 5 * 16 + 16 * 3 + 3


@pytest.mark.parametrize("alignment", ["rlm", "ilm", "blm+", "ridge", "linear"])
def test_every_alignment(alignment):
    model = backbones.convolutional()
    found = contract(
        program("watermark", model, alignment),
        model.frozen,
        images(),
        LABELS,
        forward=model.forward,
        shape=(4, 3),
        loss=cross_entropy,
    )
    extra = {"linear": 12 * 3}.get(alignment, 0)
    assert found.learnable == 16 * 16 * 3 + extra
    wanted = {"linear": 0, "ridge": 12 * 3 + 3}
    assert found.fixed == wanted.get(alignment, 12 * 3)


def test_the_controls():
    model = backbones.convolutional()
    probe = contract(
        linear_probe(model, targets=3), model.frozen, images(), LABELS, shape=(4, 3)
    )
    assert probe.learnable == 16 * 3 + 3
    same = contract(
        map_only(model, identity()),
        model.frozen,
        images(),
        LABELS,
        forward=model.forward,
        shape=(4, 12),
        neutral=lambda params: params,
    )
    assert same.learnable == 0 and same.neutral is not None
    np.testing.assert_allclose(same.neutral, 0, atol=1e-6)
