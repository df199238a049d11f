"""A model of this process behind the border of texts."""

import jax
import jax.numpy as jnp
import pytest
from small_texts import CARD, TOKENIZER

from reprojax import reprogram
from reprojax.core import padded, tokens
from reprojax.formats import learnable
from reprojax.models.language import Special
from reprojax.operators import insert, low_rank_edit
from reprojax.text import Continuation, Request
from reprojax.text.in_process import (
    _compiled,
    bucket,
    common_beginning,
    continuation,
    language,
)

soft = learnable(jax.nn.initializers.normal(1.0))
PROGRAM = reprogram(CARD.forward, {"embed:out": insert(soft, 3)})
PARAMS = PROGRAM.init(jax.random.key(1), CARD.frozen, tokens(jnp.array([[1, 2]])))
COMMON = "abc. def. ghi. "


def greedy(prompt, length):
    """By hand: the whole text once more for each word."""
    ids = TOKENIZER.encode(prompt)
    run = jax.jit(PROGRAM.apply)
    for _ in range(length):
        room = jnp.zeros((1, 60), int).at[0, : len(ids)].set(jnp.array(ids))
        x = tokens(room, (jnp.arange(60) < len(ids))[None])
        y = run(PARAMS, CARD.frozen, x).value[0, 3 + len(ids) - 1]
        ids.append(int(y.argmax()))
    return ids[len(prompt) :]


@pytest.fixture(scope="module")
def local():
    return language(CARD, PROGRAM, PARAMS, rows=2, heads=8)


def request(prompt, **more):
    return Request(prompt, **{"stop": (), "length": 20} | more)


def test_greedy_answers_are_recomputations(local):
    """Of another length each, over two looks for stops, behind a common beginning."""
    asked = [request(COMMON + "a", length=20), request(COMMON + "bb c", length=7)]
    replies = local.complete(asked)
    for one, reply in zip(asked, replies, strict=True):
        ids = greedy(one.prompt, one.length)
        (answer,) = reply.completions
        assert answer.text == TOKENIZER.decode(ids) and answer.finish == "length"
        assert (reply.prompt_tokens, reply.tokens) == (len(one.prompt), one.length)


def test_answers_hang_on_prompt_and_seed_alone(local):
    warm = dict(temperature=1.0, top_k=9, samples=2)
    asked = [request(COMMON + end, **warm) for end in ("a", "bb", "a c", "d")]
    together = local.complete(asked)
    assert len({reply.completions[0].text for reply in together}) == 4
    apart = language(CARD, PROGRAM, PARAMS, heads=0)
    for one, reply in zip(asked, together, strict=True):
        assert apart.complete([one]) == [reply]
        first, second = reply.completions
        assert first != second
    assert local.complete([asked[0]._replace(seed=5)]) != together[:1]


def test_what_edits_the_last_words_answers_alike_alone_and_together():
    """A kept beginning would hold words that LoReFT is to edit."""
    edit = low_rank_edit(rank=4, first=2, last=5)
    program = reprogram(CARD.forward, {"embed:out": edit})
    params = program.init(jax.random.key(2), CARD.frozen, tokens(jnp.array([[1, 2]])))
    noise = lambda a: a + jax.random.normal(jax.random.key(3), a.shape)
    params = jax.tree.map(noise, params)
    edited = language(CARD, program, params)
    asked = [request(COMMON + end, length=12) for end in ("a", "b", "c d")]
    together = edited.complete(asked)
    assert [edited.complete([one])[0] for one in asked] == together
    kept = language(CARD, program, params, heads=8)
    with pytest.raises(ValueError, match="gave NaN"):  # hence none by default
        kept.complete(asked)


def test_stop_strings_end_answers_and_are_not_in_them(local):
    free = TOKENIZER.decode(greedy("abc", 24))
    places = [i for i in range(2, 23) if free.find(free[i : i + 2]) == i]
    i = places[0]
    stop = (free[i : i + 2], ".\n.\n.")
    (reply,) = local.complete([request("abc", stop=stop)])
    assert reply.completions[0] == (free[:i], "stop")
    assert reply.tokens == i + 2


def test_a_stop_string_over_the_border_of_two_looks(local, monkeypatch):
    from reprojax.text import in_process as module

    free = TOKENIZER.decode(greedy("abc", 20))
    places = [i for i in range(2, 18) if free.find(free[i : i + 2]) == i]
    monkeypatch.setattr(module, "CHUNK", places[-1] + 1)
    (reply,) = local.complete([request("abc", stop=(free[places[-1] :][:2],))])
    assert reply.completions[0] == (free[: places[-1]], "stop")
    assert reply.tokens == places[-1] + 2


def test_the_models_own_end():
    ids = greedy("abc", 20)
    end = ids[4]
    n = ids.index(end) + 1
    card = CARD._replace(special=Special(eos=(end,)))
    (reply,) = language(card, PROGRAM, PARAMS).complete([request("abc")])
    assert reply.tokens == n and reply.completions[0].finish == "stop"
    assert reply.completions[0].text == TOKENIZER.decode(ids[:n])


def test_scores_are_sums_of_log_probabilities(local):
    items = [
        Continuation(COMMON + "a", " b"),
        Continuation(COMMON + "a", "c"),
        Continuation(COMMON + "bb", "dab"),
        Continuation("a", "b"),
    ]
    run = jax.jit(PROGRAM.apply)
    for item, found in zip(items, local.score(items), strict=True):
        ids = TOKENIZER.encode(item.prompt + item.text)
        y = run(PARAMS, CARD.frozen, padded([ids], length=24)).value[0, 3:]
        logp = jax.nn.log_softmax(y)
        n = len(item.text)
        places = range(len(ids) - n, len(ids))
        expected = sum(float(logp[i - 1, ids[i]]) for i in places)
        assert found.tokens == n
        assert found.logp == pytest.approx(expected, abs=1e-4)


def test_a_beginning_is_read_once(monkeypatch):
    from reprojax import decoding

    seen, share = [], decoding.share
    monkeypatch.setattr(
        decoding,
        "share",
        lambda *args: seen.append(args[3].value.shape) or share(*args),
    )
    _compiled.cache_clear()
    local = language(CARD, PROGRAM, PARAMS, heads=1)
    asked = [request(COMMON + end, length=1) for end in ("a", "b")]
    for _ in range(2):
        local.complete(asked)
    local.complete(asked[:1])  # one alone: it begins with what is held
    assert seen == [(1, 16)]
    _compiled.cache_clear()


def test_prompts_of_one_program_are_compiled_once():
    traces = []

    def forward(*args, **kw):
        traces.append(1)
        return CARD.forward(*args, **kw)

    program = reprogram(forward, {"embed:out": insert(soft, 3)})
    keys = jax.random.split(jax.random.key(7))
    x = tokens(jnp.array([[1, 2]]))
    each = [program.init(key, CARD.frozen, x) for key in keys]
    found, counts = [], []
    for params in each:
        local = language(CARD, program, params)
        del traces[:]
        (reply,) = local.complete([request("ab", length=6)])
        found.append(reply.completions[0].text)
        counts.append(len(traces))
        alone = language(CARD, PROGRAM, params).complete([request("ab", length=6)])
        assert alone[0].completions[0].text == found[-1]
    assert counts[0] > 0 and counts[1] == 0 and found[0] != found[1]


def test_a_bare_model_and_its_limits(local):
    bare = language(CARD)
    assert bare.context == 64 and bare.encode("ab") == [2, 3]
    text = "a" * 40
    (reply,) = bare.complete([request(text, length=24)])
    assert reply.tokens == 24
    (reply,) = local.complete([request(text, length=21)])
    assert reply.tokens == 21
    message = "43 tokens, 3 of them the program's own, and 24 for the answer"
    with pytest.raises(ValueError, match=message):
        local.complete([request(text, length=24)])
    with pytest.raises(ValueError, match="expected at most the model's 64 positions"):
        local.score([Continuation("a" * 60, "bb")])
    with pytest.raises(ValueError, match="a prompt of no tokens"):
        local.complete([request("")])


def test_what_cannot_speak_is_refused():
    with pytest.raises(ValueError, match="a masked model with a tokeniser"):
        language(CARD._replace(kind="masked"))
    with pytest.raises(ValueError, match="a causal model with no tokeniser"):
        language(CARD._replace(tokenizer=None))
    with pytest.raises(ValueError, match="without its params"):
        language(CARD, PROGRAM)


def test_a_continuation_begins_at_a_border():
    pairs = {"a": [1], "ab": [3], "a b": [1, 2], "b": [2]}
    assert continuation(pairs.get, "a", " b") == (2,)
    for prompt, text in (("a", "b"), ("a", "")):
        with pytest.raises(ValueError, match="does not begin at a token's border"):
            continuation(pairs.get, prompt, text)


def test_beginnings_and_buckets():
    assert common_beginning([(1, 2, 3), (1, 2, 4), (1, 2, 3, 5)]) == 2
    assert common_beginning([(1, 2), (1, 2, 3)]) == 1  # one is left to each
    assert common_beginning([(1, 2)]) == 0 and common_beginning([(3,), (4,)]) == 0
    assert [bucket(n) for n in (0, 1, 2, 3, 9)] == [1, 1, 2, 4, 16]


def test_a_model_of_nan_says_nothing():
    """Its likeliest word would always be the first one."""
    frozen = jax.tree.map(lambda a: a * jnp.nan, CARD.frozen)
    spoilt = language(CARD._replace(frozen=frozen), PROGRAM, PARAMS, rows=2, heads=8)
    with pytest.raises(ValueError, match="tiny gave NaN for a next word"):
        spoilt.complete([request("abc", length=2)])
