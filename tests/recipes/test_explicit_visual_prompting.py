"""Explicit visual prompting beside NiFangBaAGe/Explicit-Visual-Prompt (601ae99), its
VisionTransformerEVP run on the tiny transformer.

The wrong variants: low frequencies kept; their sign kept; patches with positions; the
class token prompted; one small layer for all blocks; a tanh for the exact GELU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from official_runs import MODEL, X, Y, check_way, head, normal, way

from reprojax import Params, record
from reprojax.alignments import linear
from reprojax.core import until
from reprojax.recipes import explicit_visual_prompting, find_method
from reprojax.recipes.prompt_tuning.explicit_visual_prompting import high_frequencies
from reprojax.testing import contract
from reprojax.training.losses import cross_entropy

PROGRAM = explicit_visual_prompting(MODEL, linear(3), reduce=4)
SITE = "block_0:in"


def official():
    """The params with which the official code ran."""
    shapes = {
        "patches": ((16, 4), (4,), 1),
        "frequencies": ((8, 8, 3, 4), (4,), 5),
        "last": ((4, 16), (16,), 7),
        "blocks": ((3, 4, 4), (3, 4), 9),
    }
    own = {
        name: {"kernel": normal(kernel, seed), "bias": normal(bias, seed + 1)}
        for name, (kernel, bias, seed) in shapes.items()
    }
    learnable = {"input": (), SITE: own, "output": head()}
    return Params(learnable, dict.fromkeys(learnable, ()))


def test_high_frequencies_are_the_official_ones():
    forward = record(MODEL.forward, ["normalized"])
    pixels = forward(MODEL.frozen, X)[1]["normalized"]
    found = high_frequencies(pixels, 0.25)[0, 3, 2:6].T
    wanted = [
        [1.060901, 1.575281, 1.902787, 0.042632],
        [0.812880, 1.059494, 0.193090, 0.787945],
        [0.884229, 0.091905, 0.836126, 0.600549],
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    found = high_frequencies(pixels, 0.1)[0, 3, 2:6, 1]
    np.testing.assert_allclose(
        found, [0.936465, 1.401020, 0.957917, 1.587738], atol=1e-5
    )
    even = high_frequencies(jnp.ones((1, 8, 12, 3)), 0.25)
    np.testing.assert_allclose(even, 0, atol=1e-6)


def test_answers_and_the_way_are_those_of_the_official_code():
    found = jax.jit(PROGRAM.apply)(official(), MODEL.frozen, X)[:3]
    wanted = [
        [7.288012, -3.265205, 7.585201],
        [6.096541, -2.467129, 7.439525],
        [6.351738, -2.133104, 6.520795],
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    adamw = optax.adamw(0.01, weight_decay=0.01)
    losses, _ = way(PROGRAM, official(), adamw, cross_entropy)
    check_way(
        losses,
        "4.314032 2.825942 1.832306 0.994455 0.697697 0.692104 0.593945 0.461888"
        " 0.389729 0.330809 0.277141",
    )


def test_the_contract():
    def still(params):
        own = params.learnable[SITE]
        zero = {"last": jax.tree.map(jnp.zeros_like, own["last"])}
        return params._replace(learnable=params.learnable | {SITE: own | zero})

    features = until(MODEL.forward, "head:in")
    found = contract(
        PROGRAM,
        MODEL.frozen,
        jnp.asarray(X[:4]),
        jnp.asarray(Y[:4]),
        forward=features,
        shape=(4, 3),
        work=2.05,  # frequencies and patches, of a tiny model much
    )
    own = 16 * 4 + 4 + 192 * 4 + 4 + 3 * (16 + 4) + 4 * 16 + 16
    assert found.learnable == own + 16 * 3 + 3
    params = PROGRAM.init(jax.random.key(0), MODEL.frozen, X)
    at_rest = jax.jit(PROGRAM.apply)(still(params), MODEL.frozen, X)
    plain = jax.jit(features)(MODEL.frozen, X) @ params.learnable["output"]["kernel"]
    np.testing.assert_allclose(at_rest, plain, atol=1e-5)  # the head's bias starts at 0


def test_it_starts_as_the_official_code_does():
    wide = explicit_visual_prompting(MODEL, targets=3, reduce=1)
    own = wide.init(jax.random.key(0), MODEL.frozen, X).learnable[SITE]
    for name in ("patches", "blocks", "last"):
        np.testing.assert_allclose(np.std(own[name]["kernel"]), 0.02, rtol=0.15)
    std = np.sqrt(2 / (8 * 8 * 16))
    np.testing.assert_allclose(np.std(own["frequencies"]["kernel"]), std, rtol=0.05)
    assert not any(np.any(part["bias"]) for part in own.values())


def test_the_rate_falls_by_epochs_to_a_millionth():
    optimizer = find_method("explicit-visual-prompting").preset.optimizer(2e-4, 2, 4)
    state, found = optimizer.init(jnp.zeros(())), []
    for _ in range(8):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        found.append(-float(update))
    part = np.repeat(np.arange(4) / 4, 2)
    wanted = 1e-6 + (2e-4 - 1e-6) * (1 + np.cos(np.pi * part)) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="share=1.5, expected a share"):
        explicit_visual_prompting(MODEL, targets=3, share=1.5)
    with pytest.raises(ValueError, match="reduce=0"):
        explicit_visual_prompting(MODEL, targets=3, reduce=0)
