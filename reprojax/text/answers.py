"""Answers read off texts by stated rules (omega), and their count.

A rule is a function from a text to a value, or to None where the text does not say.
Nothing is guessed: an answer that was cut is not read, one that says two things says
none, and both are counted.
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
MOST_DIGITS = 1000  # Python reads no more than some thousands
# A minus belongs to a number unless something that can be subtracted from stands there.
_NUMBER = re.compile(rf"(?:(?<![\w).])[-−])?(?:{_PLAIN})(?:/\d+)?(?![\d])")


class Answer(NamedTuple):
    """What one query came to."""

    value: Any = None
    """None where there is a fault."""
    fault: Fault = ""


class Score(NamedTuple):
    """How many answers were what. A fault is no correct answer, and counts in n."""

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
    """Answers against what is right: equal values are correct."""
    _check_pairs(answers, gold)
    pairs = zip(answers, gold, strict=True)
    correct = sum(_right(answer, value) for answer, value in pairs)
    faults = Counter(answer.fault for answer in answers)
    kinds = ("unparsable", "truncated", "refused")
    return Score(len(gold), correct, *(faults[kind] for kind in kinds))


def balanced_accuracy(
    answers: Sequence[Answer], gold: Sequence[Any] | np.ndarray
) -> float:
    """The mean over classes of how many of their own are right: rare ones count alike.

    Faults are wrong here too.
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
            f"{len(answers)} answers and {len(gold)} right ones came, expected one "
            "each, and at least one"
        )
    if any(v is None or (isinstance(v, Real) and v != v) for v in gold):
        raise ValueError(
            "a right answer is None or NaN, expected values; mend the data"
        )
    found = [answer.value for answer in answers if not answer.fault]
    texts = [{isinstance(v, str) for v in values} for values in (found, gold)]
    if {True} in texts and {False} in texts:  # never equal: a silent score of 0
        raise ValueError(
            f"answers such as {found[0]!r} came to be compared with {gold[0]!r}, "
            "expected texts with texts, or numbers (classes) with numbers; turn the "
            "labels into classes, or take another parser"
        )


# -- rules


def behind(marker: str, text: str) -> str | None:
    """What follows the marker's last occurrence, whatever its case; None without."""
    found = [m.end() for m in re.finditer(re.escape(marker), text, re.IGNORECASE)]
    return text[found[-1] :] if found else None


def _tail(text: str, after: str | None) -> str | None:
    return text if after is None else behind(after, text)


def number(
    which: Literal["first", "last"] = "last", after: str | None = None
) -> Callable[[str], Fraction | None]:
    """The first or last number: 1,234.50 and $5, -3 and 3/4 are numbers, exactly.

    With `after`, the first one behind that marker, and none without it. A piece of
    something else says nothing: 1,5 and 5e3 and 1.2.3.
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
    """Whether digits go on beyond a number: which one is meant is not known."""
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
    """The letter in brackets, "(B)"; one without them only where it stands alone.

    Two different letters say nothing. An answer in other words is those words, as
    `words` reads them.
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
    """The first line that says something: lower case, single blanks, no last full stop.

    Args:
        among: the only answers there are; any other one says nothing.
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
    """One completion's answer. One that was cut could have gone on to another."""
    if completion.finish != "stop":
        return Answer(None, _FAULTS[completion.finish])
    value = rule(completion.text)
    return Answer(None, "unparsable") if value is None else Answer(value)


def parsed(rule: Rule) -> Manipulation:
    """A reply of one completion -> its answer."""

    def apply(params: Params, reply: Reply, scope: Scope) -> Answer:
        if len(reply.completions) != 1:
            raise ValueError(
                f"parsed got {len(reply.completions)} completions, expected one; call "
                "majority(rule)"
            )
        return read_answer(reply.completions[0], rule)

    return Manipulation(_no_params, apply)


def majority(rule: Rule) -> Manipulation:
    """A reply of several -> the most frequent value, of equals the first that came.

    Completions with a fault do not vote. The tap "votes" shows what each came to.
    """

    def apply(params: Params, reply: Reply, scope: Scope) -> Answer:
        votes = [read_answer(completion, rule) for completion in reply.completions]
        scope.tap("votes", votes)
        if all(vote.fault for vote in votes):
            return Answer(None, _commonest([vote.fault for vote in votes]))
        return Answer(_commonest([v.value for v in votes if not v.fault]))

    return Manipulation(_no_params, apply)


def _commonest(values: Sequence[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]  # in order of arrival among equals


def likeliest() -> Manipulation:
    """Scores [T] -> the class of the largest, of equals the first."""

    def apply(params: Params, y: Any, scope: Scope) -> Answer:
        scores = np.asarray(y)
        if np.isnan(scores).any():  # argmax would answer the first of these classes
            raise ValueError(
                f"the scores {scores.tolist()} came, expected a number for each class; "
                "the model or its weights give NaN"
            )
        return Answer(int(np.argmax(scores)))

    return Manipulation(_no_params, apply)


def _no_params(key: Any, spec: Any, scope: Scope) -> Params:
    return Params()


def table(scores: Mapping[str, Score]) -> str:
    """A line a task, and the mean of their accuracies."""
    lines = [f"{name:<42} {one}" for name, one in scores.items()]
    mean = sum(one.accuracy for one in scores.values()) / len(scores)
    return "\n".join([*lines, f"{'mean of ' + str(len(scores)):<42} {mean:.3f}"])
