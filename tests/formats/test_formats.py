"""Where a prompt's numbers come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn.initializers import normal, zeros
from toys import DENSE_FROZEN, ROWS, dense

from reprojax import Format, Params, Scope, reprogram, stateless
from reprojax.core import Tokens, tokens
from reprojax.formats import (
    border,
    fixed,
    from_context,
    learnable,
    of_each,
    subspace,
    through,
)
from reprojax.operators import add, dropout, frame, insert, mlp

KEY = jax.random.key(0)
soft = learnable(normal(1.0))


EVALUATION = Scope()


def prompt(fmt, shape, scope=EVALUATION, value=None):
    """The params of a format, and the prompt that it reads from them."""
    params = fmt.init(KEY, shape, scope)
    return params, fmt.read(params, value, scope)


# -- learnable and fixed


def test_a_learnable_prompt_is_drawn_as_told():
    params, read = prompt(learnable(normal(0.02)), (2000, 3))
    assert params.fixed == () and read is params.learnable
    assert read.dtype == jnp.float32 and read.shape == (2000, 3)
    np.testing.assert_allclose(read.std(), 0.02, rtol=0.05)
    np.testing.assert_array_equal(prompt(learnable(zeros), (3,))[1], 0.0)


def test_a_learnable_prompt_may_start_anywhere():
    start = np.arange(6.0).reshape(2, 3)
    params, read = prompt(learnable(start), (2, 3))
    np.testing.assert_array_equal(read, start)
    assert isinstance(params.learnable, jax.Array)


def test_a_fixed_prompt_is_not_learned():
    params, read = prompt(fixed(np.array([7, 8, 9])), (3,))
    assert params.learnable == () and read is params.fixed
    np.testing.assert_array_equal(read, [7, 8, 9])


@pytest.mark.parametrize("kind", [learnable, fixed])
def test_a_first_value_of_another_shape_is_refused(kind):
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(3, 2\)"):
        kind(jnp.ones((2, 3))).init(KEY, (3, 2), Scope())


def test_a_fixed_prompt_of_tokens():
    given = tokens(jnp.array([[7, 8, 9]]), jnp.array([[1, 1, 0]]))
    _, read = prompt(fixed(given), (3,))
    assert isinstance(read, Tokens)
    np.testing.assert_array_equal(read.weight, [[1, 1, 0]])


def test_a_fixed_prompt_is_no_text_in_the_program():
    """In a closure it would be: sizes are those of the compiled program's source."""
    big = jnp.asarray(np.random.default_rng(0).normal(size=(200, 7)), jnp.float32)
    rows = jnp.ones((200, 6))
    kept = reprogram(dense, {"hidden": add(fixed(big[0]))})

    def length(at, x):
        program = reprogram(dense, at)
        params = program.init(KEY, DENSE_FROZEN, x)
        return len(jax.jit(program.apply).lower(params, DENSE_FROZEN, x).as_text())

    inside = length({"hidden": stateless(lambda v: v + big)}, rows)
    beside = length({"hidden": add(fixed(big[0]))}, rows)
    assert beside < inside / 3
    assert kept.init(KEY, DENSE_FROZEN, rows).fixed["hidden"].shape == (7,)


# -- from the context


def test_a_prompt_from_the_context():
    fmt = from_context(lambda context: context["prompt"])
    scope = Scope(context={"prompt": jnp.arange(3.0)})
    params, read = prompt(fmt, (3,), scope)
    assert params == Params()
    np.testing.assert_array_equal(read, [0, 1, 2])
    with pytest.raises(ValueError, match="from_context got no context"):
        fmt.read(params, None, Scope())


def test_a_prompt_for_each_row_of_the_batch():
    program = reprogram(dense, {"hidden": add(from_context())})
    each = jnp.arange(28.0).reshape(4, 7)
    params = program.init(KEY, DENSE_FROZEN, ROWS, each)
    found = program.apply(params, DENSE_FROZEN, ROWS, each)
    expected = (jnp.tanh(ROWS @ DENSE_FROZEN["a"]) + each) @ DENSE_FROZEN["b"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# -- subspace


def test_a_subspace_is_base_plus_z_times_a():
    fmt = subspace(3, soft)
    params = fmt.init(KEY, (4, 5), Scope())
    z, base, a = params.learnable, params.fixed["base"], params.fixed["matrix"]
    assert (z.shape, base.shape, a.shape) == ((3,), (4, 5), (3, 4, 5))
    np.testing.assert_array_equal(fmt.read(params, None, Scope()), base)
    moved = fmt.read(
        params._replace(learnable=jnp.array([1.0, -2.0, 0.5])), None, Scope()
    )
    expected = base + 1.0 * a[0] - 2.0 * a[1] + 0.5 * a[2]
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-6)


def test_a_subspace_has_the_promised_scale():
    a = (
        subspace(50, learnable(zeros), scale=3.0)
        .init(KEY, (400,), Scope())
        .fixed["matrix"]
    )
    np.testing.assert_allclose(a.std(), 3 / 50**0.5, rtol=0.03)


def test_subspaces_share_one_projection_over_programs():
    """K programs of one projection: fixed is not mapped, and is not copied K times."""
    program = reprogram(dense, {"hidden": add(subspace(2, soft))})
    one = program.init(KEY, DENSE_FROZEN, ROWS)
    many = Params({"hidden": jnp.eye(3, 2)}, one.fixed)
    found = jax.vmap(program.apply, (Params(0, None), None, None))(
        many, DENSE_FROZEN, ROWS
    )
    for i in range(3):
        own = Params({"hidden": jnp.eye(3, 2)[i]}, one.fixed)
        expected = program.apply(own, DENSE_FROZEN, ROWS)
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-6)


# -- through


def test_a_sigmoid_border_starts_at_grey():
    _, read = prompt(through(learnable(zeros), stateless(jax.nn.sigmoid)), (2, 2, 3))
    np.testing.assert_array_equal(read, 0.5)


def test_a_prompt_through_an_mlp():
    fmt = through(soft, mlp(4))
    params, read = prompt(fmt, (2, 5))
    own = params.learnable
    inner = jnp.tanh(own["prompt"] @ own["edit"]["down"])
    np.testing.assert_allclose(read, inner @ own["edit"]["up"], rtol=1e-5, atol=1e-6)
    slope = jax.grad(
        lambda own: fmt.read(params._replace(learnable=own), None, Scope()).sum()
    )(own)
    assert all(np.abs(a).sum() > 0 for a in jax.tree.leaves(slope))


def test_a_prompt_through_dropout():
    fmt = through(learnable(jnp.ones(1000)), dropout(0.25))
    params = fmt.init(KEY, (1000,), Scope())
    np.testing.assert_array_equal(fmt.read(params, None, Scope()), 1.0)
    read = fmt.read(params, None, Scope(key=KEY))
    np.testing.assert_allclose((read == 0).mean(), 0.25, atol=0.05)
    np.testing.assert_allclose(read[read != 0], 4 / 3, rtol=1e-6)


def test_another_key_is_another_mask():
    fmt = through(learnable(jnp.ones(6)), dropout(0.5))
    scopes = [Scope(key=key) for key in jax.random.split(KEY)]
    params = fmt.init(KEY, (6,), Scope())
    one, two = (fmt.read(params, None, scope) for scope in scopes)
    assert not np.array_equal(one, two)


# -- border


def test_a_border_holds_its_strips_alone():
    """Bahng et al. (arXiv 2203.17274): 30 of 224 x 224 x 3 are 69,840 numbers."""
    params = border(soft, 30).init(KEY, (224, 224, 3), Scope())
    assert sum(a.size for a in jax.tree.leaves(params.learnable)) == 69_840


def test_a_border_is_a_frame_of_the_same_numbers():
    params, read = prompt(border(soft, 2), (9, 7, 3))
    inside = ~frame(2)((1, 9, 7, 3))[0]
    np.testing.assert_array_equal(read[np.asarray(inside)], 0)
    strips = [a.ravel() for a in jax.tree.leaves(params.learnable)]
    kept = np.asarray(read)[~np.asarray(inside)]
    np.testing.assert_array_equal(np.sort(kept), np.sort(np.concatenate(strips)))
    np.testing.assert_array_equal(read[:2], params.learnable["top"])
    np.testing.assert_array_equal(read[-2:], params.learnable["bottom"])
    np.testing.assert_array_equal(read[2:-2, :2], params.learnable["left"])
    np.testing.assert_array_equal(read[2:-2, -2:], params.learnable["right"])


@pytest.mark.parametrize("width", [0, 4, 9])
def test_a_border_without_an_inside_is_refused(width):
    with pytest.raises(ValueError, match="expected 1 to 3"):
        border(soft, width).init(KEY, (9, 7, 3), Scope())


# -- of each


def test_a_prompt_for_each_part_of_the_rows():
    params, read = prompt(of_each(soft, 3), (2, 5), value=jnp.zeros((6, 4, 5)))
    assert params.learnable.shape == (3, 2, 5) and read.shape == (6, 2, 5)
    np.testing.assert_array_equal(read, params.learnable[jnp.array([0, 0, 1, 1, 2, 2])])
    assert len(np.unique(np.asarray(params.learnable))) == 30
    words = tokens(jnp.zeros((3, 4), jnp.int32))
    np.testing.assert_array_equal(
        of_each(soft, 3).read(params, words, EVALUATION), params.learnable
    )
    with pytest.raises(ValueError, match="got 4 rows for 3 prompts"):
        of_each(soft, 3).read(params, jnp.zeros((4, 4, 5)), EVALUATION)


def test_each_of_several_prompts_is_read_by_its_own_params_and_key():
    drop = of_each(through(of_rank_one(), dropout(0.5)), 2)
    value = jnp.zeros((2, 4, 5))
    params, still = prompt(drop, (3, 5), value=value)
    for row, k in zip(still, range(2), strict=True):
        own = [a[k] for a in params.learnable["prompt"]]
        np.testing.assert_allclose(row, jnp.outer(*own), rtol=1e-6)
    moved = drop.read(params, value, Scope(key=KEY))
    off = np.asarray(moved) == 0
    assert 0 < off.mean() < 1 and (off[0] != off[1]).any()


# -- a user's own


def of_rank_one():
    """Rank-one prompts: a column times a row."""

    def init(key, shape, scope):
        keys = jax.random.split(key)
        return Params(
            [jax.random.normal(k, (n,)) for k, n in zip(keys, shape, strict=True)]
        )

    def read(params, value, scope):
        return jnp.outer(*params.learnable)

    return Format(init, read)


def test_a_format_of_ones_own():
    m = insert(of_rank_one(), 3)
    value = jnp.zeros((2, 4, 5))
    params = m.init(KEY, value, Scope())
    out = m.apply(params, value, Scope())
    assert out.shape == (2, 7, 5)
    assert np.linalg.matrix_rank(out[0, :3]) == 1
