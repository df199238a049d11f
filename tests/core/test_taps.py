"""record, given, until, sites and informed, around forwards and programs alike."""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from toys import (
    DECODER_FROZEN,
    DENSE_FROZEN,
    IDS,
    IMAGES,
    ROWS,
    VIT,
    VIT_FROZEN,
    decoder,
    dense,
)

from reprojax import (
    Manipulation,
    Params,
    chain,
    given,
    informed,
    record,
    reprogram,
    sites,
    stateless,
    until,
)
from reprojax.alignments import bayesian, linear
from reprojax.core import WHOLE, Tokens, tokens
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


def test_record_takes_all_taps_of_a_name():
    def show(value, scope):
        scope.tap("norm", value.sum())
        return value

    tapping = Manipulation(
        lambda key, spec, scope: Params(), lambda params, v, scope: show(v, scope)
    )
    program, params = made({"hidden": chain(own=tapping), "output": tapping})
    _, seen = record(program.apply, ["*/norm"])(params, DENSE_FROZEN, ROWS)
    assert set(seen) == {"hidden/own/norm", "output/norm"}
    np.testing.assert_allclose(seen["hidden/own/norm"], plain.sum(), rtol=1e-5)
    _, seen = record(program.apply, ["*/own/norm"])(params, DENSE_FROZEN, ROWS)
    assert set(seen) == {"hidden/own/norm"}
    with pytest.raises(ValueError, match=r"no such site: \['\*/nor'\].*norm"):
        record(program.apply, ["*/nor"])(params, DENSE_FROZEN, ROWS)
    for none in ("*/wn/norm", "*/output"):  # a part of a name; the site itself
        with pytest.raises(ValueError, match="no such site"):
            record(program.apply, [none])(params, DENSE_FROZEN, ROWS)


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


def test_given_refuses_what_the_model_would_not_have_there():
    """Broadcasting would answer for rows that were never given."""
    for wrong in (jnp.ones((1, 7)), jnp.ones(7), jnp.ones((4, 7), jnp.bfloat16), None):
        with pytest.raises(ValueError, match=r"for 'hidden', expected .*float32.4,7."):
            given(dense, {"hidden": wrong})(DENSE_FROZEN, ROWS)


def twofold(frozen, x, edit):
    """Comes to one site twice."""
    return edit("output", edit("hidden", jnp.tanh(edit("hidden", edit("input", x)))))


def test_a_site_that_comes_twice_is_refused():
    """One value would be recorded for both, and one prompt would act in both."""
    for run in (
        lambda: record(twofold, ["hidden"])((), ROWS),
        lambda: given(twofold, {"hidden": ROWS})((), ROWS),
        lambda: reprogram(twofold, {"hidden": add(soft)}).init(KEY, (), ROWS),
    ):
        with pytest.raises(ValueError, match="to 'hidden' twice.*hidden#2"):
            run()
    assert list(record(twofold, ["output"])((), ROWS)[1]) == ["output"]


def test_an_edit_that_returns_nothing_is_refused():
    forget = lambda site, value: None if site == "hidden" else value
    program, params = made({"hidden": add(soft)})
    for run in (
        lambda: program.apply(params, DENSE_FROZEN, ROWS, edit=forget),
        lambda: record(dense, ["output"])(DENSE_FROZEN, ROWS, edit=forget),
        lambda: made({"hidden": stateless(lambda value: None)}),
    ):
        with pytest.raises(ValueError, match="'hidden'.* returned None, expected"):
            run()
    forget = lambda site, value: None if site == "head:in" else value
    with pytest.raises(ValueError, match="'head:in' returned None"):
        VIT(VIT_FROZEN, IMAGES, forget)


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


@flax.struct.dataclass
class Output:
    """As the flax models of transformers 4: it looks into a first field of its own."""

    state: object = None
    hidden: object = None

    def __post_init__(self):
        if self.hidden is None and isinstance(self.state, tuple | list | dict):
            self.hidden = "given as pairs"


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array | None


def test_sites_of_values_with_classes_of_their_own():
    def forward(frozen, x, edit):
        x = edit("object", (Output(edit("input", x)), 1.0))[0].state
        x = edit("pair", Pair(x, None)).first
        x = edit("dictionary", {"a": [x, x]})["a"][0]
        return edit("output", edit("tokens", Tokens(x, x, x)).value)

    found = sites(forward, (), ROWS)
    assert found["object"] == ({".state": (4, 6)}, "float")
    assert found["pair"] == Pair((4, 6), None)
    assert found["dictionary"] == {"a": [(4, 6), (4, 6)]}
    assert found["tokens"].value == (4, 6) and found["tokens"].span == WHOLE
    assert found["output"] == (4, 6)


# -- what jit cannot take


def test_a_frozen_tree_of_other_things_than_arrays_is_refused_by_path():
    program = reprogram(dense, {"hidden": add(soft)})
    for wrong in (jnp.tanh, 12, True, "gelu", np.array("gelu"), object()):
        frozen = DENSE_FROZEN | {"layer": [None, {"act": wrong}]}
        for run in (
            lambda f: program.init(KEY, f, ROWS),
            lambda f: sites(dense, f, ROWS),
        ):
            with pytest.raises(ValueError, match=r"\['layer'\]\[1\]\['act'\].*arrays"):
                run(frozen)


def test_floats_integers_none_and_keys_in_a_frozen_tree():
    def forward(frozen, x, edit):
        x = edit("input", x) * frozen["scale"] + frozen["ids"][0]
        noise = jax.random.normal(frozen["key"], x.shape)
        return edit("output", x + noise)

    frozen = {"scale": 0.5, "ids": np.arange(3), "none": None, "key": KEY}
    program = reprogram(forward, {"input": add(soft)})
    params = program.init(KEY, frozen, ROWS)
    found = jax.jit(program.apply)(params, frozen, ROWS)
    moved = ROWS + params.learnable["input"]
    expected = moved * 0.5 + jax.random.normal(KEY, ROWS.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# -- export


@pytest.mark.parametrize("tokens_or_rows", ["rows", "tokens"])
def test_a_program_is_exported_to_the_same_bits(tokens_or_rows):
    forward, frozen, x = dense, DENSE_FROZEN, ROWS
    at = {"hidden": add(soft), "output": bayesian(3)}
    if tokens_or_rows == "tokens":
        forward, frozen, x = decoder, DECODER_FROZEN, tokens(IDS)
        at = {"embed:out": add(soft)}
    program, params = made(at, forward, frozen, x)
    apply = jax.jit(program.apply)
    raw = export.export(apply)(params, frozen, x).serialize()
    found = export.deserialize(raw).call(params, frozen, x)
    expected = apply(params, frozen, x)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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
    cached = given(program.apply, {"scope/context": jnp.zeros((4, 7))})
    other = cached(params, DENSE_FROZEN, ROWS)
    np.testing.assert_allclose(other, dense(DENSE_FROZEN, ROWS), rtol=1e-5, atol=1e-6)
    other = program.apply(params, DENSE_FROZEN, ROWS, jnp.zeros((4, 7)))
    np.testing.assert_allclose(other, dense(DENSE_FROZEN, ROWS), rtol=1e-5, atol=1e-6)
    assert program.at == inner.at
    with pytest.raises(ValueError, match="from_context got no context"):
        inner.init(KEY, DENSE_FROZEN, ROWS)
