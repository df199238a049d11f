"""The interface between strings and a model.

Below `Language` everything is arrays, or somebody else's server; above it everything is
text. A frozen language model is a `Language`, whatever runs it.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, get_args

Finish = Literal["stop", "length", "refused"]
"""How it ended: by itself or at a stop string; it was cut; the service withheld it."""


class Request(NamedTuple):
    """A request for a completion. Hashable, so equal requests can be merged."""

    prompt: str
    samples: int = 1
    length: int = 64
    """The most tokens of an answer."""
    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    """0 means all."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ("\n",)
    """Strings that end an answer and are removed from it."""
    seed: int = 0
    """A sampled answer depends on the prompt and this, not on its place in a batch."""


class Completion(NamedTuple):
    """One answer, and how it ended."""

    text: str
    finish: Finish = "stop"


class Reply(NamedTuple):
    """The answers to a request, and their cost."""

    completions: tuple[Completion, ...]
    """As many as `samples`."""
    prompt_tokens: int = 0
    tokens: int = 0
    """Generated tokens, of all completions together."""


class Continuation(NamedTuple):
    """A text to score after a prompt."""

    prompt: str
    text: str


class Scored(NamedTuple):
    """log p(text | prompt), summed over the text's tokens, and their number."""

    logp: float
    tokens: int = 1
    of: Literal["text", "first token", "at most"] = "text"
    """What logp covers: the whole text; its first token; or an upper bound for its
    first token, from servers that list only the most likely next ones."""


class Language(NamedTuple):
    """A frozen model from text to text. What it cannot do is None."""

    complete: Callable[[Sequence[Request]], Sequence[Reply]] | None = None
    """A reply to each of different requests."""
    score: Callable[[Sequence[Continuation]], Sequence[Scored]] | None = None
    """A score of each of different continuations; those of one prompt come in
    succession, so that the prompt is read once."""
    encode: Callable[[str], Sequence[int]] | None = None
    """A text's token ids as at the start of a prompt. It counts tokens for budgets, and
    shows which label words are one token."""
    context: int | None = None
    """The most tokens of a prompt and its answer together."""


class Usage:
    """Counts of what a `metered` language was asked so far."""

    def __init__(self) -> None:
        self.requests = self.scored = self.prompt_tokens = self.tokens = 0

    def __repr__(self) -> str:
        return (
            f"{self.requests} requests, {self.scored} continuations scored, "
            f"{self.prompt_tokens} tokens of prompts, {self.tokens} of answers"
        )


def metered(language: Language) -> tuple[Language, Usage]:
    """The same language, and a running count of its requests and tokens."""
    usage = Usage()

    def complete(requests: Sequence[Request]) -> Sequence[Reply]:
        replies = _able(language, "complete")(requests)
        usage.requests += len(requests)
        usage.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        usage.tokens += sum(reply.tokens for reply in replies)
        return replies

    def score(items: Sequence[Continuation]) -> Sequence[Scored]:
        usage.scored += len(items)
        return _able(language, "score")(items)

    return language._replace(
        complete=complete if language.complete else None,
        score=score if language.score else None,
    ), usage


def count_tokens(language: Language, text: str) -> int:
    """The number of tokens of a prompt."""
    return len(_able(language, "encode")(text))


def completed(language: Language, requests: Sequence[Request]) -> list[Reply]:
    """A reply to each of different requests; all are checked before one is sent."""
    for request in requests:
        _check_request(request)
        if language.context is not None:
            _check_room(language, request.prompt, request.length)
    replies = list(_able(language, "complete")(requests))
    if [len(r.completions) for r in replies] != [r.samples for r in requests]:
        raise ValueError(
            f"the language answered {len(requests)} requests with "
            f"{[len(r.completions) for r in replies]} completions, expected "
            f"{[r.samples for r in requests]}; correct its complete()"
        )
    for one in (one for reply in replies for one in reply.completions):
        if not isinstance(one.text, str) or one.finish not in get_args(Finish):
            raise ValueError(
                f"the language answered {one!r}, expected a text that ended by one of "
                f"{get_args(Finish)}; correct its complete()"
            )
    return replies


def scored(language: Language, items: Sequence[Continuation]) -> list[Scored]:
    """The log-probability of each of different continuations."""
    for item in items:
        _check_text(item.prompt + item.text)
        if not item.text:
            raise ValueError(
                f"got an empty continuation of {item.prompt[-40:]!r}, expected a "
                "text; give each label a word"
            )
        if language.context is not None:
            _check_room(language, item.prompt + item.text, 0)
    found = list(_able(language, "score")(items))
    wrong = [one for one in found if not _is_score(one)]
    if len(found) != len(items) or wrong:
        raise ValueError(
            f"the language scored {len(items)} continuations with {len(found)} "
            f"numbers, {len(wrong)} of them wrong, such as {wrong[:1]}; expected a "
            "finite log-probability of at most 0 for each; correct its score()"
        )
    return found


def _is_score(one: Any) -> bool:
    """Whether it is a log-probability; rounding may put a sum a little above 0."""
    logp = one.logp if isinstance(one, Scored) else None
    if not isinstance(logp, Real) or isinstance(logp, bool):
        return False
    return math.isfinite(logp) and float(logp) <= 1e-3


def _able(language: Language, what: str) -> Callable[..., Any]:
    able = getattr(language, what)
    if able is None:
        why = {
            "complete": "write answers",
            "score": "score continuations; ask it to write the label (ask), or take "
            "one that can",
            "encode": "count tokens; give it encode=tokenizer.encode, or no budget",
        }
        raise ValueError(
            f"this language has no {what}(), expected one that can {why[what]}"
        )
    return able


def _check_request(request: Request) -> None:
    if request.samples < 1 or request.length < 1 or request.temperature < 0:
        raise ValueError(
            f"got a request with samples={request.samples}, length={request.length} "
            f"and temperature={request.temperature}, expected at least 1, 1 and 0"
        )
    if request.samples > 1 and request.temperature == 0:
        raise ValueError(
            f"{request.samples} samples at temperature 0 are all the same, expected a "
            "temperature above 0, or one sample"
        )
    _check_text(request.prompt)
    if "" in request.stop:
        raise ValueError("got an empty stop string, expected texts; give stop=()")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"got a text with {text[error.start : error.end]!a} in it, expected whole "
            "characters, which UTF-8 can hold; read the data with the right encoding"
        ) from None


def _check_room(language: Language, text: str, length: int) -> None:
    tokens, room = count_tokens(language, text), language.context or 0
    if tokens + length > room:
        raise ValueError(
            f"got a prompt of {tokens} tokens and {length} for the answer, expected "
            f"at most {room} together, the model's context; nothing was sent; give "
            "fewer demonstrations, a budget, or a smaller length. It begins "
            f"{text[:60]!r}"
        )
