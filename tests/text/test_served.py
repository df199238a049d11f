"""Against a server of ours on the loopback that says what a test scripts."""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
from contextlib import contextmanager

import pytest
from answering import Server, choice, connected, far, said, upper
from assets import stories260k
from scripted import Scripted

from reprojax.recipes.prompt_instruction import (
    few_shot,
    self_consistency,
    zero_shot_chain_of_thought,
)
from reprojax.searches import BudgetSpent
from reprojax.text import (
    Completion,
    Continuation,
    Reply,
    Request,
    drive,
    in_process,
    number,
)
from reprojax.text.calibration import contextual_calibration
from reprojax.text.served import Endpoint, Malformed, Unanswered
from reprojax.text.served.connection import server as server_of


def texts(replies):
    return [[one.text for one in reply.completions] for reply in replies]


def test_what_is_sent_and_what_comes_back():
    two = said(choice("b", 1, "length"), choice("a", 0), prompt=7, tokens=9)
    request = Request("p", 2, 9, 0.5, 4, 0.9, ("\n", "Q:"), 3)
    with far(lambda path, body: two, extra={"min_p": 0.1}) as (server, endpoint):
        (reply,) = endpoint.complete([request])
    assert reply == Reply((Completion("a"), Completion("b", "length")), 7, 9)
    assert server.seen == [
        {
            "model": "tiny",
            "prompt": "p",
            "n": 2,
            "max_tokens": 9,
            "temperature": 0.5,
            "top_k": 4,
            "top_p": 0.9,
            "stop": ["\n", "Q:"],
            "seed": 3,
            "min_p": 0.1,
        }
    ]


def test_chat():
    def answer(path, body):
        assert path == "/v1/chat/completions"
        words = {"role": "assistant", "content": "hi"}
        if body["messages"][-1]["content"] == "no":
            words = {"role": "assistant", "content": None, "refusal": "I may not."}
        return said({"index": 0, "message": words, "finish_reason": "stop"})

    with far(answer, api="chat", system="Be short.") as (server, endpoint):
        replies = endpoint.complete([Request("p", stop=()), Request("no")])
        assert endpoint.language.score is None
    assert [r.completions[0] for r in replies] == [
        Completion("hi"),
        Completion("", "refused"),
    ]
    body = next(b for b in server.seen if b["messages"][-1]["content"] == "p")
    assert body["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "p"},
    ]
    assert body["max_completion_tokens"] == 64 and "stop" not in body
    assert "prompt" not in body and "max_tokens" not in body


@pytest.mark.parametrize(
    "text, why, expected",
    [
        ("a\nb", "stop", Completion("a")),
        ("a\nb", "length", Completion("a")),  # it had ended before it was cut
        ("ab", "length", Completion("ab", "length")),
        ("", "stop", Completion("")),
        ("a", "content_filter", Completion("a", "refused")),
        (None, "content_filter", Completion("", "refused")),
    ],
)
def test_why_an_answer_ended(text, why, expected):
    with far(lambda path, body: said(choice(text, why=why))) as (_, endpoint):
        assert endpoint.complete([Request("p")])[0].completions == (expected,)


def test_tokens_are_counted_here_where_a_server_does_not():
    bare = lambda path, body: {"choices": [choice("a b c")]}
    with far(bare, encode=str.split) as (_, endpoint):
        reply = endpoint.complete([Request("one two")])[0]
    assert (reply.prompt_tokens, reply.tokens) == (2, 3)
    with far(bare) as (_, endpoint):
        assert endpoint.complete([Request("one two")])[0].tokens == 0


def flaky(*statuses, then=upper):
    left = list(statuses)

    def answer(path, body):
        if left:
            return left.pop(0), {"retry-after-ms": "1"}, {"error": {"message": "busy"}}
        return then(path, body)

    return answer


def test_429_and_500_are_tried_again_and_paid_once():
    with far(flaky(429, 500, 503), retries=3) as (server, endpoint):
        assert texts(endpoint.complete([Request("p")])) == [["P"]]
        assert len(server.seen) == 4 and endpoint.paid == 1


@pytest.mark.parametrize(
    "status, tries", [(429, 3), (500, 3), (400, 1), (401, 1), (404, 1), (307, 1)]
)
def test_what_stays_wrong_ends_the_run_and_nothing_is_lost(tmp_path, status, tries):
    def answer(path, body):
        if body["prompt"] == "bad" and wrong:
            more = {"retry-after-ms": "1", "location": "http://127.0.0.1:1/v1"}
            return status, more, {"error": {"message": "no"}}
        return upper(path, body)

    wrong = [True]
    requests = [Request(p) for p in ("a", "b", "bad", "c")]
    kw = {"log": tmp_path / "log", "workers": 1, "retries": 2}
    with far(answer, **kw) as (server, endpoint):
        with pytest.raises(Unanswered, match=f"answered {status}") as caught:
            endpoint.complete(requests)
        assert (
            caught.value.status == status
            and endpoint.paid == 2
            and len(server.seen) == 2 + tries
        )
    assert f"are kept in {tmp_path / 'log'}" in caught.value.__notes__[0]
    wrong.clear()
    with far(answer, port=server.port, **kw) as (server, endpoint):
        assert texts(endpoint.complete(requests)) == [["A"], ["B"], ["BAD"], ["C"]]
        assert [body["prompt"] for body in server.seen] == ["bad", "c"]


def test_a_refused_connection():
    with Server(upper) as server:
        url = server.url
    with connected(url) as endpoint:
        with pytest.raises(Unanswered, match="is it running") as caught:
            endpoint.complete([Request("p")])
        assert "kept in no log" in caught.value.__notes__[0]
        assert endpoint.paid == 0


def test_a_record_that_a_kill_tore_is_asked_again(tmp_path):
    log = tmp_path / "log"
    requests = [Request(p) for p in ("a", "b")]
    with far(upper, log=log, workers=1) as (server, endpoint):
        endpoint.complete(requests)
    log.write_bytes(log.read_bytes()[:-5])
    with far(upper, port=server.port, log=log) as (server, endpoint):
        assert endpoint.paid == 1
        assert texts(endpoint.complete(requests)) == [["A"], ["B"]]
        assert [body["prompt"] for body in server.seen] == ["b"]


DEEP = b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
LONG = b'{"choices": [' + b" " * 17_000_000 + b"]}"


@pytest.mark.parametrize(
    "answer, fault",
    [
        (b"<html>", "b'<html>', expected JSON .* is the address"),
        (b"", "b'', expected JSON"),
        ([], "expected JSON with choices"),
        ({"error": "x"}, "expected JSON with choices"),
        ({"choices": None}, "expected JSON with choices"),
        ({"choices": ["x"]}, "expected JSON with choices"),
        (DEEP, "nested too deep"),
        (LONG, "more than 16777216 bytes"),
        (said(), "0 choices, expected 1"),
        (said(choice("a"), choice("b", 1)), "2 choices, expected 1"),
        (said(choice(None)), "expected a text and one of"),
        (said(choice(7)), "expected JSON with choices"),
        (said(choice("a", why=None)), "expected a text and one of"),
        (said(choice("a", why="tool_calls")), "tool_calls"),
        (said(choice("a", why=["stop"])), "expected JSON with choices"),
        (said(choice("a", index="0")), "expected JSON with choices"),
        ({"choices": [choice("a")], "usage": [1]}, "expected JSON with choices"),
        (said(choice("a"), prompt="3"), "expected JSON with choices"),
    ],
)
def test_malformed_answers_are_named_paid_and_not_used(tmp_path, answer, fault):
    kw = {"log": tmp_path / "log", "budget": 2}
    with far(lambda path, body: answer, **kw) as (server, endpoint):
        with pytest.raises(Malformed, match=fault):
            endpoint.complete([Request("p")])
        assert endpoint.paid == len(server.seen) == 1
    with far(upper, port=server.port, **kw) as (server, endpoint):
        assert endpoint.paid == 1
        assert texts(endpoint.complete([Request("p")])) == [["P"]]
        assert len(server.seen) == 1 and endpoint.left == 0


def test_an_answer_is_counted_whatever_reading_it_raises(tmp_path, monkeypatch):
    def broken(text):
        raise ZeroDivisionError

    bare = lambda path, body: {"choices": [choice("a")]}
    log = tmp_path / "log"
    with far(bare, log=log, encode=broken) as (server, endpoint):
        with pytest.raises(ZeroDivisionError):
            endpoint.complete([Request("p")])
        assert endpoint.paid == 1
    with connected(server.url, log=log) as endpoint:
        assert endpoint.paid == 1


# -- in time


@pytest.mark.parametrize("retries, tries", [(0, 1), (2, 3)])
def test_a_server_that_does_not_answer(retries, tries):
    late = threading.Event()

    def answer(path, body):
        late.wait(10)
        return upper(path, body)

    with far(answer, timeout=0.2, retries=retries) as (server, endpoint):
        with pytest.raises(
            Unanswered, match=r"did not answer within timeout=.*, 0 bytes"
        ):
            endpoint.complete([Request("p")])
        late.set()
        assert endpoint.paid == 0 and 1 <= len(server.seen) <= tries


@contextmanager
def dripping(head, data):
    """A server that sends the head at once, and then a byte of data every 50 ms."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve():
        with contextlib.suppress(OSError):  # the other side went away
            client, _ = listening.accept()
            with client:
                client.recv(65536)
                client.sendall(head)
                for i in range(len(data)):
                    client.sendall(data[i : i + 1])
                    if ended.wait(0.05):
                        return

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        ended.set()
        listening.close()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n"


@pytest.mark.parametrize("head", [HEAD + b"x: ", HEAD + b"\r\n"])
def test_a_timeout_is_of_the_whole_attempt(head):
    """Each byte comes in time, in the header or in the body; the whole does not."""
    with dripping(head, b"x" * 500) as url, connected(url, timeout=0.3) as endpoint:
        with pytest.raises(Unanswered, match=r"timeout=0\.3 s"):
            endpoint.complete([Request("p")])


def test_waits_between_attempts_end_with_all_of_them():
    busy = lambda path, body: (429, {"retry-after": "100"}, {"error": "busy"})
    with far(busy, timeout=0.5, retries=3) as (server, endpoint):
        with pytest.raises(Unanswered, match="answered 429"):
            endpoint.complete([Request("p")])
        assert len(server.seen) == 1  # another one would come after 2 s, the whole


@pytest.fixture
def interruptible():
    """A shell starts jobs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_ends_requests_that_are_under_way(interruptible):
    """As Ctrl-C does: the main thread waits, and gets the signal."""
    late = threading.Event()

    def answer(path, body):
        if body["prompt"] == "p3":  # the last that four workers send
            os.kill(os.getpid(), signal.SIGINT)
        late.wait(10)
        return upper(path, body)

    with Server(answer) as server:
        with pytest.raises(KeyboardInterrupt) as caught:
            with connected(server.url, workers=4) as endpoint:
                endpoint.complete([Request(f"p{i}") for i in range(9)])
        assert not late.is_set() and len(server.seen) <= 4 and endpoint.paid == 0
        late.set()
    assert "kept in no log" in caught.value.__notes__[0]


def test_requests_run_at_a_time():
    together = threading.Barrier(4, timeout=10)

    def answer(path, body):
        together.wait()  # none is answered before four are there
        return upper(path, body)

    with far(answer, workers=4) as (_, endpoint):
        requests = [Request(f"p{i}") for i in range(8)]
        assert texts(endpoint.complete(requests)) == [[f"P{i}"] for i in range(8)]


def test_the_budget_is_asked_before_anything_is_sent():
    with far(upper, budget=3) as (server, endpoint):
        endpoint.complete([Request("a"), Request("b")])
        with pytest.raises(BudgetSpent, match="2 new requests and 1 of 3 are left"):
            endpoint.complete([Request("c"), Request("a"), Request("d")])
        assert len(server.seen) == 2
        endpoint.complete([Request("b"), Request("c"), Request("c"), Request("a")])
        assert len(server.seen) == 3 and endpoint.left == 0


def test_a_replay_asks_in_any_order_and_needs_no_server(tmp_path):
    log = tmp_path / "log"
    requests = [Request(f"p{i}ü", stop=("\n", "x"), seed=i) for i in range(5)]
    with far(upper, log=log) as (server, endpoint):
        first = endpoint.complete(requests)
        url = server.url
    with connected(url, log=log, budget=5) as endpoint:
        assert endpoint.complete(requests[::-1]) == first[::-1]
        assert endpoint.left == 0
        with pytest.raises(BudgetSpent):
            endpoint.complete([requests[0]._replace(seed=7)])
    assert all(isinstance(r.completions[0], Completion) for r in first)


def test_a_log_is_of_one_model_and_one_run(tmp_path):
    log = tmp_path / "log"
    with far(upper, log=log) as (server, endpoint):
        endpoint.complete([Request("p")])
        with pytest.raises(ValueError, match="is in use by another run"):
            connected(server.url, log=log).__enter__()
    elsewhere = server.url.replace("/v1", "/v2")
    others = {"api": "chat"}, {"extra": {"min_p": 0.1}}, {"url": elsewhere}
    for other in (*others, {"model": "small"}):
        settings = {"model": "tiny", "url": server.url, "budget": 100, **other}
        with pytest.raises(ValueError, match="is of another run"):
            Endpoint(**settings, log=log).__enter__()


# -- fewer samples at a time


def few_at_a_time(most, refuses):
    """A server that gives `most` samples of those asked for, or refuses more."""

    def answer(path, body):
        if refuses and body["n"] > most:
            return 400, {}, {"error": {"message": f"n must be at most {most}"}}
        each = range(min(body["n"], most))
        return said(*[choice(f"{body['seed']}.{i}", i) for i in each], prompt=2)

    return answer


@pytest.mark.parametrize("refuses, sent", [(False, [7, 3, 1]), (True, [7, 3, 3, 1])])
def test_samples_come_in_parts_where_a_server_gives_fewer(tmp_path, refuses, sent):
    log, request = tmp_path / "log", Request("p", 7, temperature=0.7, seed=5)
    with far(few_at_a_time(3, refuses), log=log) as (server, endpoint):
        (reply,) = endpoint.complete([request])
        sizes = [body["n"] for body in server.seen]
        assert sizes == sent and endpoint.paid == 3
        assert len(set(texts([reply])[0])) == 7 and reply.prompt_tokens == 6
        seeds = [body["seed"] for body in server.seen]
        assert len(set(seeds)) == len(sent) and all(0 <= seed < 2**31 for seed in seeds)
        endpoint.complete([request._replace(prompt="q")])
        assert [body["n"] for body in server.seen[len(sent) :]] == [3, 3, 1]
    with connected(server.url, log=log, budget=6) as endpoint:
        assert endpoint.complete([request]) == [reply]  # nothing is left, and no server


def test_parts_never_pass_the_budget():
    with far(few_at_a_time(1, False), budget=3) as (server, endpoint):
        with pytest.raises(BudgetSpent):
            endpoint.complete([Request("p", 5, temperature=0.7)])
        assert endpoint.paid == len(server.seen) == 3


def test_a_request_that_is_refused_whatever_its_samples():
    no = lambda path, body: (400, {}, {"error": "too long"})
    with far(no) as (server, endpoint):
        with pytest.raises(Unanswered, match="400 Bad Request: .*too long"):
            endpoint.complete([Request("p", 5, temperature=0.7)])
        assert [body["n"] for body in server.seen] == [5, 2, 1] and endpoint.paid == 0


# -- settings


SECRETS = {
    "OPENAI_API_KEY": "secret",
    "OPENAI_ADMIN_KEY": "secret",
    "OPENAI_ORG_ID": "secret",
    "OPENAI_PROJECT_ID": "secret",
    "OPENAI_CUSTOM_HEADERS": "X-Gateway: secret",
}


def test_the_environments_key_is_not_sent_to_another_server(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with far(upper) as (server, endpoint):
        endpoint.complete([Request("p")])
        assert "secret" not in str(server.headers)
        assert not {"Authorization", "Cookie"} & server.headers[0].keys()
    with far(upper, key="mine") as (server, endpoint):
        endpoint.complete([Request("p")])
        assert server.headers[0]["Authorization"] == "Bearer mine"


def test_the_environments_key_and_names_go_to_openai(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    to = server_of(None, None)
    assert to.url == "https://api.openai.com/v1"
    assert to.headers == {
        "OpenAI-Organization": "secret",
        "OpenAI-Project": "secret",
        "Authorization": "Bearer secret",
    }
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ValueError, match="give key=, or OPENAI_API_KEY"):
        server_of(None, None)


@pytest.mark.parametrize(
    "url", ["localhost:8000", "file:///x", "http://u:p@h/v1", "http://h:99999/v1", ""]
)
def test_addresses(url):
    with pytest.raises(ValueError, match=r"expected http://host:port/v1"):
        connected(url)


@pytest.mark.parametrize(
    "settings, fault",
    [
        ({"api": "edits"}, "expected 'completions' or 'chat'"),
        ({"system": "x"}, "a system message with 'chat' alone"),
        ({"budget": 0}, "budget=0, .* expected at least 1, 1, 1 and 0"),
        ({"workers": 0}, "expected at least 1, 1, 1 and 0"),
        ({"timeout": math.nan}, "timeout=nan, expected .* seconds"),
        ({"key": "a\n"}, "a key of 2 characters that cannot be sent"),
        ({"key": ""}, "a key of 0 characters that cannot be sent"),
        ({"extra": {"a": {1}}}, "is not JSON"),
    ],
)
def test_settings(unchecked, settings, fault):
    with pytest.raises(ValueError, match=fault):
        connected("http://127.0.0.1:1/v1", **settings)


def test_without_the_client(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ValueError, match=r"pip install 'reprojax\[endpoint\]'"):
        connected("http://127.0.0.1:1/v1")


# -- the same procedures


def reason(request):
    """A language that adds, and errs in a third of its samples."""
    total = sum(
        int(n) for n in request.prompt.split("Q: ")[-1].split("?")[0].split("+")
    )
    right = f" So the answer is {total}."
    if request.samples == 1:
        return right
    return [right if i % 3 else f" The answer is {i}." for i in range(request.samples)]


def lean(item):
    """Says negative of short texts, and leans to positive."""
    z = len(item.prompt.split("Review: ")[-1]) - 22 + 3.0
    return -2 - math.log1p(math.exp(-z if "positive" in item.text else z))


def served(language):
    """The same language, as a server speaks; what it scores is one word."""

    def answer(path, body):
        if body.get("echo"):
            cut = body["prompt"].rindex(" ")
            item = Continuation(body["prompt"][:cut], body["prompt"][cut:])
            logprobs = {
                "tokens": [*item, "!"],
                "token_logprobs": [None, language.score([item])[0].logp, -1.0],
            }
            return said(choice("", logprobs=logprobs))
        names = ("n", "max_tokens", "temperature", "top_k", "top_p")
        settings = [body.get(name, 0) for name in names]
        stop = tuple(body.get("stop", ()))
        request = Request(body["prompt"], *settings, stop, body["seed"])
        (reply,) = language.complete([request])
        each = enumerate(reply.completions)
        choices = [choice(one.text, i, one.finish) for i, one in each]
        return said(*choices, prompt=reply.prompt_tokens, tokens=reply.tokens)

    return answer


SUMS = [{"question": q} for q in ("3+4?", "5+9?", "3+4?")]
QA = "Q: {question}\nA: {answer}"
STEPS = [{"question": "1+1?", "answer": "The answer is 2."}]
REVIEW = "Review: {text} Sentiment: {label}"
TEXTS = [{"text": "bad"}, {"text": "a good and long one"}, {"text": "so so"}]


def answers_of(language):
    rule = number(after="the answer is")
    found = []
    for program in (
        self_consistency(QA, STEPS, rule, samples=6),
        zero_shot_chain_of_thought(QA),
    ):
        found.append(program.apply(program.init(None, language), language, SUMS))
    program = few_shot(REVIEW, ("negative", "positive"), [])
    params = program.init(None, language)
    params = contextual_calibration(program, params, language)
    found.append(program.apply(params, language, TEXTS))
    return found


def test_procedures_run_on_an_endpoint_as_in_process(tmp_path):
    scripted = Scripted(reason, lean)
    near = answers_of(scripted.language)
    assert [a.value for a in near[0]] == [7, 14, 7]
    assert {a.value for a in near[2]} == {0, 1}
    log = tmp_path / "log"
    with far(served(scripted.language), log=log) as (server, endpoint):
        assert answers_of(endpoint.language) == near
        paid, asked = endpoint.paid, len(server.seen)
    assert paid == asked == 2 + 4 + 6 + 6
    with connected(server.url, log=log, budget=paid) as endpoint:
        assert answers_of(endpoint.language) == near  # nothing is left, and no server


@pytest.mark.verify
def test_our_own_engine_behind_a_server_answers_as_in_process(tmp_path):
    near = in_process.language(stories260k(tmp_path))
    requests = [
        Request("Once upon a time", length=12),
        Request("Tom and Lily", 3, 8, 0.9, 20, 0.95, (".",), 5),
        Request("The dog", 2, 8, 0.9, 0, 1.0, (), 6),
    ]
    items = [Continuation("The dog was", word) for word in (" happy", " sad")]
    one = threading.Lock()  # a server of one process answers one at a time
    answer = served(near)

    def in_turn(path, body):
        with one:
            return answer(path, body)

    with far(in_turn) as (_, endpoint):
        assert endpoint.complete(requests) == near.complete(requests)
        for a, b in zip(endpoint.score(items), near.score(items), strict=True):
            assert abs(a.logp - b.logp) < 1e-4


def test_a_language_of_an_endpoint_knows_its_context():
    def say(prompt):
        yield Request(prompt, length=5)

    with far(upper, encode=str.split, context=7) as (server, endpoint):
        with pytest.raises(
            ValueError, match="a prompt of 3 tokens and 5 for the answer"
        ):
            drive([say("a b c")], endpoint.language)
        assert not server.seen
