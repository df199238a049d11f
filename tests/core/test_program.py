"""reprogram, chain and shared: order, nesting, params by name, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toys import DENSE_FROZEN, IMAGES, LABELS, MIXER_FROZEN, ROWS, dense, mixer

from reprojax import (
    Manipulation,
    Params,
    Scope,
    chain,
    passthrough,
    record,
    reprogram,
    shared,
    stateless,
)
from reprojax.alignments import columns, linear, one_to_one
from reprojax.core import fold, inside, merge, part, sites
from reprojax.formats import learnable
from reprojax.operators import add, dropout, insert, resize

KEY = jax.random.key(0)
soft = learnable(jax.nn.initializers.normal(1.0))


def events(apply, *args, **kw):
    """The names that edit is called with, in order."""
    seen = []
    apply(*args, edit=lambda site, value: (seen.append(site), value)[1], **kw)
    return seen


def times(factor):
    return stateless(lambda value: factor * value)


# -- the formula


def test_a_program_is_the_formula():
    """y = O(f(I(x))), written out for a model whose middle is known."""
    at = {"input": add(soft), "hidden": add(soft), "output": linear(3)}
    program = reprogram(dense, at)
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    own = params.learnable
    hidden = jnp.tanh((ROWS + own["input"]) @ DENSE_FROZEN["a"]) + own["hidden"]
    head = own["output"]
    expected = hidden @ DENSE_FROZEN["b"] @ head["kernel"] + head["bias"]
    found = program.apply(params, DENSE_FROZEN, ROWS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert isinstance(params, Params)
    assert set(own) == set(params.fixed) == {"input", "hidden", "output"}


def test_a_program_without_manipulations_is_the_model():
    program = reprogram(dense, {})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    assert not jax.tree.leaves(params)
    found = program.apply(params, DENSE_FROZEN, ROWS)
    np.testing.assert_array_equal(found, dense(DENSE_FROZEN, ROWS))


def test_shapes_come_from_tracing_the_model():
    """The second prompt is as long as the first has made the sequence."""
    at = {"block_0:in": insert(soft, 3), "block_1:in": add(soft)}
    params = reprogram(mixer, at).init(KEY, MIXER_FROZEN, IMAGES)
    assert params.learnable["block_0:in"].shape == (3, 12)
    assert params.learnable["block_1:in"].shape == (3 + 4, 12)


def test_init_needs_shapes_alone():
    at = {"input": chain(size=resize(16), mark=add(soft)), "output": linear(3)}
    program = reprogram(mixer, at)
    x = jnp.zeros((2, 8, 8, 1), jnp.uint8)
    spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
    made = program.init(KEY, MIXER_FROZEN, x)
    jax.tree.map(
        np.testing.assert_array_equal, made, program.init(KEY, MIXER_FROZEN, spec)
    )
    abstract = jax.eval_shape(program.init, KEY, MIXER_FROZEN, x)
    same = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), made, abstract
    )
    assert all(jax.tree.leaves(same))


# -- order


def test_the_order_of_events():
    """One event a site; before it a raw one where a manipulation stands."""
    bare = ["input", "hidden", "output"]
    assert events(dense, DENSE_FROZEN, ROWS) == bare
    inner = reprogram(dense, {"hidden": times(2), "output": times(3)})
    params = inner.init(KEY, DENSE_FROZEN, ROWS)
    assert events(inner.apply, params, DENSE_FROZEN, ROWS) == [
        "input",
        "hidden/raw",
        "hidden",
        "output/raw",
        "output",
    ]
    forward = functools.partial(inner.apply, params)
    outer = reprogram(forward, {"output": times(5)})
    own = outer.init(KEY, DENSE_FROZEN, ROWS)
    names = events(outer.apply, own, DENSE_FROZEN, ROWS)
    assert [name for name in names if not name.endswith("/raw")] == bare
    assert names[-3:] == ["output/raw", "output/raw", "output"]


def test_the_program_nearest_to_the_model_acts_first():
    """Alignments compose as functions do; the last raw is what the outer was given."""
    inner = reprogram(dense, {"hidden": times(2), "output": stateless(lambda y: y + 1)})
    forward = functools.partial(inner.apply, inner.init(KEY, DENSE_FROZEN, ROWS))
    outer = reprogram(
        forward, {"hidden": stateless(lambda h: h + 1), "output": times(5)}
    )
    params = outer.init(KEY, DENSE_FROZEN, ROWS)
    y, seen = record(outer.apply, ["hidden", "output", "output/raw"])(
        params, DENSE_FROZEN, ROWS
    )
    plain = jnp.tanh(ROWS @ DENSE_FROZEN["a"])
    np.testing.assert_allclose(seen["hidden"], 2 * plain + 1, rtol=1e-6)
    logits = (2 * plain + 1) @ DENSE_FROZEN["b"] + 1
    np.testing.assert_allclose(seen["output/raw"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen["output"], y)
    np.testing.assert_allclose(y, 5 * logits, rtol=1e-5, atol=1e-6)


def test_before_an_inner_program_stands_the_raw_site():
    """A resize of x for a program that edits "input": at "input" it comes too late."""
    inner = reprogram(mixer, {"input": add(soft)})
    params = inner.init(KEY, MIXER_FROZEN, IMAGES)
    forward = functools.partial(inner.apply, params)
    small = IMAGES[:, :8, :8]
    outer = reprogram(forward, {"input/raw": resize(16)})
    own = outer.init(KEY, MIXER_FROZEN, small)
    resized = resize(16).apply(Params(), small, Scope())
    np.testing.assert_allclose(
        outer.apply(own, MIXER_FROZEN, small),
        inner.apply(params, MIXER_FROZEN, resized),
        rtol=1e-5,
    )
    late = reprogram(forward, {"input": resize(16)})
    with pytest.raises((TypeError, ValueError), match="shape"):
        late.init(KEY, MIXER_FROZEN, small)
    alone = reprogram(mixer, {"input/raw": resize(16)})
    with pytest.raises(ValueError, match="no such site: .'input/raw'."):
        alone.init(KEY, MIXER_FROZEN, IMAGES)


# -- params and keys by name


def test_adding_a_site_leaves_the_numbers_of_the_others_alone():
    one = reprogram(dense, {"hidden": add(soft)})
    two = reprogram(
        dense, {"input": add(soft), "hidden": add(soft), "output": linear(3)}
    )
    first, second = (p.init(KEY, DENSE_FROZEN, ROWS).learnable for p in (one, two))
    np.testing.assert_array_equal(first["hidden"], second["hidden"])
    assert not np.allclose(second["input"], second["hidden"][:6])


def test_adding_a_part_leaves_the_numbers_of_the_others_alone():
    one = chain(a=add(soft))
    two = chain(b=add(soft), a=add(soft))
    first, second = (m.init(KEY, ROWS, Scope()).learnable for m in (one, two))
    np.testing.assert_array_equal(first["a"], second["a"])
    assert not np.allclose(second["a"], second["b"])


def test_each_site_has_its_own_randomness():
    at = {"input": dropout(0.5), "hidden": dropout(0.5)}
    ones = lambda frozen, x, edit: edit("output", edit("hidden", edit("input", x)))
    program = reprogram(ones, at)
    params = program.init(KEY, (), jnp.ones((4, 50)))
    look = record(program.apply, ["input", "hidden"])
    _, seen = look(params, (), jnp.ones((4, 50)), key=jax.random.key(1))
    kept = seen["input"] > 0
    both = seen["hidden"][kept] > 0
    assert 0 < both.mean() < 1, "the second site dropped exactly what the first did"
    again = look(params, (), jnp.ones((4, 50)), key=jax.random.key(1))[0]
    other = look(params, (), jnp.ones((4, 50)), key=jax.random.key(2))[0]
    np.testing.assert_array_equal(again, seen["hidden"])
    assert not np.array_equal(other, seen["hidden"])
    np.testing.assert_array_equal(look(params, (), jnp.ones((4, 50)))[0], 1.0)


def test_keys_by_name():
    keys = {name: jax.random.key_data(fold(KEY, name)).tolist() for name in "abc"}
    assert len({tuple(key) for key in keys.values()}) == 3
    assert fold(None, "a") is None


def test_merge_and_part_are_inverse():
    parts = {"a": Params(1, 2), "b": Params((), {"c": 3})}
    merged = merge(parts)
    assert merged == Params({"a": 1, "b": ()}, {"a": 2, "b": {"c": 3}})
    assert {name: part(merged, name) for name in parts} == parts


# -- scope


def test_what_a_part_sees():
    """The site, its index, the frozen tree, the input before any edit, the context."""
    seen = {}

    def apply(params, value, scope):
        seen[scope.site] = scope
        return value

    look = Manipulation(lambda key, specs, scope: Params(), apply)
    at = {"input": times(2), ("hidden", "output"): look}
    program = reprogram(dense, at)
    params = program.init(KEY, DENSE_FROZEN, ROWS, LABELS)
    seen.clear()
    program.apply(params, DENSE_FROZEN, ROWS, LABELS)
    assert list(seen) == ["hidden", "output"]
    assert [scope.index for scope in seen.values()] == [0, 1]
    for scope in seen.values():
        assert scope.frozen is DENSE_FROZEN and scope.context is LABELS
        assert scope.x is ROWS and scope.key is None


def test_taps_have_the_names_of_the_parts_around_them():
    def apply(params, value, scope):
        return scope.tap("middle", value) + 1

    tapped = Manipulation(lambda key, spec, scope: Params(), apply)
    program = reprogram(dense, {"hidden": chain(outer=chain(inner=tapped))})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    names = events(program.apply, params, DENSE_FROZEN, ROWS)
    assert "hidden/outer/inner/middle" in names
    scope = inside(Scope(), "a")
    assert scope.tap("b", 1) == 1


# -- groups


def test_a_group_shares_one_manipulation_and_its_params():
    group = ("block_0:in", "block_1:in")
    program = reprogram(mixer, {group: shared(add(soft))})
    params = program.init(KEY, MIXER_FROZEN, IMAGES)
    assert set(params.learnable) == {"block_0:in"}
    _, seen = record(program.apply, [f"{s}{e}" for s in group for e in ("", "/raw")])(
        params, MIXER_FROZEN, IMAGES
    )
    for site in group:
        moved = seen[site] - seen[f"{site}/raw"]
        expected = jnp.broadcast_to(params.learnable["block_0:in"], moved.shape)
        np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_a_group_sees_the_specs_of_all_its_sites():
    def init(key, specs, scope):
        return Params({site: jnp.zeros(spec.shape[1:]) for site, spec in specs.items()})

    each = Manipulation(init, lambda p, v, scope: v + p.learnable[scope.site])
    program = reprogram(dense, {("input", "hidden", "output"): each})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    assert jax.tree.map(jnp.shape, params.learnable["input"]) == {
        "input": (6,),
        "hidden": (7,),
        "output": (5,),
    }
    np.testing.assert_array_equal(
        program.apply(params, DENSE_FROZEN, ROWS), dense(DENSE_FROZEN, ROWS)
    )


def test_a_group_is_specified_as_the_input_edit_leaves_the_model():
    """Its later sites are seen before its own inserts, but behind the input's edit."""
    at = {
        "input": chain(size=resize(16)),
        ("block_0:in", "block_1:in"): shared(insert(soft, 2)),
    }
    small = jnp.zeros((2, 8, 8, 3), jnp.uint8)
    program = reprogram(mixer, at)
    params = program.init(KEY, MIXER_FROZEN, small)
    assert params.learnable["block_0:in"].shape == (2, 12)
    listed = sites(functools.partial(program.apply, params), MIXER_FROZEN, small)
    assert listed["block_1:in"] == (2, 4 + 2 + 2, 12)


# -- chain


def test_a_chain_is_one_manipulation_after_the_other():
    both = chain(a=add(soft), b=times(3), c=add(soft))
    params = both.init(KEY, ROWS, Scope())
    found = both.apply(params, ROWS, Scope())
    own = params.learnable
    np.testing.assert_allclose(found, 3 * (ROWS + own["a"]) + own["c"], rtol=1e-6)
    assert both.observe is None and both.refresh is None


def test_a_chain_specifies_each_part_behind_the_last():
    both = chain(grow=insert(soft, 2), mark=add(soft))
    params = both.init(KEY, jnp.zeros((4, 3, 5)), Scope())
    assert params.learnable["mark"].shape == (5, 5)


def test_a_part_of_a_chain_may_read_the_input_where_only_its_shape_is_known():
    reads = Manipulation(
        lambda key, v, scope: Params(jnp.zeros(v.shape[-1])),
        lambda params, v, scope: v + scope.x[:, :1] + scope.context,
    )
    m = chain(first=reads, second=reads)
    x = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    params = m.init(jax.random.key(0), x, Scope(x=x, context=x))
    assert params.learnable["second"].shape == (3,)


def test_a_chain_observes_and_refreshes_its_parts():
    """The map sees what comes out of the parts before it."""
    both = chain(turn=columns([4, 3, 2, 1, 0]), map=one_to_one(3), scale=times(2))
    y, labels = jnp.eye(5)[jnp.array([0, 1, 1, 3])], jnp.array([0, 1, 1, 2])
    params = both.init(KEY, y, Scope())
    sums = both.observe(params, y, labels)
    assert set(sums) == {"map"}
    expected = np.zeros((5, 3))
    for answer, label in ((4, 0), (3, 1), (3, 1), (1, 2)):
        expected[answer, label] += 1
    np.testing.assert_array_equal(sums["map"], expected)
    new = both.refresh(params, sums)
    assert jax.tree.structure(new) == jax.tree.structure(params)
    np.testing.assert_array_equal(both.apply(new, y, Scope()).argmax(1), labels)


# -- transformations


def test_programs_compose_with_the_transformations_of_jax():
    program = reprogram(dense, {"hidden": add(soft), "output": linear(3)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    plain = program.apply(params, DENSE_FROZEN, ROWS)
    jitted = jax.jit(program.apply)(params, DENSE_FROZEN, ROWS)
    np.testing.assert_allclose(jitted, plain, rtol=1e-5, atol=1e-6)
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(program.init, (0, None, None))(keys, DENSE_FROZEN, ROWS)
    together = jax.vmap(program.apply, (0, None, None))(many, DENSE_FROZEN, ROWS)
    for i in range(3):
        alone = jax.tree.map(lambda a, i=i: a[i], many)
        expected = program.apply(alone, DENSE_FROZEN, ROWS)
        np.testing.assert_allclose(together[i], expected, rtol=1e-5, atol=1e-6)
    rows = jax.vmap(lambda x: program.apply(params, DENSE_FROZEN, x[None])[0])(ROWS)
    np.testing.assert_allclose(rows, plain, rtol=1e-5, atol=1e-6)


def test_a_program_is_a_static_argument_of_jit():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def answer(program, params, x):
        traces.append(1)
        return program.apply(params, DENSE_FROZEN, x)

    program = reprogram(dense, {"hidden": add(soft)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    answer(program, params, ROWS)
    answer(program, params, ROWS + 1)
    assert len(traces) == 1


def test_only_learnable_params_have_a_gradient():
    program = reprogram(dense, {"hidden": add(soft), "output": one_to_one(3)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)

    def cost(learnable):
        return program.apply(
            params._replace(learnable=learnable), DENSE_FROZEN, ROWS
        ).sum()

    slope = jax.grad(cost)(params.learnable)
    maps = params.fixed["output"]
    expected = jnp.broadcast_to((DENSE_FROZEN["b"] @ maps).sum(1) * len(ROWS), (7,))
    np.testing.assert_allclose(slope["hidden"], expected, rtol=1e-5)
    assert slope["output"] == ()


# -- what is refused


def test_a_wrong_site_is_named_with_its_neighbours():
    program = reprogram(dense, {"hiden": add(soft)})
    with pytest.raises(ValueError) as caught:
        program.init(KEY, DENSE_FROZEN, ROWS)
    for piece in ("no such site: ['hiden']", "did you mean 'hidden'", "sites(forward"):
        assert piece in str(caught.value)
    group = reprogram(dense, {("hidden", "nowhere"): shared(add(soft))})
    with pytest.raises(ValueError, match="no such site: .'nowhere'."):
        group.init(KEY, DENSE_FROZEN, ROWS)


def test_a_site_twice_is_refused():
    with pytest.raises(ValueError, match="a site twice .* call chain"):
        reprogram(dense, {("input", "hidden"): shared(add(soft)), "hidden": add(soft)})


def test_what_is_no_manipulation_is_refused(unchecked):
    with pytest.raises(ValueError, match="got a Format .*Manipulation.*add"):
        reprogram(dense, {"hidden": soft})
    with pytest.raises(ValueError, match="got the function .*call stateless"):
        reprogram(dense, {"hidden": lambda value: value})


def test_a_group_without_shared_says_what_to_call():
    program = reprogram(dense, {("hidden", "input"): add(soft)})
    with pytest.raises(ValueError, match="of several sites.*call shared"):
        program.init(KEY, DENSE_FROZEN, ROWS)


# -- slips of a first day, each of which went on in silence or ended in JAX's own words


def test_a_manipulation_that_loses_rows_is_refused():
    for function in (
        lambda v: v.mean(0),
        lambda v: v.mean(0, keepdims=True),
        lambda v: v.sum(),
        lambda v: np.ones((3, 7), np.float32),
    ):
        program = reprogram(dense, {"hidden": stateless(function)})
        with pytest.raises(ValueError, match=r"'hidden' .* made .* out of .*a row"):
            program.init(KEY, DENSE_FROZEN, ROWS)


def test_params_of_another_program_are_refused(unchecked):
    program = reprogram(dense, {"hidden": add(soft)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    for other, told in (
        (reprogram(dense, {"input": add(soft)}).init(KEY, DENSE_FROZEN, ROWS), "input"),
        (Params(params.learnable | {"input": ROWS}, params.fixed), "input.*init"),
        (params.learnable, "got a dict .* for params.*not params.learnable"),
    ):
        with pytest.raises(ValueError, match=told):
            program.apply(other, DENSE_FROZEN, ROWS)
    rule = Params(params.learnable | {"output": ()}, params.fixed | {"output": ()})
    found = program.apply(rule, DENSE_FROZEN, ROWS)  # a rule has no numbers to lose
    np.testing.assert_array_equal(found, program.apply(params, DENSE_FROZEN, ROWS))


def test_what_stands_in_anothers_place_is_refused(unchecked):
    program = reprogram(dense, {"hidden": add(soft)})
    params = program.init(KEY, DENSE_FROZEN, ROWS)
    silent = lambda frozen, x, edit: (edit("output", edit("input", x)), None)[1]
    for run, told in (
        (lambda: program.apply(params, DENSE_FROZEN, ROWS, passthrough), "edit=..."),
        (lambda: program.init(0, DENSE_FROZEN, ROWS), "call jax.random.key.0."),
        (lambda: program.init(KEY, DENSE_FROZEN, ROWS[0]), "one example as x.None."),
        (lambda: reprogram(dense, {(): add(soft)}), "expected .site, or a tuple"),
        (lambda: reprogram(dense, [("hidden", add(soft))]), "expected .site, or"),
        (
            lambda: reprogram(silent, {}).init(KEY, (), ROWS),
            "the forward .* returned None",
        ),
        (lambda: record(dense, "hidden"), "got the text 'hidden', expected a list"),
    ):
        with pytest.raises(ValueError, match=told):
            run()
