"""Log-probabilities as servers give them, right, elsewhere and wrong."""

import itertools
import json
import math
import zlib

import pytest
from answering import choice, connected, far, said

from reprojax.text import Continuation, Scored
from reprojax.text.served import Malformed
from reprojax.text.served.scoring import echoed

# -- by an echo


def echoing(step):
    """Tokens of `step` letters, each with log p = -offset."""

    def answer(path, body):
        assert body["echo"] and body["logprobs"] == 1 and body["max_tokens"] == 1
        text = body["prompt"] + "!!"
        at = list(range(0, len(body["prompt"]), step)) + [len(body["prompt"])]
        tokens = [text[a:b] for a, b in itertools.pairwise([*at, len(text)])]
        logp = [None, *(-i for i in at[1:])]
        logprobs = {"tokens": tokens, "text_offset": at, "token_logprobs": logp}
        return said(choice(text, why="length", logprobs=logprobs))

    return answer


def test_scores_are_of_the_continuations_tokens_alone(tmp_path):
    items = [Continuation("abcd", " x"), Continuation("abcd", " xyz")]
    log = tmp_path / "log"
    with far(echoing(2), log=log) as (server, endpoint):
        assert endpoint.score(items) == [Scored(-4, 1), Scored(-10, 2)]
        assert {body["prompt"] for body in server.seen} == {"abcd x", "abcd xyz"}
    with connected(server.url, log=log) as endpoint:
        assert endpoint.score(items) == [Scored(-4, 1), Scored(-10, 2)]


def test_a_continuation_that_begins_within_a_token():
    with far(echoing(3)) as (_, endpoint):
        with pytest.raises(Malformed, match="begins within a token, move the blank"):
            endpoint.score([Continuation("abcd", " x")])


@pytest.mark.parametrize("logprobs", [None, {}, {"text_offset": [0]}, {"tokens": []}])
def test_a_server_that_cannot_score(logprobs):
    answer = lambda path, body: said(choice("a", logprobs=logprobs))
    with far(answer) as (server, endpoint):
        with pytest.raises(Malformed, match="let it write the label"):
            endpoint.score([Continuation("abcd", " x")])
        assert endpoint.paid == len(server.seen) == 2  # an echo, the next token


def next_token(logp, refuse=False, ids=False):
    """A server that does not echo: {token: log p} of whatever comes next."""

    def answer(path, body):
        if refuse and body.get("echo"):
            return 400, {}, {"error": {"message": "echo is not supported"}}
        likely = dict(list(logp.items())[: body["logprobs"]])
        if not ids:
            given = {"tokens": [next(iter(logp))], "top_logprobs": [likely]}
            return said(choice(" x", logprobs={**given, "token_logprobs": [-1.0]}))
        each = [
            {"token": t, "logprob": p, "id": BYTES.encode(t), "bytes": list(t.encode())}
            for t, p in likely.items()
        ]
        place = {"token": " x", "logprob": -1.0, "top_logprobs": each}
        return said(choice(" x", logprobs={"content": [place]}))

    return answer


class Vocabulary:
    """Texts to ids, the longest token first."""

    def __init__(self, *tokens):
        self.tokens = sorted(tokens, key=len, reverse=True)

    def __call__(self, text):
        ids = []
        while text:
            one = next((t for t in self.tokens if text.startswith(t)), text[0])
            ids.append(self.encode(one))
            text = text[len(one) :]
        return ids

    def encode(self, token):
        known = token in self.tokens
        return self.tokens.index(token) if known else 1000 + zlib.crc32(token.encode())


BYTES = Vocabulary(" positive", " nega", "tive", " neutral")
SAID = {" positive": -0.5, " bad": -1.5, " nega": -2.0, " neutral": -4.0, " x": -5.0}
LABELS = [Continuation("It is", w) for w in (" positive", " negative", " neutral")]


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("ids", [False, True])
def test_labels_are_scored_by_their_first_token_where_nothing_is_echoed(
    tmp_path, refuse, ids
):
    """One request a prompt, written down; what its numbers are of is said."""
    log = tmp_path / "log"
    expected = [Scored(-0.5), Scored(-2.0, 1, "first token"), Scored(-4.0)]
    with far(next_token(SAID, refuse, ids), encode=BYTES, log=log) as (server, one):
        with pytest.warns(UserWarning, match="scored by their first token") as said:
            assert one.score(LABELS) == expected
            assert one.score(LABELS) == expected
        assert len(said) == 1
        assert one.paid == 2 - refuse and len(server.seen) == 2
        other = [item._replace(prompt="So it is") for item in LABELS]
        assert one.score(other) == expected and len(server.seen) == 3
        paid = one.paid
    with connected(server.url, encode=BYTES, log=log, budget=paid) as endpoint:
        with pytest.warns(UserWarning, match="scored by their first token"):
            assert endpoint.score(LABELS) == expected


def test_a_label_that_is_not_listed_gets_a_bound_that_is_said():
    with far(next_token(SAID), encode=BYTES, top=3) as (_, endpoint):
        with pytest.warns(UserWarning, match="not among the top=3 next tokens"):
            found = endpoint.score([LABELS[0], LABELS[2]])
    assert found[0] == Scored(-0.5) and found[1].of == "at most"
    rest = 1 - math.exp(-0.5) - math.exp(-1.5) - math.exp(-2.0)
    assert found[1].logp == pytest.approx(min(-2.0, math.log(rest)))
    assert found[1].logp >= SAID[" neutral"]


@pytest.mark.parametrize(
    "words, settings, fault",
    [
        ([" negative", " negation"], {}, "begin with one token, expected different"),
        ([" negative"], {}, "' negative' of 2 tokens alone"),
        ([" no", " yes"], {}, "none of .* begins with one of them"),
        ([" positive", " negative"], {"encode": None}, "no token ' negative' among"),
    ],
)
def test_labels_that_a_next_token_cannot_score(words, settings, fault):
    settings = {"encode": Vocabulary(" nega", "tive", " no", " yes"), **settings}
    with far(next_token(SAID), **settings) as (_, endpoint):
        with pytest.raises(ValueError, match=fault):
            endpoint.score([Continuation("It is", word) for word in words])


def test_a_tokeniser_that_is_not_the_servers_is_told():
    with far(next_token(SAID, ids=True), encode=Vocabulary(" neutral")) as (_, one):
        with pytest.raises(ValueError, match="the encode of the server's own"):
            one.score([LABELS[2], Continuation("It is", "ok")])


# -- what an echo looks like: no server is needed

PROMPT, LABEL = "Q: 🙂 so é?\nA:", " yes"
PIECES = ["Q", ":", " 🙂", " so", " é", "?", "\n", "A", ":"]
PARTS = ["Q", ":", " \ufffd", "\ufffd", "\ufffd", " so", " \ufffd", "\ufffd", "?\nA:"]
AS_BYTES = ["Q: ", "bytes:\\xf0\\x9f\\x99", "bytes:\\x82", " so é?\nA:"]
LATE = ["Q: ", "", "", "🙂", " so ", "", "é", "?\nA:"]  # printed once they are whole


def echo_of(tokens, logp):
    given = {"tokens": tokens, "token_logprobs": logp, "text_offset": [0] * len(tokens)}
    return json.dumps({"choices": [{"text": "", "logprobs": given}]}).encode()


@pytest.mark.parametrize("front", [[], [""], ["<s>"], ["<|begin_of_text|>"]])
@pytest.mark.parametrize("pieces", [PIECES, PARTS, AS_BYTES, LATE])
@pytest.mark.parametrize("label", [[" yes"], [" ye", "s"]])
@pytest.mark.parametrize("new", [[], ["."], [""], [" yes"]])
def test_echoed_tokens_of_a_label(front, pieces, label, new):
    before = [*front, *pieces]
    logp = [
        None,
        *[-9.0] * (len(before) - 1),
        *[-0.25] * len(label),
        *[-7.0] * len(new),
    ]
    data = echo_of([*before, *label, *new], logp)
    found = echoed(data, Continuation(PROMPT, LABEL), None)
    assert found == Scored(-0.25 * len(label), len(label))


@pytest.mark.parametrize(
    "label, tokens",
    [("🙂", ["bytes:\\xf0\\x9f", "bytes:\\x99\\x82"]), ("🙂", ["", "🙂"])],
)
def test_a_label_of_parts_of_a_character(label, tokens):
    data = echo_of(["Q", ":", *tokens, "!"], [None, -9.0, -0.5, -0.25, -7.0])
    assert echoed(data, Continuation("Q:", label), None) == Scored(-0.75, 2)


def test_echoed_token_ids_are_compared_with_the_tokenisers():
    ids = [7, *BYTES("It is negative"), 5]
    tokens = [f"token_id:{i}" for i in ids]
    logp = [None, *[-9.0] * 5, -1.0, -0.5, -7.0]
    data = echo_of(tokens, logp)
    assert echoed(data, LABELS[1], BYTES) == Scored(-1.5, 2)
    with pytest.raises(Malformed, match="give encode=tokenizer.encode"):
        echoed(data, LABELS[1], None)
    with pytest.raises(Malformed, match="do not spell"):
        echoed(data, LABELS[0], BYTES)


@pytest.mark.parametrize(
    "tokens",
    [
        ["Q", ":", "yes", "!"],  # a tokeniser that prints no blanks
        ["Q", ":", "\ufffd", " yes", "!"],  # no part of a character is missing
        ["<s>", "<s>", "Q", ":", " yes", "!"],
        ["Q", ": ", "yes", "!"],
        [" Q", ":", " yes", "!"],
        ["Q", ":", " yes", "!", "!"],  # two tokens more than were asked for
        ["Q", ":", " no", "!"],
    ],
)
def test_an_echo_that_does_not_spell_what_was_sent(tokens):
    data = echo_of(tokens, [None, *[-1.0] * (len(tokens) - 1)])
    with pytest.raises(Malformed, match="do not spell 'Q:' followed by ' yes'"):
        echoed(data, Continuation("Q:", " yes"), None)


def test_parts_of_a_character_hide_nothing_else():
    """Of four parts, three may not be the blank and two letters behind the first."""
    tokens = ["no:", " \ufffd\ufffd\ufffd\ufffd", " no"]
    item = Continuation("no: é no", " no")
    with pytest.raises(Malformed, match="do not spell"):
        echoed(echo_of(tokens, [None, -1.0, -1.0]), item, None)


WRONG = [0.5, True, "-1", [], {}, "NaN", float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("p", WRONG)
def test_what_is_no_log_probability_is_refused_and_paid(p):
    echo = echo_of(["Q:", " yes", "."], [None, p, -1.0])
    with far(lambda path, body: echo) as (_, endpoint):
        with pytest.raises(Malformed, match="the server answered"):
            endpoint.score([Continuation("Q:", " yes")])
        assert endpoint.paid == 1
    with far(next_token({" yes": p}, refuse=True)) as (_, endpoint):
        with pytest.raises(Malformed, match="the server answered"):
            endpoint.score([Continuation("Q:", " yes")])
        assert endpoint.paid == 1


def test_probabilities_of_next_tokens_sum_to_one_at_most():
    with far(next_token({" yes": -0.1, " no": -0.1})) as (_, endpoint):
        with pytest.raises(Malformed, match="probabilities sum to 1.810"):
            endpoint.score([Continuation("Q:", " yes")])
