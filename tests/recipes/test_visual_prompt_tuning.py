"""VPT (arXiv 2203.12119) against a vision transformer in NumPy.

The wrong variants: deep prompts that are inserted beside the old ones instead of
replacing them; prompts with positions; prompts before the class token.
"""

from math import erf

import assets
import backbones
import by_hand
import jax
import numpy as np
import pytest

from reprojax import Scope
from reprojax.recipes import padding, vpt_deep, vpt_shallow

BACKBONE, X = backbones.transformer(3), backbones.photos(3)
HEADS = 2


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def norm(x, p):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * p["scale"] + p["bias"]


def attention(x, p):
    q, k, v = (
        np.einsum("bld,dhe->bhle", x, p[n]["kernel"]) + p[n]["bias"][None, :, None]
        for n in ("query", "key", "value")
    )
    score = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    weight = np.exp(score - score.max(-1, keepdims=True))
    mixed = (weight / weight.sum(-1, keepdims=True)) @ v
    return dense(mixed.transpose(0, 2, 1, 3).reshape(x.shape), p["out"])


def block(x, p):
    x = x + attention(norm(x, p["norm_1"]), p["attention"])
    up = dense(norm(x, p["norm_2"]), p["mlp"]["up"])
    gelu = up * (1 + np.vectorize(erf)(up / np.sqrt(2))) / 2
    return x + dense(gelu, p["mlp"]["down"])


def class_token(x, enter):
    """enter(i, tokens) before block i -> what the head is given."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), BACKBONE.frozen["params"])
    x = x.reshape(len(x), 2, 8, 2, 8, 3).transpose(0, 1, 3, 2, 4, 5)
    kernel = p["patches"]["kernel"].reshape(-1, 16)
    tokens = x.reshape(len(x), 4, -1) @ kernel + p["patches"]["bias"]
    first = np.repeat(p["class_token"], len(x), axis=0)
    tokens = np.concatenate([first, tokens], 1) + p["positions"]
    for i in range(3):
        tokens = block(enter(i, tokens), p[f"block_{i}"])
    return norm(tokens, p["norm"])[:, 0]


def put(tokens, prompt, at=1, drop=0):
    """A prompt [P D] at a place, instead of the `drop` tokens that are there."""
    rows = np.repeat(prompt[None], len(tokens), axis=0)
    return np.concatenate([tokens[:, :at], rows, tokens[:, at + drop :]], axis=1)


def fitted(recipe, **sizes):
    program = recipe(BACKBONE, targets=3, **sizes)
    params = by_hand.drawn(program.init(jax.random.key(0), BACKBONE.frozen, X))
    head, middle = params.learnable["output"], params.fixed["output"]
    y = np.asarray(jax.jit(program.apply)(params, BACKBONE.frozen, X))
    prompts = [
        np.asarray(params.learnable[f"block_{i}:in"])
        for i in range(3)
        if f"block_{i}:in" in params.learnable
    ]
    scaled = lambda token: (token - middle["mean"]) / middle["deviation"]
    return y, prompts, lambda token: dense(scaled(token), head)


def pixels():
    return by_hand.normalised(by_hand.resized(X, 16))


def test_shallow_inserts_once_behind_the_class_token():
    y, (prompt,), head = fitted(vpt_shallow, length=4)
    enter = lambda i, v: put(v, prompt) if i == 0 else v
    assert by_hand.close(y, head(class_token(pixels(), enter)))

    p = np.asarray(BACKBONE.frozen["params"]["positions"])
    placed = lambda i, v: put(v, prompt + p[0, :4]) if i == 0 else v
    assert not by_hand.close(y, head(class_token(pixels(), placed)))
    before = lambda i, v: put(v, prompt, at=0) if i == 0 else v
    assert not by_hand.close(y, head(class_token(pixels(), before)))


def test_deep_replaces_what_came_of_the_earlier_prompt():
    y, prompts, head = fitted(vpt_deep, length=4)
    assert len(prompts) == 3
    enter = lambda i, v: put(v, prompts[i], drop=4 if i else 0)
    assert by_hand.close(y, head(class_token(pixels(), enter)))

    piled = lambda i, v: put(v, prompts[i])
    assert not by_hand.close(y, head(class_token(pixels(), piled)))
    same = lambda i, v: put(v, prompts[0], drop=4 if i else 0)
    assert not by_hand.close(y, head(class_token(pixels(), same)))


def test_deep_of_depth_one_is_shallow():
    deep, _, _ = fitted(vpt_deep, length=4, depth=1)
    shallow, _, _ = fitted(vpt_shallow, length=4)
    np.testing.assert_array_equal(deep, shallow)
    two, prompts, _ = fitted(vpt_deep, length=4, depth=2)
    assert len(prompts) == 2 and not by_hand.close(two, shallow)


def test_prompts_start_uniform_within_xaviers_bound_of_a_patch():
    program = vpt_deep(BACKBONE, targets=3, length=400)
    params = program.init(jax.random.key(0), BACKBONE.frozen, X)
    bound = np.sqrt(6 / (3 * 8**2 + 16))
    for i in range(3):
        start = np.asarray(params.learnable[f"block_{i}:in"])
        assert 0.995 * bound < np.abs(start).max() <= bound
        np.testing.assert_allclose(start.std(), bound / np.sqrt(3), rtol=0.03)
    other = np.sqrt(6 / (400 + 16))  # of the prompt's own matrix
    assert np.abs(start).max() > other


@pytest.mark.verify
def test_the_head_starts_as_the_published_code_does():
    """N(0, 2 / T) and -log 99, by numbers that KMnP/vpt drew."""
    given = assets.official("vpt_head")
    features = lambda width: jax.ShapeDtypeStruct((1, width), "f4")
    for (width, targets), std, bias in zip(
        given["vpt_shapes"], given["vpt_weight_std"], given["vpt_bias"], strict=True
    ):
        head = head_of(int(targets))
        drawn = [
            head.init(jax.random.key(i), features(int(width)), Scope()).learnable
            for i in range(1 + 20_000 // (width * targets))
        ]
        found = np.std([w["kernel"] for w in drawn])
        np.testing.assert_allclose(found, std, rtol=0.03)
        np.testing.assert_allclose(drawn[0]["bias"], bias, rtol=1e-6)


def test_the_head_starts_wide():
    features = jax.ShapeDtypeStruct((1, 900), "f4")
    head = head_of(8).init(jax.random.key(0), features, Scope()).learnable
    np.testing.assert_allclose(np.std(head["kernel"]), 0.5, rtol=0.03)
    np.testing.assert_allclose(head["bias"], -np.log(99), rtol=1e-6)


def head_of(targets):
    """The manipulation of "output" in a program of VPT."""
    return dict(vpt_shallow(BACKBONE, targets=targets).at)["output",]


def test_learnable_numbers():
    for recipe, blocks in ((vpt_shallow, 1), (vpt_deep, 3)):
        program = recipe(BACKBONE, targets=3)
        params = program.init(jax.random.key(0), BACKBONE.frozen, X)
        assert by_hand.numbers(params.learnable) == blocks * 5 * 16 + 16 * 3 + 3


def test_a_convolutional_net_is_refused():
    for recipe in (vpt_shallow, vpt_deep):
        with pytest.raises(ValueError, match="is no transformer.*padding"):
            recipe(backbones.convolutional(), targets=3)


def test_a_border_without_room_is_refused():
    for inner in (0, 16, 20):
        with pytest.raises(ValueError, match="0 < inner < 16"):
            padding(BACKBONE, targets=3, inner=inner)
