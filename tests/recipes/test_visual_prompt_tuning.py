"""VPT (arXiv 2203.12119) against a vision transformer in NumPy.

The wrong variants: deep prompts that are inserted beside the old ones instead of
replacing them; prompts with positions; prompts before the class token.
"""

from math import erf

import assets
import backbones
import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from official_runs import MODEL, check_way, head, normal, way
from official_runs import X as PHOTOS

from reprojax import Params, Scope
from reprojax.alignments import linear
from reprojax.recipes import padding, vpt_deep, vpt_shallow
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import (
    DECAYS,
    RATES,
    from_patches,
    optimizer,
)
from reprojax.testing import contract
from reprojax.training.losses import cross_entropy
from reprojax.training.optimizers import decayed

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


# -- beside KMnP/vpt (4410440), run on the tiny transformer


def official(project):
    """(program, the params with which the official code ran)."""
    program = vpt_deep(MODEL, linear(3), length=4, project=project)
    shapes = [(n, 4, project or 16) for n in (1, 2)]
    prompts = jnp.concatenate([normal(s, i) for i, s in enumerate(shapes, 1)])
    learnable = {"input": (), "output": head()}
    if project is None:
        learnable |= {f"block_{i}:in": prompts[i] for i in range(3)}
    else:
        own = {"prompts": prompts, "kernel": normal((5, 16), 5)}
        learnable["block_0:in"] = own | {"bias": normal((16,), 6)}
    return program, Params(learnable, dict.fromkeys(learnable, ()))


ANSWERS = {
    None: [
        [8.838265, -2.291803, 6.498317],
        [7.704332, -0.833417, 7.577136],
        [9.939486, -1.529397, 6.246520],
    ],
    5: [
        [8.165439, -1.466713, 6.127998],
        [5.898985, 0.539732, 7.243459],
        [10.878366, -0.869794, 6.147390],
    ],
}
WAYS = {
    (None, 0.0): "3.852767 1.232163 1.323678 1.341545 1.170133 1.042813 0.938731"
    " 0.863583 0.809687 0.767142 0.738688",
    (None, 0.01): "3.852767 1.229905 1.313750 1.322125 1.150776 1.027869 0.927308"
    " 0.858333 0.809260 0.771959 0.748290",
    (5, 0.01): "3.194977 1.435862 1.289920 1.286722 1.123846 0.996265 0.899223"
    " 0.832707 0.788320 0.754997 0.731306",
}


@pytest.mark.parametrize("project, decay", WAYS)
def test_answers_and_the_way_are_those_of_the_official_code(project, decay):
    program, start = official(project)
    found = jax.jit(program.apply)(start, MODEL.frozen, PHOTOS)[:3]
    np.testing.assert_allclose(found, ANSWERS[project], rtol=1e-4, atol=1e-4)
    sgd = optax.chain(decayed(decay), optax.sgd(0.05, momentum=0.9))
    check_way(way(program, start, sgd, cross_entropy)[0], WAYS[project, decay])


def test_a_projection_starts_as_the_official_one():
    """Of 200 of its starts: deviation .358 of the kernel, bias within .447, vectors
    within .1744."""
    program = vpt_deep(MODEL, targets=3, length=40, project=5)
    params = program.init(jax.random.key(0), MODEL.frozen, PHOTOS)
    own = params.learnable["block_0:in"]
    assert own["prompts"].shape == (3, 40, 5)
    bound = np.sqrt(6 / (3 * 8**2 + 5))
    assert 0.98 * bound < np.abs(own["prompts"]).max() <= bound < 0.1746
    np.testing.assert_allclose(np.std(own["kernel"]), 0.358, rtol=0.25)
    assert 0.3 < np.abs(own["bias"]).max() <= 0.4473
    shallow = vpt_shallow(MODEL, targets=3, project=5)
    assert shallow.init(jax.random.key(0), MODEL.frozen, PHOTOS).learnable[
        "block_0:in"
    ]["prompts"].shape == (1, 5, 5)


def test_a_projection_keeps_the_contract():
    found = contract(
        vpt_deep(MODEL, linear(3), length=2, project=5),
        MODEL.frozen,
        jnp.asarray(PHOTOS[:4]),
        jnp.arange(4) % 3,
        shape=(4, 3),
    )
    assert found.learnable == 3 * 2 * 5 + 5 * 16 + 16 + 16 * 3 + 3


@pytest.mark.parametrize("project", [None, 5])
def test_tokens_are_dropped_in_training_for_each_image(project):
    program = vpt_deep(MODEL, targets=3, drop=0.5, project=project)
    for sites, own in program.at[1:-1]:
        value = {site: jnp.zeros((64, 7, 16)) for site in sites}
        spec = value if len(sites) > 1 else value[sites[0]]
        start = own.init(jax.random.key(0), spec, Scope())
        still, new = (
            np.asarray(own.apply(start, value[sites[0]], Scope(key=key)))[:, 1:6]
            for key in (None, jax.random.key(1))
        )
        assert (still[0] == still[1]).all() and np.abs(still).min() > 0
        kept = new != 0
        np.testing.assert_allclose(new[kept], 2 * still[kept], rtol=1e-5)
        assert 0.4 < kept.mean() < 0.6 and (kept[0] != kept[1]).any()


def test_tokens_may_start_at_mean_patches():
    program = vpt_deep(BACKBONE, targets=3, length=3)
    first = program.init(jax.random.key(0), BACKBONE.frozen, X)
    params = from_patches(BACKBONE, first, X)
    seen = {}

    def enter(i, tokens):
        seen[i] = tokens[:, 1:].mean(0)  # four patches
        return tokens

    class_token(pixels(), enter)
    for i in range(3):
        rows = seen[i]
        wanted = np.stack([rows[:2].mean(0), rows[2], rows[3]])
        found = params.learnable[f"block_{i}:in"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        np.testing.assert_array_equal,
        (params.fixed, params.learnable["output"]),
        (first.fixed, first.learnable["output"]),
    )
    many = vpt_shallow(BACKBONE, targets=3)
    with pytest.raises(ValueError, match="got 5 tokens for 4 patches"):
        own = many.init(jax.random.key(0), BACKBONE.frozen, X)
        from_patches(BACKBONE, own, X)
    made = vpt_shallow(BACKBONE, targets=3, project=4)
    with pytest.raises(ValueError, match="with a projection"):
        own = made.init(jax.random.key(0), BACKBONE.frozen, X)
        from_patches(BACKBONE, own, X)


def test_the_published_grid_and_a_decay_that_spares_the_heads_bias():
    # at batches of 128; the published rates are for 256
    assert max(RATES) == 25 and min(RATES) == 0.025 and len(RATES) == 10
    assert DECAYS == (0.01, 0.001, 0.0001, 0.0)
    learnable = {"block_0:in": {"bias": jnp.ones(2)}, "output": {"head": {}}}
    learnable["output"]["head"] = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    still = jax.tree.map(jnp.zeros_like, learnable)
    for decay in DECAYS:
        update = optimizer(decay)(1.0, 1, 1)  # one step, of the whole rate
        found, _ = update.update(still, update.init(learnable), learnable)
        assert not found["output"]["head"]["bias"].any()
        for part in (found["output"]["head"]["kernel"], found["block_0:in"]["bias"]):
            np.testing.assert_allclose(part, -decay, rtol=1e-5)
