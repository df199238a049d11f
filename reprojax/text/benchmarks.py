"""Prompts, rules and scores of published benchmarks."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from reprojax.core import Params
from reprojax.text import Answer, Language, Score, choice, number, score, words
from reprojax.text.answers import Rule
from reprojax.text.procedure import Procedure, Row

MARKER = "the answer is"
YES_NO = ("yes", "no")
CLOSED = {  # tasks of BIG-Bench-Hard whose answer is one of two words
    "boolean_expressions": ("true", "false"),
    "causal_judgement": YES_NO,
    "formal_fallacies": ("valid", "invalid"),
    "navigate": YES_NO,
    "sports_understanding": YES_NO,
    "web_of_lies": YES_NO,
}
NUMBERS = ("multistep_arithmetic_two", "object_counting")
OPEN = ("dyck_languages", "word_sorting")


class Benchmark(NamedTuple):
    """One task; its template ends with {answer}."""

    name: str
    template: str
    rule: Rule
    """Extracts the answer from the generated text."""
    gold: Callable[[Row], Any]
    """The true value of a row."""
    demonstration: Callable[[Row], Row]
    """The row with its answer in the form that the rule reads, after its steps."""


def _written(sentence: str) -> Callable[[Row], Row]:
    """Steps, then the answer in a sentence; no empty line, which would end it."""

    def demonstration(row: Row) -> Row:
        steps = re.sub(r"\n\s*\n", "\n", row.get("steps", ""))
        said = f"{sentence} {MARKER} {row['answer']}.".strip()
        return {**row, "answer": f"{steps}\n{said}" if steps else said}

    return demonstration


def gsm8k_benchmark() -> Benchmark:
    """Grade-school problems (Cobbe et al., arXiv 2110.14168).

    Rows are {question, steps, answer}.
    """
    gold = number()
    return Benchmark(
        "gsm8k",
        "Q: {question}\nA: {answer}",
        number(after=MARKER),
        lambda row: gold(row["answer"]),
        _written("So"),
    )


def bbh_benchmark(task: str) -> Benchmark:
    """A task of BIG-Bench-Hard (Suzgun et al., arXiv 2210.09261): {question, answer}.

    Most answers are a letter in brackets. In three items the true answer is an option's
    words, which a comma cut in two; these are compared as words.
    """
    if task in CLOSED:
        rule, gold = words(MARKER, CLOSED[task]), words()
    elif task in NUMBERS:
        rule, gold = number(after=MARKER), number()
    elif task in OPEN:
        rule, gold = words(MARKER), words()
    else:
        rule, gold = choice(MARKER), choice()
    return Benchmark(
        f"bbh/{task}",
        "Q: {question}\nA: {answer}",
        rule,
        lambda row: gold(row["answer"]),
        _written("So"),
    )


def evaluate(
    benchmark: Benchmark,
    program: Procedure,
    params: Params,
    language: Language,
    rows: Sequence[Row],
    **kw: Any,
) -> tuple[Score, list[Answer]]:
    """A program's score on rows, and its answers; it does not see the true ones.

    `kw` goes to the program: seed, contexts.
    """
    hidden = [
        {k: v for k, v in r.items() if k not in ("answer", "steps")} for r in rows
    ]
    answers = program.apply(params, language, hidden, **kw)
    return score(answers, [benchmark.gold(row) for row in rows]), answers
