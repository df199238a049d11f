"""What a server says, as replies and scores; and these as records of a log."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reprojax.text import Completion, Continuation, Reply, Request, Scored
from reprojax.text.language import Finish

Asked = Request | Continuation
FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "refused",
}


class Malformed(ValueError):
    """A server's answer that is none. It was paid all the same."""


def _choices(found: Any) -> list[Mapping[str, Any]]:
    choices = found.get("choices") if isinstance(found, Mapping) else None
    if not isinstance(choices, list) or not all(
        isinstance(c, Mapping) for c in choices
    ):
        raise Malformed(f"the server answered {str(found)[:200]}, expected choices")
    return sorted(choices, key=lambda choice: choice.get("index", 0))


def reply(
    found: Any,
    request: Request,
    api: str,
    encode: Callable[[str], Sequence[int]] | None,
) -> Reply:
    choices = _choices(found)
    if len(choices) != request.samples:
        raise Malformed(
            f"the server answered {len(choices)} choices, expected {request.samples}; "
            "some give one at a time: ask for samples=1 with different seeds"
        )
    completions = tuple(_completion(c, request, api) for c in choices)
    usage = found.get("usage") or {}
    prompt = usage.get("prompt_tokens")
    tokens = usage.get("completion_tokens")
    if encode is not None:  # for servers that do not count
        prompt = len(encode(request.prompt)) if prompt is None else prompt
        if tokens is None:
            tokens = sum(len(encode(one.text)) for one in completions)
    return Reply(completions, prompt or 0, tokens or 0)


def _completion(choice: Mapping[str, Any], request: Request, api: str) -> Completion:
    said = (choice.get("message") or {}) if api == "chat" else choice
    text = said.get("content" if api == "chat" else "text")
    why = choice.get("finish_reason")
    refused = why == "content_filter" or bool(said.get("refusal"))
    if why not in FINISHES or not (isinstance(text, str) or refused):
        raise Malformed(
            f"the server answered {str(choice)[:200]}, expected a text and one of "
            f"{sorted(FINISHES)} as finish_reason"
        )
    ends = [at for at in (str(text).find(stop) for stop in request.stop) if at >= 0]
    if ends and not refused:  # for servers that leave the stop string in, or go on
        return Completion(str(text)[: min(ends)], "stop")
    return Completion(text or "", "refused" if refused else FINISHES[why])


def scored(found: Any, item: Continuation) -> Scored:
    """Of an echoed prompt with one token more: those within the continuation."""
    choices = _choices(found)
    given = choices[0].get("logprobs") if choices else None
    parts = given or {}
    offsets, logp = parts.get("text_offset"), parts.get("token_logprobs")
    if not isinstance(offsets, list) or not isinstance(logp, list) or not offsets:
        raise Malformed(
            f"the server answered {str(found)[:200]}, expected the log-probabilities "
            "of the echoed prompt (text_offset, token_logprobs); not every server has "
            "them: let this one write the label (ask) instead"
        )
    start, end = len(item.prompt), len(item.prompt + item.text)
    own = [p for at, p in zip(offsets, logp, strict=False) if start <= at < end]
    if start not in offsets or None in own or not own:
        raise Malformed(
            f"the continuation {item.text!r} does not begin at a token's border behind "
            f"{item.prompt[-20:]!r}, expected one that does; move the blank from the "
            "prompt's end to it"
        )
    return Scored(float(sum(own)), len(own))


# -- records


def packed(one: Asked, answer: Reply | Scored | None) -> bytes:
    kind = "request" if isinstance(one, Request) else "continuation"
    return json.dumps({kind: one, "answer": answer}).encode()


def unpacked(payload: bytes) -> tuple[Asked, Reply | Scored | None]:
    record = json.loads(payload)
    answer = record["answer"]
    if "continuation" in record:
        one = Continuation(*record["continuation"])
        return one, None if answer is None else Scored(*answer)
    fields = Request(*record["request"])
    one = fields._replace(stop=tuple(fields.stop))
    if answer is None:
        return one, None
    completions, *tokens = answer
    return one, Reply(tuple(Completion(*c) for c in completions), *tokens)
