"""Rules that extract answers from texts (omega), and scores of the answers.

A rule is a function from a text to a value, or to None if the text has no clear answer.
Nothing is guessed: an answer that was cut is not read, and one that gives two values
counts as none. Both are counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from reprojax.core import Manipulation, Params, Scope
from reprojax.text.language import Completion, Reply

Fault = Literal["", "unparsable", "truncated", "refused"]
Rule = Callable[[str], Any]
_FAULTS: dict[str, Fault] = {"length": "truncated", "refused": "refused"}

_PLAIN = r"\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\$?\.\d+"
MOST_DIGITS = 1000  # Python converts no more than a few thousand
# A minus belongs to the number unless it can be a subtraction from what precedes it.
_NUMBER = re.compile(rf"(?:(?<![\w).])[-−])?(?:{_PLAIN})(?:/\d+)?(?![\d])")


class Answer(NamedTuple):
    """The answer to one query."""

    value: Any = None
    """None if there is a fault."""
    fault: Fault = ""


class Score(NamedTuple):
    """Counts of answers by kind. A fault is not correct, and counts in n."""

    n: int
    correct: int
    unparsable: int = 0
    truncated: int = 0
    refused: int = 0

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    def __str__(self) -> str:
        faults = [
            f"{count} {name}"
            for name, count in self._asdict().items()
            if name in ("unparsable", "truncated", "refused") and count
        ]
        return ", ".join([f"{self.accuracy:.3f} of {self.n}", *faults])


def score(answers: Sequence[Answer], gold: Sequence[Any] | np.ndarray) -> Score:
    """Compare answers to the true values; equal ones are correct."""
    _check_pairs(answers, gold)
    pairs = zip(answers, gold, strict=True)
    correct = sum(_right(answer, value) for answer, value in pairs)
    faults = Counter(answer.fault for answer in answers)
    kinds = ("unparsable", "truncated", "refused")
    return Score(len(gold), correct, *(faults[kind] for kind in kinds))


def balanced_accuracy(
    answers: Sequence[Answer], gold: Sequence[Any] | np.ndarray
) -> float:
    """The mean of the classes' accuracies, so that rare classes have equal weight.

    Faults count as wrong.
    """
    _check_pairs(answers, gold)
    own: dict[Any, list[bool]] = {}
    for answer, value in zip(answers, gold, strict=True):
        own.setdefault(value, []).append(_right(answer, value))
    return sum(sum(hits) / len(hits) for hits in own.values()) / len(own)


def _right(answer: Answer, value: Any) -> bool:
    return not answer.fault and bool(answer.value == value)


def _check_pairs(answers: Sequence[Answer], gold: Sequence[Any] | np.ndarray) -> None:
    if len(answers) != len(gold) or not len(gold):
        raise ValueError(
            f"got {len(answers)} answers and {len(gold)} true ones, expected one "
            "each, and at least one"
        )
    if any(v is None or (isinstance(v, Real) and v != v) for v in gold):
        raise ValueError(
            "a true answer is None or NaN, expected values; correct the data"
        )
    found = [answer.value for answer in answers if not answer.fault]
    texts = [{isinstance(v, str) for v in values} for values in (found, gold)]
    if {True} in texts and {False} in texts:  # never equal: a silent score of 0
        raise ValueError(
            f"got answers such as {found[0]!r} to compare with {gold[0]!r}, "
            "expected texts with texts, or numbers (classes) with numbers; turn the "
            "labels into classes, or take another parser"
        )


# -- rules


def behind(marker: str, text: str) -> str | None:
    """The text after the marker's last occurrence, in any case; None without one."""
    found = [m.end() for m in re.finditer(re.escape(marker), text, re.IGNORECASE)]
    return text[found[-1] :] if found else None


def _tail(text: str, after: str | None) -> str | None:
    return text if after is None else behind(after, text)


def number(
    which: Literal["first", "last"] = "last", after: str | None = None
) -> Callable[[str], Fraction | None]:
    """The first or last number, exactly: 1,234.50, $5, -3 and 3/4 are numbers.

    With `after`, the first one after that marker, and none without the marker. A
    number within another notation gives no answer: 1,5 or 5e3 or 1.2.3.
    """
    at = -1 if which == "last" and after is None else 0

    def rule(text: str) -> Fraction | None:
        tail = _tail(text, after) or ""
        found = [*_NUMBER.finditer(tail)]
        if not found or _is_part(tail, *found[at].span()):
            return None
        return _fraction(found[at][0])

    return rule


def _is_part(text: str, start: int, end: int) -> bool:
    """Whether digits continue beyond the match, so the number is ambiguous."""
    goes_on = re.match(r"[,.]\d|[eE][-+]?\d", text[end : end + 3])
    return bool(
        goes_on or re.search(r"\d([,.]?|[eE][-+]?)$", text[max(start - 3, 0) : start])
    )


def _fraction(text: str) -> Fraction | None:
    if len(text) > MOST_DIGITS:
        return None
    plain = re.sub(r"[$,]", "", text).replace("−", "-")
    top, _, bottom = plain.partition("/")
    if bottom and not int(bottom):
        return None
    return Fraction(top) / int(bottom or 1)


def choice(after: str | None = None) -> Callable[[str], str | None]:
    """The letter in brackets, "(B)"; without brackets only if it stands alone.

    Two different letters give no answer. Other answers are read as by `words`.
    """
    plain = words(after)

    def rule(text: str) -> str | None:
        tail = _tail(text, after)
        if tail is None:
            return None
        letters = set(re.findall(r"\(([A-Z])\)", tail))
        if alone := re.fullmatch(r"\s*\(?([A-Z])\)?[.:]?\s*", tail):
            letters.add(alone[1])
        if len(letters) > 1:
            return None
        return f"({letters.pop()})" if letters else plain(text)

    return rule


def words(
    after: str | None = None, among: Sequence[str] | None = None
) -> Callable[[str], str | None]:
    """The first line with text: lower case, single blanks, without a last full stop.

    Args:
        among: the allowed answers; others give None.
    """

    def rule(text: str) -> str | None:
        line = _said((_tail(text, after) or "").strip().split("\n")[0])
        if not line or (among is not None and line not in allowed):
            return None
        return line

    allowed = {_said(word) for word in among or ()}
    if among is not None and len(allowed - {""}) < len(among):
        raise ValueError(
            f"got the answers {list(among)}, expected words that differ by more than "
            "case, blanks and a full stop; give other ones"
        )
    return rule


def _said(line: str) -> str:
    return " ".join(line.casefold().split()).removesuffix(".").rstrip()


# -- alignments


def read_answer(completion: Completion, rule: Rule) -> Answer:
    """One completion's answer. A cut one has none, because it could have changed."""
    if completion.finish != "stop":
        return Answer(None, _FAULTS[completion.finish])
    value = rule(completion.text)
    return Answer(None, "unparsable") if value is None else Answer(value)


def parsed(rule: Rule) -> Manipulation:
    """From a reply with one completion to its answer."""

    def apply(params: Params, reply: Reply, scope: Scope) -> Answer:
        if len(reply.completions) != 1:
            raise ValueError(
                f"parsed got {len(reply.completions)} completions, expected one; call "
                "majority(rule)"
            )
        return read_answer(reply.completions[0], rule)

    return Manipulation(_no_params, apply)


def majority(rule: Rule) -> Manipulation:
    """From a reply with several completions to the most frequent value.

    Of equally frequent values the first wins. Completions with a fault do not vote. The
    tap "votes" has the answer of each.
    """

    def apply(params: Params, reply: Reply, scope: Scope) -> Answer:
        votes = [read_answer(completion, rule) for completion in reply.completions]
        scope.tap("votes", votes)
        if all(vote.fault for vote in votes):
            return Answer(None, _commonest([vote.fault for vote in votes]))
        return Answer(_commonest([v.value for v in votes if not v.fault]))

    return Manipulation(_no_params, apply)


def _commonest(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]  # ties: the first one


def likeliest() -> Manipulation:
    """Scores [T] -> the class with the largest; of equals the first."""

    def apply(params: Params, y: Any, scope: Scope) -> Answer:
        scores = np.asarray(y)
        if np.isnan(scores).any():  # argmax would return the first NaN's class
            raise ValueError(
                f"got the scores {scores.tolist()}, expected a number for each class; "
                "the model or its weights give NaN"
            )
        return Answer(int(np.argmax(scores)))

    return Manipulation(_no_params, apply)


def _no_params(key: Any, spec: Any, scope: Scope) -> Params:
    return Params()


def table(scores: Mapping[str, Score]) -> str:
    """A line for each task, and the mean of their accuracies."""
    lines = [f"{name:<42} {one}" for name, one in scores.items()]
    mean = sum(one.accuracy for one in scores.values()) / len(scores)
    return "\n".join([*lines, f"{'mean of ' + str(len(scores)):<42} {mean:.3f}"])
