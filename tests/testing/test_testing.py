"""The contract: sound programs keep it, and each law names what breaks it."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import normal, zeros
from toys import (
    DECODER_FROZEN,
    DENSE_FROZEN,
    IDS,
    IMAGES,
    LABELS,
    MIXER_FROZEN,
    ROWS,
    VIT,
    VIT_FROZEN,
    decoder,
    dense,
    mixer,
)

from reprojax import (
    Manipulation,
    Params,
    chain,
    informed,
    passthrough,
    reprogram,
    stateless,
)
from reprojax.alignments import bayesian, columns, linear
from reprojax.core import tokens
from reprojax.formats import from_context, learnable
from reprojax.operators import add, dropout, insert, pad, resize, scale_and_shift
from reprojax.testing import contract, laws, operations
from reprojax.testing.case import Case, same

soft = learnable(normal(1.0))
ON_DENSE = (DENSE_FROZEN, ROWS, LABELS)


def on_hidden(apply, init=lambda width: jnp.ones(width)):
    """A program over `dense` with one manipulation of its hidden value."""
    made = lambda key, value, scope: Params(init(value.shape[-1]))
    return reprogram(dense, {"hidden": Manipulation(made, apply)})


def broken(program, number, *given, **more):
    """The law with that number is the one which the contract names."""
    with pytest.raises(AssertionError, match=f"law {number} is broken") as caught:
        contract(program, *(given or ON_DENSE), forward=dense, **more)
    return str(caught.value)


# -- sound programs


def test_a_prompt_and_a_head():
    program = reprogram(dense, {"hidden": add(soft), "output": linear(3)})
    report = contract(program, *ON_DENSE, forward=dense, shape=(4, 3))
    assert (report.learnable, report.fixed) == (7 + 5 * 3 + 3, 0)
    assert report.output.shape == (4, 3)
    assert report.devices is None and report.neutral is None
    assert 0.5 < report.work < 1.1


def test_an_image_in_a_border_with_a_label_map():
    small = jnp.asarray(np.arange(4 * 6 * 6).reshape(4, 6, 6, 1) % 256, jnp.uint8)
    border = chain(size=resize(8), border=pad(learnable(zeros), 4))
    program = reprogram(mixer, {"input": border, "output": bayesian(3)})
    given = (MIXER_FROZEN, small, LABELS)  # resizing costs much beside so small a model
    report = contract(program, *given, forward=mixer, work=1.5)
    assert report.fixed == 30


def test_a_prompt_in_front_of_tokens():
    last = stateless(lambda y: y.value[:, -1])
    answers = chain(last=last, words=columns([3, 5, 7]))
    program = reprogram(decoder, {"embed:out": insert(soft, 2), "output": answers})
    contract(program, DECODER_FROZEN, tokens(IDS), LABELS, forward=decoder)


def test_a_model_with_its_own_context_and_randomness():
    noisy = chain(prompt=add(from_context()), drop=dropout(0.5), own=add(soft))
    program = reprogram(dense, {"hidden": noisy})
    prompts = jnp.ones((4, 7))
    key = jax.random.key(1)  # its random bits cost more than so small a model
    contract(program, *ON_DENSE, prompts, forward=dense, key=key, work=3)


def test_without_labels_and_without_params():
    report = contract(reprogram(dense, {}), DENSE_FROZEN, ROWS)
    assert report.learnable == 0 and report.work is None


def test_a_neutral_element():
    program = reprogram(VIT, {"block_0:out": scale_and_shift()})
    given = (VIT_FROZEN, IMAGES, LABELS)
    report = contract(program, *given, forward=VIT, neutral=lambda params: params)
    assert report.neutral < 1e-6 and report.work < 1.1


# -- broken ones


def test_law_1_a_size_that_is_typed_in():
    program = on_hidden(lambda p, v, scope: v + p.learnable, lambda width: jnp.ones(5))
    assert "(5,)" in broken(program, 1)


def test_law_1_an_answer_of_another_shape():
    program = reprogram(dense, {"output": linear(3)})
    assert "expected (4, 9)" in broken(program, 1, *ON_DENSE, shape=(4, 9))
    pooled = reprogram(dense, {"output": stateless(lambda y: y.mean(0, keepdims=True))})
    assert "expected (4, 5)" in broken(pooled, 1)


def test_law_2_a_python_number_among_the_params():
    program = on_hidden(lambda p, v, scope: p.learnable * v, lambda _: jnp.asarray(1.0))
    assert "['hidden'] was a weak float32[]" in broken(program, 2)


def test_law_2_a_refresh_that_changes_a_type():
    sound = bayesian(3)
    rounded = lambda p, sums: sound.refresh(p, sums)._replace(
        fixed=sums.astype(jnp.int32)
    )
    program = reprogram(
        dense, {"hidden": add(soft), "output": sound._replace(refresh=rounded)}
    )
    assert "refresh gave int32[5,3] for fixed" in broken(program, 2)


def test_law_3_numpy_randomness():
    random = np.random.default_rng(0)
    program = on_hidden(lambda p, v, scope: p.learnable * v + random.normal())
    broken(program, 3)


def test_law_3_control_flow_on_values():
    program = on_hidden(lambda p, v, scope: p.learnable * v if v.sum() > 0 else v)
    broken(program, 3)


def two(width):
    return {"read": jnp.ones(width), "unread": jnp.ones(width)}


def test_law_4_a_leaf_that_is_not_read():
    program = on_hidden(
        lambda p, v, scope: p.learnable["read"].astype(v.dtype) * v, two
    )
    assert "no gradient at [\"['hidden']['unread']\"]" in broken(program, 4)
    contract(program, *ON_DENSE, forward=dense, no_gradient=["unread"])


def test_law_4_a_gradient_without_bounds():
    program = on_hidden(lambda p, v, scope: v + jnp.sqrt(p.learnable), jnp.zeros)
    assert "not finite" in broken(program, 4)


def test_law_5_params_mixed_into_frozen_weights():
    def apply(params, value, scope):
        return jnp.tanh(scope.x @ (scope.frozen["a"] * params.learnable))

    assert "3 copies of the frozen [\"['a']\"]" in broken(on_hidden(apply), 5)


def test_law_5_params_appended_to_frozen_weights():
    def apply(params, value, scope):
        beside = params.learnable.astype(value.dtype)
        return value @ jnp.concatenate([scope.frozen["b"], beside], axis=1)

    program = on_hidden(apply, lambda width: jnp.ones((width, 2)))
    assert "3 copies of the frozen [\"['b']\"]" in broken(program, 5)


def test_law_5_a_copy_inside_a_fusion_is_none():
    """XLA looks a row up in either table, and stores no table of both."""

    def apply(params, value, scope):
        both = jnp.concatenate([scope.frozen["b"], params.learnable], dtype=value.dtype)
        return value + both[4 + (scope.x > 0).sum(1), :1]

    contract(on_hidden(apply, lambda width: jnp.ones((2, 5))), *ON_DENSE)


def test_law_5_a_class_token_for_each_row_is_no_copy():
    """Also where there are as many rows as programs, or twice as many values."""

    def forward(frozen, x, edit=passthrough):
        token = jnp.broadcast_to(frozen["cls"], (len(x), 1, 6))
        x = jnp.concatenate([token, edit("input", x)[:, None]], 1).mean(1)
        return edit("output", x @ frozen["out"])

    frozen = {"cls": jnp.ones((1, 1, 6)), "out": jnp.eye(6)}
    program = reprogram(forward, {"output": linear(2)})
    for programs in (len(ROWS), 3):
        contract(program, frozen, ROWS, LABELS, forward=forward, programs=programs)


def test_law_5_a_copy_is_seen_where_rows_equal_programs():
    def apply(params, value, scope):
        return jnp.tanh(scope.x @ (scope.frozen["a"] * params.learnable))

    assert "copies of the frozen" in broken(on_hidden(apply), 5, programs=len(ROWS))


def test_law_6_what_a_checkpoint_changes(monkeypatch):
    from orbax.checkpoint import v1 as orbax

    load = orbax.load
    flip = lambda *args: jax.tree.map(lambda a: -a, load(*args))
    monkeypatch.setattr(orbax, "load", flip)
    broken(reprogram(dense, {"hidden": add(soft)}), 6)


def test_law_8_a_prompt_that_does_not_start_at_rest():
    program = reprogram(dense, {"hidden": add(soft)})
    broken(program, 8, *ON_DENSE, neutral=lambda params: params)
    rest = lambda params: jax.tree.map(jnp.zeros_like, params)
    contract(program, *ON_DENSE, forward=dense, neutral=rest)


def test_law_9_a_prompt_in_float32():
    program = on_hidden(lambda p, v, scope: v + p.learnable)
    assert "float32" in broken(program, 9)


def test_law_10_another_gradient_under_checkpoint(monkeypatch):
    monkeypatch.setattr(jax, "checkpoint", lambda cost: lambda p: _doubled(cost(p)))
    broken(reprogram(dense, {"hidden": add(soft)}), 10)


def _doubled(answer):
    value, rest = answer
    return 2 * value, rest


def test_law_11_a_second_pass_of_the_model():
    at = {"input": add(soft), "hidden": add(from_context())}
    inner = reprogram(dense, at)

    def look(frozen, x):
        return jnp.tanh(x @ frozen["a"]) @ frozen["b"] @ frozen["b"].T

    program = informed(inner, look)
    broken(program, 11)
    assert contract(program, *ON_DENSE, forward=dense, work=3).work > 1.1


def test_law_12_statistics_of_the_batch():
    program = on_hidden(
        lambda p, v, scope: p.learnable.astype(v.dtype) * (v - v.mean(0))
    )
    broken(program, 12)


def test_law_13_an_apply_without_edit():
    program = reprogram(dense, {"hidden": add(soft)})
    deaf = lambda params, frozen, x, context=None, key=None, edit=None: program.apply(
        params, frozen, x, context, key=key
    )
    assert "no such site" in broken(program._replace(apply=deaf), 13)


def test_law_13_a_wrong_site_that_is_accepted():
    """A model that calls edit with whatever name it is asked for has no sites."""
    program = reprogram(dense, {"hidden": add(soft)})

    def eager(params, frozen, x, context=None, *, key=None, edit=lambda site, v: v):
        edit("no/such/site", x)
        return program.apply(params, frozen, x, context, key=key, edit=edit)

    broken(program._replace(apply=eager), 13)


# -- many devices

MANY = """
import jax, conftest
from toys import DENSE_FROZEN, LABELS, ROWS, dense
from reprojax import reprogram
from reprojax.alignments import bayesian
from reprojax.formats import learnable
from reprojax.operators import add
from reprojax.testing import contract, laws

at = {"hidden": add(learnable(jax.nn.initializers.normal(1.0))), "output": bayesian(3)}
law_7 = laws.devices

def local(step):
    def scaled(params, frozen, x, *rest):
        answer = step(params, frozen, x, *rest)
        many = lambda a: a * len(x.sharding.device_set)
        return answer._replace(gradient=jax.tree.map(many, answer.gradient))
    return scaled

def both(case, step):
    try:
        law_7(case, local(step))
    except AssertionError as error:
        print(error)
    return law_7(case, step)

laws.devices = both
report = contract(reprogram(dense, at), DENSE_FROZEN, ROWS, LABELS, forward=dense)
print(jax.device_count(), report.devices)
"""


def test_law_7_on_eight_devices():
    """In a Python of its own: a device count is fixed when jax starts."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    here = Path(__file__).parents[1]
    path = os.pathsep.join([str(here), str(here.parent)])
    done = subprocess.run(
        [sys.executable, "-c", MANY],
        env={**env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    scaled, sound = done.stdout.splitlines()
    count, gap = sound.split()
    assert count == "8" and float(gap) < 1e-5
    assert scaled.startswith("law 7 is broken: many devices equal one")


# -- what the laws stand on


def test_operations_of_a_product():
    a, b = jnp.ones((8, 32)), jnp.ones((32, 16))
    count = operations(lambda a, b: a @ b, a, b)
    assert count == pytest.approx(2 * 8 * 32 * 16, rel=0.05)


def test_same_is_relative_to_each_leaf_and_to_the_tree():
    tree = {"large": jnp.array([1e3, 1.0]), "small": jnp.array([1e-5])}
    assert same(tree, tree, 0.0) == 0
    near = {"large": jnp.array([1e3 + 0.5, 1.0]), "small": jnp.array([1e-5])}
    assert same(near, tree, 1e-3) == pytest.approx(5e-4)
    nothing = {"large": tree["large"], "small": jnp.zeros(1)}
    assert same(nothing, tree, 1e-4) < 1e-4  # noise beside the large leaf
    for wrong in (jnp.nan, jnp.inf):
        with pytest.raises(AssertionError):
            same(jnp.array(wrong), jnp.array(1.0), 0.1)
    with pytest.raises(AssertionError):
        same(jnp.ones(2), jnp.ones(2, jnp.bfloat16), 0.1)


def test_bad_calls_are_refused():
    program = reprogram(dense, {"hidden": add(soft)})
    with pytest.raises(ValueError, match="expected a model to compare with"):
        contract(program, *ON_DENSE, neutral=lambda params: params)
    with pytest.raises(ValueError, match="at least two"):
        contract(program, DENSE_FROZEN, ROWS[:1], LABELS[:1])


def test_every_law_has_a_text_and_a_function():
    from reprojax.testing.case import LAWS

    assert sorted(LAWS) == list(range(1, 14))
    documented = " ".join(f.__doc__ or "" for f in vars(laws).values() if callable(f))
    assert all(f"Law {number}" in documented for number in LAWS)
    assert Case._fields[0] == "program"
