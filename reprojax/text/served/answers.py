"""A server's answers as replies and next tokens, and both as records of a log."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from reprojax.saving.files import decode_json
from reprojax.text import Completion, Continuation, Reply, Request, Scored
from reprojax.text.language import Finish
from reprojax.text.served.connection import MOST_BYTES

Encode = Callable[[str], Sequence[int]]
FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refused",
}
ROUNDING = 1e-4  # of log-probabilities, and of a sum of probabilities


class Malformed(ValueError):
    """An unusable answer of a server. It was paid nevertheless."""


class NextToken(NamedTuple):
    """A question: the `top` most likely tokens after a prompt."""

    prompt: str
    top: int


class Token(NamedTuple):
    """A likely token. Its text is None if the server gives only its id."""

    logp: float
    text: str | None = None
    id: int | None = None


Asked = Request | Continuation | NextToken
Answered = Reply | Scored | tuple[Token, ...]


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(_Message):
    text: str | None = None
    message: _Message | None = None
    finish_reason: str | None = None
    index: int | None = None


class _Said(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Likely(msgspec.Struct):
    token: str
    logprob: float
    id: int | None = None
    bytes: list[int] | None = None


class _Place(msgspec.Struct):
    top_logprobs: list[_Likely]


class Logprobs(msgspec.Struct):
    """Log-probabilities as in completions, or (`content`) in chats and llama.cpp."""

    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[_Place] | None = None


class _Judged(msgspec.Struct):
    logprobs: Logprobs | None = None


class _Judgement(msgspec.Struct):
    choices: list[_Judged]


def _decoded(data: bytes, kind: Any) -> Any:
    if len(data) > MOST_BYTES:
        raise Malformed(
            f"the server answered more than {MOST_BYTES} bytes, expected at most that; "
            "ask for fewer samples or shorter answers"
        )
    try:
        return decode_json(data, kind, "the server's answer")
    except ValueError as error:
        raise Malformed(
            f"the server answered {data[:200]!r}, expected JSON with choices: {error}; "
            "is the address that of an OpenAI-compatible API, with its /v1?"
        ) from error


def reply(data: bytes, request: Request, api: str, encode: Encode | None) -> Reply:
    """A reply with as many completions as requested, or fewer.

    Servers that limit the samples of a request may return fewer without saying so.
    """
    said = _decoded(data, _Said)
    if not 1 <= len(said.choices) <= request.samples:
        raise Malformed(
            f"the server answered {len(said.choices)} choices, expected 1 to "
            f"{request.samples}"
        )
    order = [choice.index for choice in said.choices]
    if None not in order:
        said.choices.sort(key=lambda choice: choice.index)
    completions = tuple(_completion(c, request, api) for c in said.choices)
    usage = said.usage or _Usage()
    prompt, tokens = usage.prompt_tokens, usage.completion_tokens
    if encode is not None:  # for servers that do not report usage
        prompt = len(encode(request.prompt)) if prompt is None else prompt
        if tokens is None:
            tokens = sum(len(encode(one.text)) for one in completions)
    return Reply(completions, prompt or 0, tokens or 0)


def _completion(choice: _Choice, request: Request, api: str) -> Completion:
    said = (choice.message or _Message()) if api == "chat" else choice
    text = said.content if api == "chat" else choice.text
    why = choice.finish_reason
    refused = why == "content_filter" or bool(said.refusal)
    if why not in FINISHES or not (text is not None or refused):
        raise Malformed(
            f"the server answered text {str(text)[:200]!r} with finish_reason "
            f"{why!r}, expected a text and one of {sorted(FINISHES)}"
        )
    ends = [at for at in ((text or "").find(stop) for stop in request.stop) if at >= 0]
    if text and ends and not refused:  # some servers keep the stop, or pass it
        return Completion(text[: min(ends)], "stop")
    return Completion(text or "", "refused" if refused else FINISHES[why])


# -- log-probabilities


def logprobs(data: bytes) -> Logprobs:
    """The log-probabilities of an answer's only choice; empty if there are none."""
    found = _decoded(data, _Judgement).choices
    if len(found) != 1:
        raise Malformed(f"the server answered {len(found)} choices, expected 1")
    return found[0].logprobs or Logprobs()


def check_logprobs(values: Sequence[float]) -> None:
    if wrong := [p for p in values if not p <= ROUNDING or math.isinf(p)]:
        raise Malformed(
            f"the server answered {wrong[0]} as a log-probability, expected finite "
            "numbers up to 0; it may give probabilities, or none at temperature 0"
        )


def next_tokens(data: bytes) -> tuple[Token, ...]:
    """The most likely next tokens, from any of the three formats."""
    given = logprobs(data)
    if given.content:
        found = [_token(one.token, one) for one in given.content[0].top_logprobs]
    elif given.top_logprobs and given.top_logprobs[0]:
        each = given.top_logprobs[0].items()
        found = [_token(text, _Likely(text, logp)) for text, logp in each]
    else:
        raise Malformed(
            "the server answered no log-probabilities, neither of an echoed prompt nor "
            "of the next token, expected logprobs.tokens or top_logprobs; let it "
            "write the label (ask), and read it with words(among=labels)"
        )
    check_logprobs([one.logp for one in found])
    if (total := sum(math.exp(one.logp) for one in found)) > 1 + 100 * ROUNDING:
        raise Malformed(
            f"the server answered next tokens whose probabilities sum to {total:.3f}, "
            "expected at most 1"
        )
    return tuple(found)


def _token(text: str, one: _Likely) -> Token:
    if (number := token_id(text)) is not None:
        return Token(one.logprob, None, number)
    return Token(one.logprob, _spelled(text, one.bytes), one.id)


def token_id(text: str) -> int | None:
    """The id in "token_id:123", vLLM's form under return_tokens_as_token_ids."""
    name, _, number = text.partition(":")
    return int(number) if name == "token_id" and number.isdecimal() else None


def _spelled(text: str, data: list[int] | None) -> str | None:
    """A token's text; None if it is part of a character."""
    try:
        whole = token_bytes(text).decode() if data is None else bytes(data).decode()
    except ValueError:
        return None
    return None if "\ufffd" in whole else whole


def token_bytes(text: str) -> bytes:
    """The bytes of a printed token; parts of characters are like "bytes:\\xf0\\x9f"."""
    if not text.startswith("bytes:\\x"):
        return text.encode()
    try:
        return bytes.fromhex(text.removeprefix("bytes:").replace("\\x", ""))
    except ValueError:
        return text.encode()


# -- records


def packed(one: Asked, answer: Answered | None) -> bytes:
    kinds = {Request: "request", Continuation: "continuation", NextToken: "next"}
    return json.dumps({kinds[type(one)]: one, "answer": answer}).encode()


def unpacked(payload: bytes) -> tuple[Asked, Answered | None]:
    record = json.loads(payload)
    answer = record["answer"]
    if "next" in record:
        found = None if answer is None else tuple(Token(*one) for one in answer)
        return NextToken(*record["next"]), found
    if "continuation" in record:
        one = Continuation(*record["continuation"])
        return one, None if answer is None else Scored(*answer)
    fields = Request(*record["request"])
    one = fields._replace(stop=tuple(fields.stop))
    if answer is None:
        return one, None
    completions, *tokens = answer
    return one, Reply(tuple(Completion(*c) for c in completions), *tokens)
