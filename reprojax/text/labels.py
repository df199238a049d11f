"""Label words and their tokens after a prompt."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from reprojax.alignments import calibrated
from reprojax.core import Key, Manipulation, Params, Scope, chain
from reprojax.text.answers import likeliest
from reprojax.text.language import Language
from reprojax.text.template import asked, ending

Encode = Callable[[str], Sequence[int]]
By = Literal["sum", "mean"]


def check_texts(labels: Any) -> None:
    """Raise at a single text, whose letters would be the labels, and at non-texts."""
    if isinstance(labels, str) or not all(isinstance(one, str) for one in labels):
        raise ValueError(
            f"got the labels {labels!r}, expected a list of texts, such as "
            '("negative", "positive")'
        )


def label_tokens(
    encode: Encode, prompt: str, labels: Sequence[str]
) -> list[tuple[int, ...]]:
    """The tokens of each label after a prompt: those of both minus the prompt's.

    A label whose first letters share a token with the prompt's end raises ValueError.
    """
    start, found = tuple(encode(prompt)), []
    for label in labels:
        whole = tuple(encode(prompt + label))
        if not label or whole[: len(start)] != start or len(whole) == len(start):
            raise ValueError(
                f"the label {label!r} does not begin at a token's border after "
                f"{prompt[-20:]!r}, expected one that does; put the blank between them "
                "into the label, not at the prompt's end"
            )
        found.append(whole[len(start) :])
    return found


def one_token_each(encode: Encode, prompt: str, labels: Sequence[str]) -> list[int]:
    """The one token of each label; raise if labels are longer or share a token."""
    found = label_tokens(encode, prompt, labels)
    firsts = [tokens[0] for tokens in found]
    if same := _twice(labels, firsts):
        raise ValueError(
            f"the labels {same[0]!r} and {same[1]!r} begin with one token, and a "
            "single token cannot tell them apart; give other words, or score the whole "
            "labels"
        )
    if long := [
        f"{w!r} ({len(t)})" for w, t in zip(labels, found, strict=True) if len(t) > 1
    ]:
        raise ValueError(
            f"got labels of several tokens: {', '.join(long)}; expected one each; "
            "give other words, or score the whole labels"
        )
    return firsts


def _twice(labels: Sequence[str], keys: Sequence[Any]) -> tuple[str, str] | None:
    seen: dict[Any, str] = {}
    for label, key in zip(labels, keys, strict=True):
        if key in seen:
            return seen[key], label
        seen[key] = label
    return None


def check_labels(
    language: Language,
    prompt: str,
    labels: Sequence[str],
    *,
    one_token: bool = False,
    by: By = "sum",
) -> None:
    """Raise unless the scores of these labels after such a prompt are comparable."""
    if len(labels) < 2 or _twice(labels, labels):
        raise ValueError(
            f"got the labels {list(labels)}, expected at least two, each once"
        )
    if language.encode is None:
        if one_token:
            raise ValueError(
                "one-token labels need the language's tokens, and it has no encode(); "
                "give it encode=tokenizer.encode, or score the whole labels"
            )
        return
    if one_token:
        one_token_each(language.encode, prompt, labels)
        return
    found = label_tokens(language.encode, prompt, labels)
    if same := _twice(labels, found):
        raise ValueError(
            f"the labels {same[0]!r} and {same[1]!r} have the same tokens, expected "
            "others; the tokeniser may not know the words"
        )
    if by == "sum":
        _check_beginnings(labels, found)


def _check_beginnings(labels: Sequence[str], found: Sequence[tuple[int, ...]]) -> None:
    for short, a in zip(labels, found, strict=True):
        for long, b in zip(labels, found, strict=True):
            if len(a) < len(b) and b[: len(a)] == a:
                raise ValueError(
                    f"the label {short!r} is the beginning of {long!r}, so it "
                    "can never be the less likely one; give both an end, such as '.'"
                )


def verbaliser(
    prompt: str,
    labels: Sequence[str],
    *,
    one_token: bool = False,
    by: By = "sum",
) -> Manipulation:
    """Scores [T] unchanged; its init checks the labels with the language's tokens.

    Args:
        prompt: the end of all prompts, such as "Sentiment:".
    """

    def init(key: Key, spec: Any, scope: Scope) -> Params:
        check_labels(scope.frozen, prompt, labels, one_token=one_token, by=by)
        return Params()

    def apply(params: Params, y: Any, scope: Scope) -> Any:
        return y

    return Manipulation(init, apply)


def label_of(
    template: str,
    labels: Sequence[str],
    *,
    one_token: bool = False,
    by: By = "sum",
    calibration: Manipulation | None = None,
) -> Manipulation:
    """Scores [T] -> the most likely label, after questions of a template.

    Args:
        calibration: by default `calibrated(T)`, which changes nothing until it is
            estimated.
    """
    question, gap, _ = asked(template)
    spelled = [gap + label for label in labels]
    return chain(
        words=verbaliser(ending(question), spelled, one_token=one_token, by=by),
        calibrated=calibrated(len(labels)) if calibration is None else calibration,
        likeliest=likeliest(),
    )
