"""A program under JAX's transformations, and in a program, equals its plain call."""

from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.nn.initializers import normal
from jax.test_util import check_grads

from reprojax import Params, record, reprogram
from reprojax.alignments import bayesian, bayesian_map, linear
from reprojax.core import chain
from reprojax.formats import learnable
from reprojax.locations import linen
from reprojax.operators import add, frame, insert

K, T = 4, 3
IMAGES, FROZEN = toys.IMAGES, toys.VIT_FROZEN
AT = {
    "input": add(learnable(normal(0.3)), mask=frame(3)),
    "block_1:in": insert(learnable(normal(0.5)), 2, at=1),
    "output": bayesian(T),
}
PROGRAM = reprogram(toys.VIT, AT)
COUNTS = jnp.asarray(np.random.default_rng(4).integers(0, 9, (10, T)), jnp.float32)


def begin(key: Any) -> Params:
    """Random prompts, and a map that is not neutral."""
    params = PROGRAM.init(key, FROZEN, IMAGES)
    return params._replace(fixed=params.fixed | {"output": bayesian_map(COUNTS)})


PARAMS = begin(jax.random.key(0))
MANY = jax.vmap(lambda key: begin(key).learnable)(
    jax.random.split(jax.random.key(1), K)
)
EACH = [jax.tree.map(lambda a, i=i: a[i], MANY) for i in range(K)]
PLAIN = PROGRAM.apply(PARAMS, FROZEN, IMAGES)


def cost(learnable: Any, apply: Any = PROGRAM.apply) -> jax.Array:
    y = apply(PARAMS._replace(learnable=learnable), FROZEN, IMAGES)
    return -jax.nn.log_softmax(y)[jnp.arange(4), toys.LABELS % T].mean()


SLOPE = jax.grad(cost)(PARAMS.learnable)


def near(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    chex.assert_trees_all_equal_structs(found, expected)
    chex.assert_trees_all_close(found, expected, rtol=tolerance, atol=tolerance)


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *a: jnp.stack(a), *trees)


def test_the_plain_call_is_the_formula():
    """By hand: what follows compares with a call that does what it should."""
    ring = np.ones((16, 16, 1), bool)
    ring[3:-3, 3:-3] = False
    x = IMAGES + ring * PARAMS.learnable["input"]

    def edit(site: str, value: Any) -> Any:
        if site != "block_1:in":
            return value
        prompt = jnp.repeat(PARAMS.learnable["block_1:in"][None], 4, 0)
        return jnp.concatenate([value[:, :1], prompt, value[:, 1:]], 1)

    table = COUNTS / (COUNTS.sum(1, keepdims=True) + 1)
    near(PLAIN, toys.VIT(FROZEN, x, edit=edit) @ (table / table.sum(0)))
    assert np.abs(PLAIN - toys.VIT(FROZEN, IMAGES)[:, :T]).min() > 1e-4


def test_jit():
    near(jax.jit(PROGRAM.apply)(PARAMS, FROZEN, IMAGES), PLAIN)


def test_a_program_is_a_static_argument():
    traces = []

    @partial(jax.jit, static_argnums=0)
    def run(program, params):
        traces.append(1)
        return program.apply(params, FROZEN, IMAGES)

    again = reprogram(toys.VIT, AT)
    near(run(PROGRAM, PARAMS), PLAIN)
    near(run(PROGRAM, Params(EACH[0], PARAMS.fixed)), call(EACH[0]))
    assert len(traces) == 1
    near(run(again, PARAMS), PLAIN)


def test_grad_equals_differences_and_jit_of_grad_equals_grad():
    plain = lambda numbers: cost(jax.tree.map(jnp.asarray, numbers))
    check_grads(
        plain, (PARAMS.learnable,), 1, modes=("rev", "fwd"), atol=0.01, rtol=0.01
    )
    near(jax.jit(jax.grad(cost))(PARAMS.learnable), SLOPE)
    assert min(float(jnp.abs(a).max()) for a in jax.tree.leaves(SLOPE)) > 1e-4


def test_forward_mode_equals_reverse_mode():
    along = jax.tree.map(jnp.cos, PARAMS.learnable)
    _, found = jax.jvp(cost, (PARAMS.learnable,), (along,))
    dots = jax.tree.map(lambda a, b: (a * b).sum(), SLOPE, along)
    near(found, sum(jax.tree.leaves(dots)))


def call(learnable: Any) -> jax.Array:
    return PROGRAM.apply(Params(learnable, PARAMS.fixed), FROZEN, IMAGES)


def test_vmap_over_programs_that_share_what_is_fixed():
    many = jax.vmap(PROGRAM.apply, (Params(0, None), None, None))
    found = many(Params(MANY, PARAMS.fixed), FROZEN, IMAGES)
    near(found, stacked([call(one) for one in EACH]))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_vmap_over_programs_and_over_their_maps():
    maps = jnp.stack([bayesian_map(COUNTS + i) for i in range(K)])
    axes = {"input": None, "block_1:in": None, "output": 0}
    many = jax.vmap(PROGRAM.apply, (Params(0, axes), None, None))
    fixed = [PARAMS.fixed | {"output": m} for m in maps]
    pairs = zip(EACH, fixed, strict=True)
    expected = [PROGRAM.apply(Params(*pair), FROZEN, IMAGES) for pair in pairs]
    both = Params(MANY, PARAMS.fixed | {"output": maps})
    near(many(both, FROZEN, IMAGES), stacked(expected))


def test_vmap_of_grad_equals_a_loop():
    found = jax.jit(jax.vmap(jax.value_and_grad(cost)))(MANY)
    near(found, stacked([jax.value_and_grad(cost)(one) for one in EACH]))


def test_vmap_of_init_equals_a_loop():
    keys = jax.random.split(jax.random.key(1), K)
    near(MANY, stacked([begin(key).learnable for key in keys]), 1e-7)


def test_checkpoint():
    apply = jax.checkpoint(PROGRAM.apply)
    near(apply(PARAMS, FROZEN, IMAGES), PLAIN)
    near(jax.grad(partial(cost, apply=apply))(PARAMS.learnable), SLOPE)


# The same frozen tree; each block is computed again for the gradient.
LEAN = linen(toys.ViT(block=nn.remat(toys.Block)))


def test_remat_of_the_model_with_the_same_weights():
    program = reprogram(LEAN, AT)
    chex.assert_trees_all_equal(
        program.init(jax.random.key(0), FROZEN, IMAGES),
        PROGRAM.init(jax.random.key(0), FROZEN, IMAGES),
    )
    near(program.apply(PARAMS, FROZEN, IMAGES), PLAIN)
    slope = jax.grad(partial(cost, apply=program.apply))
    near(jax.jit(slope)(PARAMS.learnable), SLOPE)
    text = str(jax.make_jaxpr(slope)(PARAMS.learnable))
    assert text.count("remat") >= 2
    assert "remat" not in str(jax.make_jaxpr(jax.grad(cost))(PARAMS.learnable))


def test_what_is_inside_remat_cannot_be_recorded_but_what_is_outside_can():
    program = reprogram(LEAN, AT)
    _, seen = record(program.apply, ["input", "output/raw"])(PARAMS, FROZEN, IMAGES)
    _, expected = record(PROGRAM.apply, ["input", "output/raw"])(PARAMS, FROZEN, IMAGES)
    near(seen, expected)
    with pytest.raises(ValueError, match="lies inside remat"):
        record(program.apply, ["block_1/q:out"])(PARAMS, FROZEN, IMAGES)


def test_all_at_once():
    lean = jax.checkpoint(reprogram(LEAN, AT).apply)
    found = jax.jit(jax.vmap(jax.grad(partial(cost, apply=lean))))(MANY)
    near(found, stacked([jax.grad(cost)(one) for one in EACH]))


def test_map_over_programs_and_over_microbatches():
    near(jax.lax.map(call, MANY), stacked([call(one) for one in EACH]))
    near(jax.lax.map(call, MANY, batch_size=3), stacked([call(one) for one in EACH]))
    pairs = IMAGES.reshape(2, 2, 16, 16, 3)
    found = jax.lax.map(lambda x: PROGRAM.apply(PARAMS, FROZEN, x), pairs)
    near(found.reshape(4, T), PLAIN)


def test_scan_of_steps_equals_a_loop():
    def step(learnable: Any, _: Any) -> tuple[Any, jax.Array]:
        value, slope = jax.value_and_grad(cost)(learnable)
        return jax.tree.map(lambda a, g: a - 0.1 * g, learnable, slope), value

    learnable, values = PARAMS.learnable, []
    for _ in range(3):
        learnable, value = step(learnable, None)
        values.append(value)
    found = jax.jit(lambda p: jax.lax.scan(step, p, length=3))(PARAMS.learnable)
    near(found, (learnable, jnp.stack(values)))


# -- a program in a program

OUTER_AT = {
    "input": add(learnable(normal(0.2))),
    "block_1:in": insert(learnable(normal(0.5)), 1, at=0),
    "output": linear(2),
}


def test_a_program_in_a_program_is_one_with_chains():
    """The one nearest to the model acts first."""
    outer = reprogram(partial(PROGRAM.apply, PARAMS), OUTER_AT)
    params = outer.init(jax.random.key(7), FROZEN, IMAGES)
    parts = {site: chain(inner=AT[site], outer=m) for site, m in OUTER_AT.items()}
    one = reprogram(toys.VIT, parts)
    both = Params(
        *(
            {s: {"inner": inner[s], "outer": outer[s]} for s in OUTER_AT}
            for inner, outer in zip(PARAMS, params, strict=True)
        )
    )
    y = outer.apply(params, FROZEN, IMAGES)
    assert y.shape == (4, 2)
    near(y, one.apply(both, FROZEN, IMAGES))
    assert params.learnable["output"]["kernel"].shape == (T, 2)
    assert params.learnable["block_1:in"].shape == (1, 16)


def test_a_program_in_a_program_under_jit_vmap_and_grad():
    outer = reprogram(partial(PROGRAM.apply, PARAMS), OUTER_AT)
    keys = jax.random.split(jax.random.key(2), K)
    each = [outer.init(key, FROZEN, IMAGES) for key in keys]

    def loss(params: Params) -> jax.Array:
        return jnp.square(outer.apply(params, FROZEN, IMAGES)).mean()

    found = jax.jit(jax.vmap(jax.value_and_grad(loss)))(stacked(each))
    near(found, stacked([jax.value_and_grad(loss)(params) for params in each]), 1e-4)


def test_the_inner_program_is_as_frozen_as_the_model():
    def loss(learnable: Any, inner: Params) -> jax.Array:
        outer = reprogram(partial(PROGRAM.apply, inner), OUTER_AT)
        return outer.apply(Params(learnable, params.fixed), FROZEN, IMAGES).sum()

    outer = reprogram(partial(PROGRAM.apply, PARAMS), OUTER_AT)
    params = outer.init(jax.random.key(7), FROZEN, IMAGES)
    slope = jax.grad(loss)(params.learnable, PARAMS)
    assert jax.tree.structure(slope) == jax.tree.structure(params.learnable)
    near(slope, jax.jit(jax.grad(loss))(params.learnable, PARAMS), 1e-4)
