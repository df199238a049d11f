"""Against a server that nobody here wrote: llama.cpp's, with SmolLM2."""

import warnings

import jax
import numpy as np
import pytest
from assets import smollm2

from reprojax.models.language import load
from reprojax.recipes.prompt_instruction import (
    chain_of_thought,
    few_shot,
    kate,
    self_consistency,
)
from reprojax.text import Continuation, in_process, labelled, number, record_texts
from reprojax.text.calibration import batch_calibration, contextual_calibration
from reprojax.text.served import Endpoint

pytestmark = pytest.mark.verify
SLOTS = 4  # llama.cpp gives that many samples of a request, and refuses more


@pytest.fixture(scope="module")
def url():
    """Of the loopback, on a port that the system chooses."""
    from xllamacpp import CommonParams, Server

    params = CommonParams()
    params.model.path = str(smollm2())
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.warmup = 1024, SLOTS, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = Server(params)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture(scope="module")
def near():
    return in_process.language(load(smollm2()), heads=0)  # few shapes are compiled


def served(url, near, **settings):
    settings = {"budget": 100, "retries": 0, "encode": near.encode, **settings}
    return Endpoint("SmolLM2", url, **settings)


REVIEW = "Review: {text}\nSentiment: {label}"
LABELS = ("positive", "negative")
ROWS = labelled(["A delight.", "A bore.", "I loved it."], [0, 1, 0], LABELS)
TEXTS = [{"text": t} for t in ("It broke.", "The best I have had.", "So so, at most.")]


def letters(texts):
    return [[text.lower().count(c) for c in "abcdefghilmnorstuvy"] for text in texts]


def scores(program, language, params=None):
    params = program.init(None, language) if params is None else params
    run = record_texts(program.apply, ["ask:out"])
    answers, seen = run(params, language, TEXTS)
    return answers, np.stack([one["ask:out"] for one in seen])


def test_labels_are_scored_as_in_process(url, near):
    """One token each, so that the next token's numbers are the labels' own."""
    with served(url, near) as endpoint, warnings.catch_warnings():
        warnings.simplefilter("error")
        for program in (
            few_shot(REVIEW, LABELS, ROWS),
            kate(REVIEW, LABELS, ROWS, letters, k=2),
        ):
            here, there = scores(program, near), scores(program, endpoint.language)
            difference = np.abs(here[1] - there[1]).max()
            print(f"llama.cpp: labels differ by {difference:.3f} nats at most")
            assert there[0] == here[0] and difference < 0.2
        assert endpoint.paid == 1 + 3 + 3  # an echo was tried once


def test_calibration_is_estimated_as_in_process(url, near):
    program = few_shot(REVIEW, LABELS, ROWS)
    start = program.init(None, near)
    found = []
    with served(url, near) as endpoint:
        for own in (near, endpoint.language):
            params = contextual_calibration(program, start, own)
            answers, _ = scores(program, own, params)
            batch, renewed = batch_calibration(program, start, own, TEXTS)
            found.append((answers, batch, values(params) + values(renewed)))
    (*mine, here), (*its, there) = found
    assert mine == its
    difference = max(np.abs(a - b).max() for a, b in zip(here, there, strict=True))
    print(f"llama.cpp: calibration differs by {difference:.3f} nats at most")
    assert difference < 0.2


def values(params):
    leaves = jax.tree.leaves(params.fixed)
    return [np.asarray(leaf) for leaf in leaves if not isinstance(leaf, str)]


def test_labels_of_several_tokens_are_scored_by_their_first(url, near):
    """Of labels that are likely: far down the list eight bits differ by more."""
    prompts = [REVIEW.format(label="", **x).rstrip() for x in TEXTS]
    words = " not good", " good"
    items = [Continuation(prompt, word) for prompt in prompts for word in words]
    with served(url, near, top=49152) as endpoint:
        with pytest.warns(UserWarning, match="scored by their first token"):
            found = endpoint.score(items)
    assert [one.of for one in found] == ["first token", "text"] * 3
    firsts = [Continuation(p, first) for p in prompts for first in (" not", " good")]
    for mine, its in zip(near.score(firsts), found, strict=True):
        assert mine.tokens == 1 and abs(mine.logp - its.logp) < 0.2


SUMS = "Q: {question}\nA: {answer}"
STEPS = [
    {
        "question": "Tom has 3 pens and buys 2. How many?",
        "answer": "3 + 2 = 5. It is 5.",
    },
    {
        "question": "Ann has 7 cups and 4 break. How many?",
        "answer": "7 - 4 = 3. It is 3.",
    },
]
ASKED = [{"question": "6 dogs and 2 more?"}]


def written(program, language):
    run = record_texts(program.apply, ["ask:out"])
    answers, seen = run(program.init(None, language), language, ASKED)
    return answers, [c.text for c in seen[0]["ask:out"].completions]


def test_greedy_texts_are_as_in_process(url, near):
    program = chain_of_thought(SUMS, STEPS, number(after="it is"), length=16)
    with served(url, near) as endpoint:
        there = written(program, endpoint.language)
    print(f"llama.cpp: {there}")
    assert there == written(program, near)


def test_more_samples_than_the_server_gives_at_a_time(url, near, tmp_path):
    rule, log = number(after="it is"), tmp_path / "log"
    program = self_consistency(SUMS, STEPS, rule, samples=6, length=24)
    with served(url, near, log=log) as endpoint:
        answers, texts = written(program, endpoint.language)
        assert len(texts) == 6 and len(set(texts)) > 1
        assert endpoint.paid == 2  # six are refused, three and three are not
        again = endpoint.paid
    with served(url, near, log=log, budget=again) as endpoint:
        assert written(program, endpoint.language) == (answers, texts)
