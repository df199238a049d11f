"""record, given, until, sites and informed, around forwards and programs alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import DENSE_FROZEN, IMAGES, ROWS, VIT, VIT_FROZEN, dense

from reprojax import given, informed, record, reprogram, sites, until
from reprojax.alignments import linear
from reprojax.formats import from_context, learnable
from reprojax.operators import add
from reprojax.testing import operations

KEY = jax.random.key(0)
soft = learnable(jax.nn.initializers.normal(1.0))
plain = jnp.tanh(ROWS @ DENSE_FROZEN["a"])


def made(at, forward=dense, frozen=DENSE_FROZEN, x=ROWS):
    program = reprogram(forward, at)
    return program, program.init(KEY, frozen, x)


# -- record


def test_record_gives_what_the_model_went_on_with():
    program, params = made({"hidden": add(soft), "output": linear(3)})
    wanted = ["hidden", "hidden/raw", "output", "output/raw"]
    y, seen = record(program.apply, wanted)(params, DENSE_FROZEN, ROWS)
    assert set(seen) == set(wanted)
    np.testing.assert_allclose(seen["hidden/raw"], plain, rtol=1e-6)
    np.testing.assert_allclose(
        seen["hidden"] - seen["hidden/raw"], [params.learnable["hidden"]] * 4, rtol=1e-4
    )
    np.testing.assert_allclose(seen["hidden"] @ DENSE_FROZEN["b"], seen["output/raw"])
    np.testing.assert_array_equal(seen["output"], y)


def test_record_of_a_forward_under_jit_grad_and_vmap():
    def hidden(x):
        return record(dense, ["hidden"])(DENSE_FROZEN, x)[1]["hidden"]

    np.testing.assert_allclose(jax.jit(hidden)(ROWS), plain, rtol=1e-5)
    each = jax.vmap(lambda x: hidden(x[None])[0])(ROWS)
    np.testing.assert_allclose(each, plain, rtol=1e-5)
    slope = jax.grad(lambda x: hidden(x).sum())(ROWS)
    expected = (1 - plain**2) @ DENSE_FROZEN["a"].T
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)
    inside = jax.checkpoint(lambda x: hidden(x).sum())
    np.testing.assert_allclose(jax.grad(inside)(ROWS), slope, rtol=1e-5)


def test_record_also_takes_sites_by_a_rule():
    _, seen = record(dense, [], also=lambda site: site != "output")(DENSE_FROZEN, ROWS)
    assert list(seen) == ["input", "hidden"]


def test_record_hands_edits_on():
    double = lambda site, value: 2 * value if site == "hidden" else value
    y, seen = record(dense, ["hidden"])(DENSE_FROZEN, ROWS, edit=double)
    np.testing.assert_allclose(seen["hidden"], 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(y, 2 * plain @ DENSE_FROZEN["b"], rtol=1e-5)


def test_record_refuses_a_site_that_never_comes():
    with pytest.raises(
        ValueError, match="no such site: .'hidde'.*did you mean 'hidden'"
    ):
        record(dense, ["hidde"])(DENSE_FROZEN, ROWS)


def test_record_refuses_a_value_that_cannot_leave():
    def scanned(frozen, x, edit):
        step = lambda carry, _: (edit("inner", carry), None)
        return edit("output", jax.lax.scan(step, edit("input", x), length=2)[0])

    with pytest.raises(ValueError, match="'inner' lies inside remat, scan or vmap"):
        record(scanned, ["inner"])((), ROWS)
    _, seen = record(scanned, ["output"])((), ROWS)
    assert set(seen) == {"output"}


# -- given


def test_given_replaces_a_value():
    value = jnp.ones((4, 7))
    found = given(dense, {"hidden": value})(DENSE_FROZEN, ROWS)
    np.testing.assert_allclose(found, value @ DENSE_FROZEN["b"], rtol=1e-6)


def test_given_drops_the_work_below():
    """A head on cached source logits: the model is not run, and nothing is retraced."""
    program, params = made({"output": linear(3)}, VIT, VIT_FROZEN, IMAGES)
    y, seen = record(program.apply, ["output/raw"])(params, VIT_FROZEN, IMAGES)

    def cached(params, frozen, x, logits):
        return given(program.apply, {"output/raw": logits})(params, frozen, x)

    args = (params, VIT_FROZEN, IMAGES)
    found = jax.jit(cached)(*args, seen["output/raw"])
    np.testing.assert_allclose(found, y, rtol=1e-4, atol=1e-5)
    below = operations(cached, *args, seen["output/raw"])
    assert below < operations(program.apply, *args) / 100


def test_given_refuses_a_site_that_never_comes():
    """A misspelt cache would be recomputed in silence."""
    program, params = made({"output": linear(3)})
    run = given(program.apply, {"output/rwa": jnp.ones((4, 5))})
    with pytest.raises(ValueError, match="no such site: .'output/rwa'.*'output/raw'"):
        run(params, DENSE_FROZEN, ROWS)


def test_given_and_record_together():
    value = jnp.ones((4, 7))
    run = record(given(dense, {"hidden": value}), ["output"])
    y, seen = run(DENSE_FROZEN, ROWS)
    np.testing.assert_array_equal(seen["output"], y)


# -- until


def test_until_is_the_model_cut_there():
    cut = until(VIT, "head:in")
    _, seen = record(VIT, ["head:in"])(VIT_FROZEN, IMAGES)
    np.testing.assert_allclose(cut(VIT_FROZEN, IMAGES), seen["head:in"], rtol=1e-6)
    early = until(VIT, "block_0:in")
    assert (
        operations(early, VIT_FROZEN, IMAGES) < operations(VIT, VIT_FROZEN, IMAGES) / 3
    )


def test_until_is_a_forward_with_its_own_output():
    program, params = made(
        {"input": add(soft), "output": linear(2)}, until(dense, "hidden")
    )
    found = program.apply(params, DENSE_FROZEN, ROWS)
    hidden = jnp.tanh((ROWS + params.learnable["input"]) @ DENSE_FROZEN["a"])
    head = params.learnable["output"]
    np.testing.assert_allclose(found, hidden @ head["kernel"] + head["bias"], rtol=1e-4)
    listed = list(sites(until(dense, "hidden"), DENSE_FROZEN, ROWS))
    assert listed == ["input", "hidden", "output"]


def test_until_a_site_of_a_program():
    program, params = made({"hidden": add(soft)})
    cut = until(functools.partial(program.apply, params), "hidden/raw")
    np.testing.assert_allclose(cut(DENSE_FROZEN, ROWS), plain, rtol=1e-6)


def test_until_nowhere_is_refused():
    with pytest.raises(ValueError, match="no such site"):
        until(dense, "nowhere")(DENSE_FROZEN, ROWS)


# -- sites


def test_sites_of_a_program_have_raw_ones_more():
    program, params = made({"hidden": add(soft), "output": linear(3)})
    bare = sites(dense, DENSE_FROZEN, ROWS)
    assert bare == {"input": (4, 6), "hidden": (4, 7), "output": (4, 5)}
    own = sites(functools.partial(program.apply, params), DENSE_FROZEN, ROWS)
    assert set(own) - set(bare) == {"hidden/raw", "output/raw"}
    assert own["output"] == (4, 3)


def test_sites_runs_nothing():
    def forward(frozen, x, edit):
        return edit("output", jax.numpy.zeros((10**6, 10**6)) @ edit("input", x))

    listed = sites(forward, (), jax.ShapeDtypeStruct((10**6, 2), jnp.float32))
    assert listed["output"] == (10**6, 2)


# -- informed


def test_informed_computes_the_context_from_the_model():
    look = lambda frozen, x: jnp.tanh(x @ frozen["a"])
    inner = reprogram(dense, {"hidden": add(from_context())})
    program = informed(inner, look)
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    found = jax.jit(program.apply)(params, DENSE_FROZEN, ROWS)
    np.testing.assert_allclose(
        found, 2 * plain @ DENSE_FROZEN["b"], rtol=1e-4, atol=1e-5
    )
    other = program.apply(params, DENSE_FROZEN, ROWS, jnp.zeros((4, 7)))
    np.testing.assert_allclose(other, dense(DENSE_FROZEN, ROWS), rtol=1e-5, atol=1e-6)
    assert program.at == inner.at
    with pytest.raises(ValueError, match="from_context got no context"):
        inner.init(KEY, DENSE_FROZEN, ROWS)
