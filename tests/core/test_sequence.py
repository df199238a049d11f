"""Tokens: the order is the position, never the index, so padding may be anywhere."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from toys import DECODER_FROZEN, decoder

from reprojax import Scope, Tokens, chain, record, reprogram
from reprojax.core import (
    HEAD,
    STEP,
    TAIL,
    WHOLE,
    bare,
    last_position,
    last_value,
    on_value,
    sequence,
    tokens,
)
from reprojax.formats import fixed, from_context, learnable
from reprojax.operators import add, insert, replace, scale_and_shift

KEY = jax.random.key(0)
soft = learnable(jax.nn.initializers.normal(1.0))
QUERIES = [[3, 1, 4, 1, 5, 9], [2, 6, 5], [8]]
LONGEST = 8


def padded(side):
    """The queries as one Tokens, with padding on a side."""
    ids, weight = np.zeros((3, LONGEST), int), np.zeros((3, LONGEST))
    for row, query in enumerate(QUERIES):
        first = 0 if side == "right" else LONGEST - len(query)
        ids[row, first : first + len(query)] = query
        weight[row, first : first + len(query)] = 1
    return tokens(jnp.asarray(ids), jnp.asarray(weight))


def alone(row):
    return tokens(jnp.asarray([QUERIES[row]]))


def in_order(y, row):
    """What stands at the real positions of a row."""
    real = np.asarray(y.weight[row] > 0)
    order = np.argsort(np.asarray(y.position[row])[real], kind="stable")
    return np.asarray(y.value[row])[real][order]


# -- tokens


def test_positions_count_real_tokens():
    weight = jnp.array([[0, 0, 1, 1], [1, 0, 1, 0]])
    t = tokens(jnp.zeros((2, 4), jnp.int32), weight)
    np.testing.assert_array_equal(t.position[0, 2:], [0, 1])
    np.testing.assert_array_equal(t.position[1, jnp.array([0, 2])], [0, 1])
    assert t.weight.dtype == jnp.float32 and t.span == WHOLE
    later = tokens(jnp.zeros((2, 4), jnp.int32), weight, start=jnp.array([5, 7]))
    np.testing.assert_array_equal(later.position - t.position, [[5] * 4, [7] * 4])
    np.testing.assert_array_equal(tokens(jnp.zeros((1, 3), int)).position, [[0, 1, 2]])


def test_the_last_position_is_that_of_the_last_real_token():
    for side in ("left", "right"):
        found = last_position(padded(side))[:, 0]
        np.testing.assert_array_equal(found, [len(query) - 1 for query in QUERIES])
    empty = tokens(jnp.zeros((1, 2), int), jnp.zeros((1, 2)))
    np.testing.assert_array_equal(last_position(empty), [[-1]])


def test_rows_of_ids_are_padded_on_a_side():
    for side in ("left", "right"):
        found = sequence.padded(QUERIES, side, LONGEST)
        jax.tree.map(np.testing.assert_array_equal, found, padded(side))
    found = sequence.padded(QUERIES, fill=7)
    np.testing.assert_array_equal(found.value[1], [2, 6, 5, 7, 7, 7])
    with pytest.raises(ValueError, match="a row of 6 ids, expected at most 4"):
        sequence.padded(QUERIES, length=4)


def test_the_last_value_is_that_of_the_last_real_token():
    """Wherever it stands: behind an insertion it is not the last index."""
    for side in ("left", "right"):
        found = last_value(padded(side))
        np.testing.assert_array_equal(found, [query[-1] for query in QUERIES])
    t = tokens(jnp.array([[5, 6, 7]]))._replace(position=jnp.array([[0, 2, 1]]))
    assert last_value(t)[0] == 6
    np.testing.assert_array_equal(last_value(t.value), [7])  # an array goes by index


def test_the_span_is_static():
    """Two parts of a sequence are two structures: jit traces each once."""
    whole = tokens(jnp.zeros((1, 3), int))
    head = whole._replace(span=HEAD)
    assert len(jax.tree.leaves(whole)) == 3
    assert jax.tree.structure(whole) != jax.tree.structure(head)
    assert jax.jit(lambda t: t)(head).span == HEAD


def test_bare_and_on_value():
    t = tokens(jnp.arange(3)[None])
    assert bare(t) is t.value and bare(3) == 3
    np.testing.assert_array_equal(on_value(lambda a: a + 1, t).value, [[1, 2, 3]])
    assert on_value(lambda a: a + 1, 3) == 4


# -- arrays by index, Tokens by position


AGREEING = {
    "insert": insert(soft, 3),
    "insert behind": insert(soft, 3, at=None),
    "insert inside": insert(soft, 2, at=1),
    "replace": replace(soft, 3, at=1),
    "add to the first": add(soft, 3),
    "scale and shift": scale_and_shift(),
}
VALUE = jax.random.normal(KEY, (2, 5, 4))


@pytest.mark.parametrize("name", AGREEING)
def test_arrays_and_tokens_agree_where_nothing_is_padded(name):
    m = AGREEING[name]
    t = tokens(jnp.zeros((2, 5), int))._replace(value=VALUE)
    p, q = (m.init(KEY, value, Scope()) for value in (VALUE, t))
    jax.tree.map(np.testing.assert_array_equal, p, q)
    out = m.apply(q, t, Scope())
    expected = m.apply(p, VALUE, Scope())
    for row in range(2):
        np.testing.assert_array_equal(in_order(out, row), expected[row])
    assert out.position.shape == out.weight.shape == out.value.shape[:2]


@pytest.mark.parametrize("name", AGREEING)
def test_tokens_of_bfloat16_stay(name):
    m, half = AGREEING[name], VALUE.astype(jnp.bfloat16)
    t = tokens(jnp.zeros((2, 5), int))._replace(value=half)
    params = m.init(KEY, t, Scope())
    assert m.apply(params, t, Scope()).value.dtype == jnp.bfloat16


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", AGREEING)
def test_padding_changes_nothing(name, side):
    """Each row of a padded batch is as it is by itself."""
    m = AGREEING[name]
    x = padded(side)
    value = jax.random.normal(KEY, (30, 4))
    embed = lambda t: t._replace(value=value[t.value])
    params = m.init(KEY, embed(x), Scope())
    out = m.apply(params, embed(x), Scope())
    for row in range(3):
        expected = m.apply(params, embed(alone(row)), Scope())
        np.testing.assert_allclose(in_order(out, row), in_order(expected, 0), rtol=1e-6)


def test_steering_is_added_to_every_token():
    t = tokens(jnp.zeros((2, 5), int))._replace(value=VALUE)
    params = add(soft).init(KEY, t, Scope())
    assert params.learnable.shape == (4,)
    out = add(soft).apply(params, t, Scope())
    np.testing.assert_array_equal(out.value, VALUE + params.learnable)


def test_one_steering_vector_for_each_row():
    """Though B could be taken for L."""
    t = tokens(jnp.zeros((2, 2), int))._replace(value=jnp.zeros((2, 2, 4)))
    each = jnp.arange(8.0).reshape(2, 4)
    m = add(from_context())
    scope = Scope(context=each)
    out = m.apply(m.init(KEY, t, scope), t, scope)
    np.testing.assert_array_equal(out.value, jnp.stack([each] * 2, 1))


# -- through a decoder

IN_A_DECODER = {
    "demonstrations": {"input": insert(fixed(jnp.array([5, 6, 7])), 3)},
    "a soft prompt": {"embed:out": insert(soft, 2)},
    "a soft prompt behind the first": {"embed:out": insert(soft, 2, at=1)},
    "a soft prompt behind the end": {"embed:out": insert(soft, 2, at=None)},
    "placeholders": {
        "input": insert(fixed(jnp.array([0, 0])), 2),
        "embed:out": replace(soft, 2),
    },
    "both ends": {
        "input": chain(
            front=insert(fixed(jnp.array([5, 6])), 2),
            end=insert(fixed(jnp.array([9])), 1, at=None),
        )
    },
    "steering": {"hidden": add(soft)},
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", IN_A_DECODER)
def test_a_padded_batch_answers_as_its_rows_do(name, side):
    program = reprogram(decoder, IN_A_DECODER[name])
    params = program.init(KEY, DECODER_FROZEN, alone(0))
    y = jax.jit(program.apply)(params, DECODER_FROZEN, padded(side))
    for row in range(3):
        expected = program.apply(params, DECODER_FROZEN, alone(row))
        np.testing.assert_allclose(
            in_order(y, row), in_order(expected, 0), rtol=1e-4, atol=1e-5
        )


def test_demonstrations_are_a_longer_text():
    program = reprogram(decoder, IN_A_DECODER["demonstrations"])
    params = program.init(KEY, DECODER_FROZEN, alone(0))
    found = program.apply(params, DECODER_FROZEN, alone(0))
    text = tokens(jnp.array([[5, 6, 7, *QUERIES[0]]]))
    np.testing.assert_allclose(
        found.value, decoder(DECODER_FROZEN, text).value, rtol=1e-5
    )


def test_causality_holds_behind_a_soft_prompt():
    """A later token moves no earlier answer, nor does it move the prompt's."""
    program = reprogram(decoder, IN_A_DECODER["a soft prompt"])
    params = program.init(KEY, DECODER_FROZEN, alone(0))
    first, second = (
        program.apply(params, DECODER_FROZEN, tokens(jnp.array([[3, 1, 4, last]])))
        for last in (1, 2)
    )
    np.testing.assert_array_equal(first.value[:, :-1], second.value[:, :-1])
    assert not np.allclose(first.value[:, -1], second.value[:, -1])


def test_rows_with_their_own_demonstrations():
    """A prompt that is Tokens brings its weights: rows with fewer than others."""
    given = [[5, 6, 7], [8], []]
    ids, weight = np.zeros((3, 3), int), np.zeros((3, 3))
    for row, demonstrations in enumerate(given):
        ids[row, : len(demonstrations)] = demonstrations
        weight[row, : len(demonstrations)] = 1
    context = tokens(jnp.asarray(ids), jnp.asarray(weight))
    program = reprogram(decoder, {"input": insert(from_context(), 3)})
    params = program.init(KEY, DECODER_FROZEN, padded("left"), context)
    y = program.apply(params, DECODER_FROZEN, padded("left"), context)
    for row in range(3):
        text = tokens(jnp.array([[*given[row], *QUERIES[row]]]))
        expected = decoder(DECODER_FROZEN, text).value[0]
        np.testing.assert_allclose(in_order(y, row), expected, rtol=1e-4, atol=1e-5)


def test_nested_programs_over_tokens():
    inner = reprogram(decoder, IN_A_DECODER["demonstrations"])
    params = inner.init(KEY, DECODER_FROZEN, alone(0))
    forward = functools.partial(inner.apply, params)
    outer = reprogram(forward, {"embed:out": insert(soft, 2)})
    own = outer.init(KEY, DECODER_FROZEN, alone(0))
    _, seen = record(outer.apply, ["embed:out"])(own, DECODER_FROZEN, alone(0))
    expected = [
        *own.learnable["embed:out"],
        *DECODER_FROZEN["embed"][jnp.array([5, 6, 7])],
    ]
    np.testing.assert_allclose(in_order(seen["embed:out"], 0)[:5], expected, rtol=1e-6)


# -- parts of a sequence


def split(span, ids, start=0):
    return tokens(jnp.asarray([ids]), start=start, span=span)


def test_an_insertion_acts_in_the_head_and_moves_the_rest():
    m = insert(fixed(jnp.array([7, 8])), 2)
    params = m.init(KEY, split(HEAD, [1, 2, 3]), Scope())
    head = m.apply(params, split(HEAD, [1, 2, 3]), Scope())
    np.testing.assert_array_equal(in_order(head, 0), [7, 8, 1, 2, 3])
    for span in (TAIL, STEP):
        part = split(span, [4, 5], start=3)
        moved = m.apply(params, part, Scope())
        np.testing.assert_array_equal(moved.value, part.value)
        np.testing.assert_array_equal(moved.position, part.position + 2)


def test_an_insertion_behind_acts_in_the_tail():
    m = insert(fixed(jnp.array([9])), 1, at=None)
    params = m.init(KEY, split(TAIL, [4, 5]), Scope())
    tail = m.apply(params, split(TAIL, [4, 5], start=3), Scope())
    np.testing.assert_array_equal(in_order(tail, 0), [4, 5, 9])
    np.testing.assert_array_equal(tail.position, [[3, 4, 5]])
    head = split(HEAD, [1, 2, 3])
    np.testing.assert_array_equal(
        m.apply(params, head, Scope()).position, head.position
    )
    step = m.apply(params, split(STEP, [6], start=5), Scope())
    np.testing.assert_array_equal(step.position, [[6]])


def test_an_insertion_inside_needs_its_place_in_the_head():
    m = insert(fixed(jnp.array([7])), 1, at=2)
    params = m.init(KEY, split(WHOLE, [1, 2, 3]), Scope())
    found = m.apply(params, split(HEAD, [1, 2, 3]), Scope())
    np.testing.assert_array_equal(in_order(found, 0), [1, 2, 7, 3])
    with pytest.raises(ValueError, match=r"a head of 1 tokens, expected the first 2"):
        m.apply(params, split(HEAD, [1]), Scope())


def test_parts_together_are_the_whole():
    """The head of a batch and its tails, moved, hold what the whole sequence holds."""
    m = chain(
        front=insert(fixed(jnp.array([7, 8])), 2), back=insert(soft_id, 1, at=None)
    )
    whole = split(WHOLE, [1, 2, 3, 4])
    params = m.init(KEY, whole, Scope())
    expected = m.apply(params, whole, Scope())
    head = m.apply(params, split(HEAD, [1, 2]), Scope())
    tail = m.apply(params, split(TAIL, [3, 4], start=2), Scope())
    joined = Tokens(
        *(jnp.concatenate(pair, 1) for pair in zip(head[:3], tail[:3], strict=True))
    )
    np.testing.assert_array_equal(in_order(joined, 0), in_order(expected, 0))


soft_id = fixed(jnp.array([9]))


def test_wrong_shapes_are_caught():
    with pytest.raises(jaxtyping.TypeCheckError):
        tokens(jnp.zeros(3, int))
    with pytest.raises(jaxtyping.TypeCheckError):
        tokens(jnp.zeros((2, 3), int), jnp.ones((2, 4)))
    with pytest.raises(jaxtyping.TypeCheckError):
        tokens(jnp.zeros((2, 3)))
