"""Scores of continuations, from an echoed prompt or from likely next tokens."""

import itertools
import math
import re
from collections.abc import Sequence

from reprojax.text import Continuation, Scored, label_tokens
from reprojax.text.served.answers import (
    ROUNDING,
    Encode,
    Malformed,
    Token,
    check_logprobs,
    logprobs,
    token_bytes,
    token_id,
)

UNKNOWN = "\ufffd"  # printed by some servers for part of a character


class NotEchoed(Malformed):
    """The server ignored `echo`."""


def echoed(data: bytes, item: Continuation, encode: Encode | None) -> Scored:
    """The continuation's score from an echoed prompt, with or without one more token.

    Offsets into the text are not used: they count the printed form of a first special
    token, and are missing within a character. Instead the tokens must spell the text.
    """
    given = logprobs(data)
    tokens, logp = given.tokens, given.token_logprobs
    if given.content or not tokens or logp is None or len(tokens) < 2:
        raise NotEchoed(
            "the server answered no log-probabilities of the echoed prompt (tokens, "
            "token_logprobs)"
        )
    if len(tokens) != len(logp):
        raise Malformed(
            f"the server answered {len(tokens)} tokens and {len(logp)} "
            "log-probabilities, expected one each"
        )
    start, end = _place(tokens, item, encode)
    own = [p for p in logp[start:end] if p is not None]
    if len(own) < end - start:
        raise Malformed(
            f"the server answered no log-probability of the first token of {item!r}, "
            "expected a prompt before it; begin it with some text"
        )
    check_logprobs(own)
    return Scored(min(sum(own), 0.0), len(own))


def _place(
    tokens: Sequence[str], item: Continuation, encode: Encode | None
) -> tuple[int, int]:
    """(first, end): the places of the continuation's tokens."""
    ids = [token_id(token) for token in tokens]
    named = None not in ids
    if named and encode is None:
        raise Malformed(
            f"the server answered tokens by their ids, {tokens[:3]}, expected texts; "
            "give encode=tokenizer.encode, or leave return_tokens_as_token_ids out"
        )
    for end in (len(tokens) - 1, len(tokens)):  # with a generated token, or none
        if named and encode is not None:
            start = _from_ids(ids[:end], item, encode)
        else:
            start = _from_texts([token_bytes(token) for token in tokens[:end]], item)
        if start is not None:
            return start, end
    raise Malformed(
        f"the server echoed {''.join(tokens)[-60:]!r}, whose tokens do not spell "
        f"{item.prompt[-40:]!r} followed by {item.text!r}; if the continuation "
        "begins within a token, move the blank from the prompt's end to it; otherwise "
        "ask for ids: encode=tokenizer.encode and "
        "extra={'return_tokens_as_token_ids': True}, where the server has that"
    )


def _from_ids(
    ids: Sequence[int | None], item: Continuation, encode: Encode
) -> int | None:
    """The first place, if the tokeniser gives these ids, or all but a first special."""
    whole = list(encode(item.prompt + item.text))
    if list(ids) != whole and list(ids[1:]) != whole:
        return None
    return len(ids) - len(label_tokens(encode, item.prompt, [item.text])[0])


def _from_texts(tokens: Sequence[bytes], item: Continuation) -> int | None:
    start, left = len(tokens), len(item.text.encode())
    while left > 0 and start:
        start -= 1
        left -= len(tokens[start])
    while start > 1 and not tokens[start - 1]:  # printed with the character's next part
        start -= 1
    if not start or b"".join(tokens[start:]) != item.text.encode():
        return None
    fronts = tokens[:start], tokens[1:start]  # the first may be a printed special token
    printed = [b"".join(front).decode("utf8", "replace") for front in fronts]
    return start if any(_spells(one, item.prompt) for one in printed) else None


def _spells(printed: str, text: str) -> bool:
    """Whether it spells the text, except characters of which parts were printed."""
    ends = {0}  # possible ends, in the text, of the pieces so far
    for parts, piece in re.findall(f"({UNKNOWN}+)|([^{UNKNOWN}]+)", printed):
        if piece:
            ends = {at + len(piece) for at in ends if text.startswith(piece, at)}
        else:
            lengths = range(1, len(parts) + 1)
            tails = [(at + n, text[at : at + n]) for at in ends for n in lengths]
            ends = {end for end, own in tails if own and min(own) > "\x7f"}
    return len(text) in ends


# -- by the first token

Begins = Sequence[tuple[int, ...] | None]
"""The tokens of continuations of one prompt; None if no tokeniser is known."""


def beginnings(items: Sequence[Continuation], encode: Encode | None) -> Begins:
    """The tokens of continuations of one prompt; raise if their first ones coincide."""
    if encode is None:
        return [None] * len(items)  # then only single-token ones can be recognised
    found = label_tokens(encode, items[0].prompt, [item.text for item in items])
    if len(found) == 1 and len(found[0]) > 1:
        raise ValueError(
            f"got {items[0].text!r} of {len(found[0])} tokens alone, expected others "
            "to compare it with: this server scores the first token of each; take one "
            "that echoes prompts for whole texts"
        )
    for (a, x), (b, y) in itertools.combinations(zip(items, found, strict=True), 2):
        if x[0] == y[0]:
            raise ValueError(
                f"got the labels {a.text!r} and {b.text!r}, which begin with one "
                "token, expected different ones: this server scores the first token "
                "alone; give other words, or let it write the label (ask)"
            )
    return found


def by_first_token(
    items: Sequence[Continuation], likely: Sequence[Token], encode: Encode | None
) -> list[Scored]:
    """Scores of continuations of one prompt, from the most likely tokens after it.

    An unlisted token is at most as likely as the listed ones, and as what they leave.
    """
    pairs = zip(items, beginnings(items, encode), strict=True)
    found = [_first(item, ids, likely, encode) for item, ids in pairs]
    lost = [item.text for item, one in zip(items, found, strict=True) if one is None]
    if len(lost) == len(items):
        raise ValueError(
            f"got {len(likely)} likeliest tokens after {items[0].prompt[-40:]!r}, and "
            f"none of {lost} begins with one of them, expected one at least; give a "
            "larger top=, or let the server write the label (ask)"
        )
    if lost and encode is None:
        raise ValueError(
            f"got no token {lost[0]!r} among the {len(likely)} likeliest, expected "
            "every label as one token; give encode=tokenizer.encode, which says how "
            "each begins, or a larger top="
        )
    rest = max(1 - sum(math.exp(one.logp) for one in likely), ROUNDING / 100)
    most = min(min(one.logp for one in likely), math.log(rest))
    return [Scored(most, 1, "at most") if one is None else one for one in found]


def _first(
    item: Continuation,
    ids: tuple[int, ...] | None,
    likely: Sequence[Token],
    encode: Encode | None,
) -> Scored | None:
    if ids is None or encode is None:
        own = [one for one in likely if one.text == item.text]
        return Scored(min(own[0].logp, 0.0)) if own else None
    own = [one for one in likely if _is_first(one, item, ids[0], encode)]
    if not own and any(one == (one.logp, None, None) for one in likely):
        _check_whole(item, ids[0], encode)
    if not own:
        return None
    return Scored(min(own[0].logp, 0.0), 1, "text" if len(ids) == 1 else "first token")


def _is_first(one: Token, item: Continuation, first: int, encode: Encode) -> bool:
    begins = one.text is None or item.text.startswith(one.text)
    if one.id == first and not begins:
        raise ValueError(
            f"got {one.text!r} as the server's token {first}, which begins "
            f"{item.text!r} by encode; give the encode of the server's own tokeniser"
        )
    if one.id is not None or not begins or not one.text:
        return one.id == first
    return _follows(item.prompt, one.text, first, encode)


def _follows(prompt: str, text: str, token: int, encode: Encode) -> bool:
    return tuple(encode(prompt + text)) == (*encode(prompt), token)


def _check_whole(item: Continuation, first: int, encode: Encode) -> None:
    """Raise if a likely token is part of a character that may begin this one."""
    texts = [item.text[:end] for end in range(1, len(item.text) + 1)]
    if not any(_follows(item.prompt, text, first, encode) for text in texts):
        raise ValueError(
            f"got {item.text!r}, which begins with a part of a character, expected a "
            "first token with a text of its own; give other words"
        )
