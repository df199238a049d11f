"""Decoding on caches is full recomputation, whatever the program does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reprojax import Scope, chain, reprogram
from reprojax.core import HEAD, STEP, TAIL, WHOLE, last_value, padded, shared, tokens
from reprojax.decoding import (
    Sampling,
    begin_writing,
    decode_words,
    each,
    generate,
    log_probabilities,
    prefill,
    share,
    warp,
)
from reprojax.formats import fixed, learnable
from reprojax.models.language import texts
from reprojax.models.language.gpt2 import GPT2
from reprojax.models.language.layers import Heads
from reprojax.models.language.llama import Llama
from reprojax.operators import add, insert, prefix, replace, shift

KEY = jax.random.key(0)
V, T, P = 23, 5, 3
QUERIES = [[3, 1, 4, 1, 5, 9], [2, 6, 5], [8, 7]]
ROTARY = Heads(4, 2, 4, bias=False, out_bias=False, frequencies=(1.0, 0.3))
MODULES = {
    "rotary": Llama(V, 64, 16, 2, 24, ROTARY),
    "learned": GPT2(V, 64, 16, 2, 24, Heads(4, 4, 4)),
}
FORWARD = {name: texts(module) for name, module in MODULES.items()}
KV = ("block_0/kv", "block_1/kv")


def drawn(module):
    spec = jax.eval_shape(module.init, KEY, tokens(jnp.zeros((1, 1), int)))
    leaves, tree = jax.tree.flatten(spec)
    draw = np.random.default_rng(0)
    value = lambda s: 0.4 * draw.standard_normal(s.shape) + (len(s.shape) == 1)
    return tree.unflatten([jnp.asarray(value(s), jnp.float32) for s in leaves])


FROZEN = {name: drawn(module) for name, module in MODULES.items()}
soft = learnable(jax.nn.initializers.normal(0.5))
ids = lambda *numbers: fixed(jnp.array(numbers))
AT = {
    "nothing": {},
    "demonstrations": {"input": insert(ids(5, 6, 7), P)},
    "an instruction behind": {"input": insert(ids(9, 2), 2, at=None)},
    "soft prompt": {"embed:out": insert(soft, P)},
    "inside": {"embed:out": insert(soft, P, at=1)},
    "placeholders": {"input": insert(ids(1, 1, 1), P), "embed:out": replace(soft, P)},
    "prefix": {"input": shift(P)} | {site: prefix(soft, P) for site in KV},
    "one prefix for all": {"input": shift(P), KV: prefix(soft, P)},
    "steering": {"block_1:in": add(soft)},
    "deep": {"embed:out": insert(soft, P), "block_1:in": replace(soft, P)},
    "first tokens": {"embed:out": chain(a=add(soft, 4), b=insert(soft, P))},
    "hidden": {"block_1:in": insert(soft, P)},
}  # fmt: skip
ALWAYS = ("soft prompt", "one prefix for all", "hidden", "inside")
CASES = [
    pytest.param("rotary", name, marks=[] if name in ALWAYS else pytest.mark.slow)
    for name in AT
]
CASES += [
    pytest.param("learned", name, marks=[] if name == "prefix" else pytest.mark.slow)
    for name in ("nothing", "soft prompt", "prefix", "inside")
]


def program_of(kind, name):
    program = reprogram(FORWARD[kind], AT[name])
    frozen = FROZEN[kind]
    return program, program.init(KEY, frozen, tokens(jnp.array([QUERIES[0]]))), frozen


def recomputed(program, params, frozen, ids, asked=QUERIES):
    """The whole sequences once more, no cache: (greedy words, their log p) at the
    places of the words `ids` [B T] behind what was asked.

    A word is seen by those behind it alone, so if all are greedy, they were all along.
    """
    rows = [
        [*query, *np.asarray(row).tolist()]
        for query, row in zip(asked, ids, strict=True)
    ]
    x, n = padded(rows), ids.shape[1]
    y = jax.jit(program.apply)(params, frozen, x)
    logp = np.asarray(jax.nn.log_softmax(y.value))
    out = []
    for row, position, weight in zip(logp, y.position, y.weight, strict=True):
        real = np.asarray(weight) > 0
        order = np.argsort(np.asarray(position)[real], kind="stable")
        out.append(row[real][order][-n - 1 : -1])
    return np.stack(out).argmax(-1), np.stack(out).max(-1)


def agree(found, expected):
    np.testing.assert_array_equal(found.ids, expected[0])
    np.testing.assert_allclose(found.logp, expected[1], atol=3e-5)


@pytest.mark.parametrize("kind, name", CASES)
def test_decoding_is_recomputation(kind, name):
    """With padding on either side, and behind a head that was read once."""
    program, params, frozen = program_of(kind, name)
    run = jax.jit(generate(program, T))
    keys = jax.random.split(KEY, 3)
    left = run(params, frozen, padded(QUERIES, "left"), keys)
    if name == "an instruction behind":  # a new word stands behind the instruction
        plain, asked = reprogram(FORWARD[kind], {}), [[*q, 9, 2] for q in QUERIES]
        empty = plain.init(KEY, frozen, tokens(jnp.array([[1]])))
        expected = recomputed(plain, empty, frozen, left.ids, asked)
    else:
        expected = recomputed(program, params, frozen, left.ids)
    agree(left, expected)
    agree(run(params, frozen, padded(QUERIES, "right"), keys), expected)
    if name == "inside":  # no query has begun before its first token
        with pytest.raises(ValueError, match="got a head of 0 tokens"):
            share(program, params, frozen)
    else:
        head = jax.jit(share, static_argnums=0)(program, params, frozen)
        x = padded(QUERIES, "left")
        agree(run(params, frozen, x, keys, cache=head), expected)


@pytest.mark.parametrize(
    "kind, name",
    [("rotary", "soft prompt"), ("rotary", "hidden"), ("learned", "prefix")],
)
def test_causality_holds_behind_a_prompt(kind, name):
    """Another last word moves its own answer and none before it."""
    program, params, frozen = program_of(kind, name)
    run = jax.jit(program.apply)
    first, second = (
        run(params, frozen, tokens(jnp.array([[3, 1, 4, 1, last]]))).value
        for last in (5, 6)
    )
    np.testing.assert_array_equal(first[:, :-1], second[:, :-1])
    assert not np.allclose(first[:, -1], second[:, -1])


def test_what_queries_begin_with_is_read_once():
    """Demonstrations, soft prompt and a common beginning, itself padded."""
    program, params, frozen = program_of("rotary", "first tokens")
    common = [4, 4, 1, 2, 6]
    whole = [common + query for query in QUERIES]
    keys, run = jax.random.split(KEY, 3), jax.jit(generate(program, T))
    rest = padded(QUERIES)
    rest = tokens(rest.value, rest.weight, start=len(common))
    for ids in (common, padded([common], "left", 8), padded([common], "right", 8)):
        head = share(program, params, frozen, ids)
        assert {kv.weight.shape[0] for kv in head.values()} == {1}
        found = run(params, frozen, rest, keys, cache=head)
        agree(found, recomputed(program, params, frozen, found.ids, whole))


def test_a_state_is_gone_on_from():
    """In two calls as in one; and again from the same value."""
    program, params, frozen = program_of("rotary", "hidden")
    given, stop = jax.random.split(KEY, 3), jnp.array([], int)
    warm = Sampling(1.0)
    x = padded(QUERIES)
    once = jax.jit(generate(program, T))(params, frozen, x, given, warm)
    keys = each(given, 1)
    y, cache = jax.jit(prefill, static_argnums=0)(program, params, frozen, x)
    state = begin_writing(y, cache, x, T)
    go = jax.jit(decode_words, static_argnums=(0, 6))
    state, first = go(program, params, frozen, state, keys, warm, 2, stop)
    for _ in range(2):
        _, second = go(program, params, frozen, state, keys, warm, 3, stop)
        both = np.concatenate([first.ids, second.ids], 1)
        np.testing.assert_array_equal(both, once.ids)
        np.testing.assert_allclose(
            np.concatenate([first.logp, second.logp], 1), once.logp, atol=3e-5
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_head_may_answer_for_the_last_word_alone(side):
    program, params, frozen = program_of("rotary", "soft prompt")
    run = jax.jit(prefill, static_argnums=0, static_argnames="last")
    x = padded(QUERIES, side)
    y, cache = run(program, params, frozen, x)
    z, same = run(program, params, frozen, x, last=True)
    assert z.value.shape == (3, 1, V)
    np.testing.assert_allclose(last_value(z), last_value(y), rtol=1e-5, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, cache, same)


def test_a_batch_of_one_is_its_row():
    """Sampled too: the key is the row's own, whatever else is in the batch."""
    program, params, frozen = program_of("rotary", "soft prompt")
    keys, run = jax.random.split(KEY, 3), jax.jit(generate(program, T, samples=2))
    warm = Sampling(jnp.array([1.0, 0.7]).repeat(3)[:2][0], 5, 0.9)
    many = run(params, frozen, padded(QUERIES, "left"), keys, warm)
    for i, query in enumerate(QUERIES):
        one = run(params, frozen, padded([query], length=6), keys[i : i + 1], warm)
        np.testing.assert_array_equal(one.ids, many.ids[2 * i : 2 * i + 2])
    again = run(params, frozen, padded(QUERIES, "right"), keys, warm)
    np.testing.assert_array_equal(again.ids, many.ids)
    assert not (many.ids[::2] == many.ids[1::2]).all()  # two samples are two draws
    other = run(
        params, frozen, padded(QUERIES), jax.random.split(jax.random.key(9), 3), warm
    )
    assert not (other.ids == many.ids).all()


def test_new_settings_compile_nothing():
    program, params, frozen = program_of("rotary", "soft prompt")
    run = jax.jit(generate(program, 2))
    keys = jax.random.split(KEY, 3)
    settings = ((0.0, 0, 1.0), (0.5, 3, 0.9), (1.5, 0, 0.2))
    for i, (temperature, k, p) in enumerate(settings):
        sampling = Sampling(jnp.float32(temperature), jnp.int32(k), jnp.float32(p))
        run(params, frozen, padded(QUERIES), keys, sampling, limit=jnp.int32(i + 1))
    assert run._cache_size() == 1


def test_stops_limits_and_padding():
    program, params, frozen = program_of("rotary", "nothing")
    keys, x = jax.random.split(KEY, 3), padded(QUERIES)
    free = jax.jit(generate(program, T))(params, frozen, x, keys)
    words, numbers, end = np.asarray(free.ids), free.logp, int(free.ids[0, 2])
    run = jax.jit(generate(program, T, stop=(end,), pad=V - 1))
    out = run(params, frozen, x, keys)
    for i, row in enumerate(words):
        n = list(row).index(end) + 1 if end in row else T
        assert out.length[i] == n and bool(out.stopped[i]) == (end in row)
        np.testing.assert_array_equal(out.ids[i], [*row[:n], *[V - 1] * (T - n)])
        np.testing.assert_allclose(out.logp[i, :n], numbers[i, :n], atol=3e-5)
        assert not out.logp[i, n:].any()
    assert out.stopped[0] and out.length[0] <= 3
    most = jnp.array([1, 2, 4])
    out = jax.jit(generate(program, T))(params, frozen, x, keys, limit=most)
    np.testing.assert_array_equal(out.length, most)
    assert not out.stopped.any()


# -- sampling


def by_hand(logits, temperature, k, p):
    """Top-k, then the fewest words whose mass is at least p."""
    order = np.argsort(-logits, kind="stable")[: k or len(logits)]
    share = np.exp(logits[order] / temperature)
    share /= share.sum()
    n = int(np.searchsorted(np.cumsum(share), p)) + 1
    out = np.zeros(len(logits))
    out[order[:n]] = share[:n] / share[:n].sum()
    return out


@pytest.mark.parametrize("k", [0, 1, 4])
@pytest.mark.parametrize("p", [1.0, 0.6, 0.01])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_what_is_drawn_from(temperature, k, p):
    logits = np.random.default_rng(0).standard_normal(9)
    found = jax.nn.softmax(warp(jnp.asarray(logits, jnp.float32), temperature, k, p))
    np.testing.assert_allclose(found, by_hand(logits, temperature, k, p), atol=1e-5)


def test_draws_are_as_often_as_likely():
    program, params, frozen = program_of("rotary", "nothing")
    x = tokens(jnp.array([QUERIES[0]]))
    run = jax.jit(generate(program, 1, samples=2000))
    out = run(params, frozen, x, jax.random.split(KEY, 1), Sampling(0.8, 4, 1.0))
    logits = np.asarray(program.apply(params, frozen, x).value[0, -1])
    expected = by_hand(logits, 0.8, 4, 1.0)
    found = np.bincount(np.asarray(out.ids[:, 0]), minlength=V) / 2000
    np.testing.assert_allclose(found, expected, atol=0.04)
    plain = np.asarray(jax.nn.log_softmax(logits))  # not of the warped ones
    np.testing.assert_allclose(out.logp[:, 0], plain[out.ids[:, 0]], atol=1e-4)


def test_keys_are_by_row_and_sample():
    keys = jax.random.split(KEY, 2)
    found = jax.random.key_data(each(keys, 3))
    assert len({tuple(np.asarray(k)) for k in found}) == 6
    np.testing.assert_array_equal(found[3:], jax.random.key_data(each(keys[1:], 3)))


# -- scoring


@pytest.mark.parametrize("name", ["soft prompt", "prefix", "hidden", "inside"])
def test_scores_are_those_of_the_whole_text(name):
    program, params, frozen = program_of("rotary", name)
    ends = [[[7, 2, 2], [4]], [[1], [5, 5]], [[3, 3, 3], [6]]]
    table, weight = np.zeros((3, 2, 3), int), np.zeros((3, 2, 3))
    for b, c in np.ndindex(3, 2):
        n = len(ends[b][c])
        table[b, c, :n], weight[b, c, :n] = ends[b][c], 1
    run, whole = jax.jit(log_probabilities(program)), jax.jit(program.apply)
    asked = jnp.asarray(table), jnp.asarray(weight)
    found = run(params, frozen, padded(QUERIES, "left"), *asked)
    for b, c in np.ndindex(3, 2):
        n, row = len(ends[b][c]), QUERIES[b] + ends[b][c]
        y = whole(params, frozen, padded([row], length=9))
        last = int(y.weight[0].sum()) - 1  # of the row's last word, padding behind it
        logp = jax.nn.log_softmax(y.value[0, : last + 1])
        logp = logp[-len(row) :]
        real = [float(logp[i - 1, row[i]]) for i in range(len(row) - n, len(row))]
        np.testing.assert_allclose(found[b, c, :n], real, atol=3e-5)
        assert not found[b, c, n:].any()
    one = run(params, frozen, padded(QUERIES), asked[0][..., :1], asked[1][..., :1])
    np.testing.assert_allclose(one[..., 0], found[..., 0], atol=3e-5)


# -- prefix, and what is refused


def test_a_prefix_is_the_tokens_that_give_it():
    """Keys and values of real words, at the positions where those would stand."""
    program = reprogram(FORWARD["rotary"], {})
    frozen, front = FROZEN["rotary"], [4, 2, 6]
    params = program.init(KEY, frozen, tokens(jnp.array([[1]])))
    head = share(program, params, frozen, front)
    own = {
        site: prefix(fixed(jnp.stack([a[0] for a in head[site].value])), P)
        for site in KV
    }
    other = reprogram(FORWARD["rotary"], {"input": shift(P), **own})
    theirs = other.init(KEY, frozen, tokens(jnp.array([[1]])))
    y = other.apply(theirs, frozen, tokens(jnp.array([QUERIES[0]])))
    whole = program.apply(params, frozen, tokens(jnp.array([front + QUERIES[0]])))
    np.testing.assert_allclose(y.value, whole.value[:, P:], atol=3e-5)


def test_a_prefix_at_plain_keys_and_values():
    """One prompt for keys and values, in front of each."""
    value = jnp.zeros((2, 5, 4, 3))
    m = prefix(soft, P)
    specs = {"key": value, "value": value}
    params = m.init(KEY, specs, Scope("key"))
    assert params.learnable.shape == (2, P, 4, 3)
    for index in (0, 1):
        out = m.apply(params, value, Scope(index=index))
        assert out.shape == (2, P + 5, 4, 3)
        np.testing.assert_array_equal(out[1, :P], params.learnable[index])


def test_a_prefix_stands_in_the_head_alone():
    value = tokens(jnp.zeros((1, 2), int))._replace(
        value=(jnp.zeros((1, 2, 1, 2)),) * 2
    )
    m = prefix(soft, P)
    params = m.init(KEY, value, Scope("x"))
    for span, length in ((WHOLE, 5), (HEAD, 5), (TAIL, 2), (STEP, 2)):
        out = m.apply(params, value._replace(span=span), Scope())
        assert out.value[0].shape[1] == out.weight.shape[1] == length


def test_one_for_all_is_shared_or_its_own():
    program, params, _ = program_of("rotary", "one prefix for all")
    assert params.learnable[KV[0]].shape == (4, P, 2, 4)
    same = reprogram(FORWARD["rotary"], {KV: shared(prefix(soft, P))})
    params = same.init(KEY, FROZEN["rotary"], tokens(jnp.array([[1]])))
    assert params.learnable[KV[0]].shape == (2, P, 2, 4)


def test_programs_that_do_not_answer_with_logits_are_refused():
    frozen, x = FROZEN["rotary"], tokens(jnp.array([[1]]))
    from reprojax.alignments import last

    program = reprogram(FORWARD["rotary"], {"output": last()})
    params = program.init(KEY, frozen, x)
    with pytest.raises(ValueError, match='nothing at "output"'):
        prefill(program, params, frozen, x)
    bare = reprogram(lambda frozen, x, edit: edit("output", edit("input", x)), {})
    with pytest.raises(ValueError, match='no site that ends in "/kv"'):
        prefill(bare, bare.init(KEY, (), x), (), x)


def test_more_words_than_positions_are_refused():
    """Six asked, three of the prompt, and what is to come."""
    program, params, frozen = program_of("rotary", "soft prompt")
    x, keys = padded(QUERIES), jax.random.split(KEY, 3)
    for length, positions in ((55, 64), (56, 64)):
        run = generate(program, length, positions=positions)
        if 9 + length <= positions:
            jax.eval_shape(run, params, frozen, x, keys)
        else:
            with pytest.raises(ValueError, match="9 tokens, .* and 56 new ones"):
                jax.eval_shape(run, params, frozen, x, keys)


def test_bfloat16_stays_in_the_cache():
    program, params, frozen = program_of("rotary", "soft prompt")
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), frozen)
    x, keys = padded(QUERIES), jax.random.split(KEY, 3)
    _, cache = jax.eval_shape(lambda: prefill(program, params, half, x))
    kinds = {leaf.dtype for kv in cache.values() for leaf in kv.value}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    out = jax.jit(generate(program, T))(params, half, x, keys)
    assert out.logp.dtype == jnp.float32 and np.isfinite(out.logp).all()
    assert (out.length == T).all()
