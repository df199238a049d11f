"""Answers written by a frozen language model after its reasoning.

A template such as "Q: {question}\\nA: {answer}" ends with the field to be written. A
rule (`number`, `choice`, `words`) extracts the answer from the text. Texts that were
cut, or that the rule finds no answer in, are counted, not guessed at.
"""

from collections.abc import Sequence
from typing import Any

from reprojax.recipes.method import Method, on_texts
from reprojax.recipes.registry import register
from reprojax.text import (
    ask,
    in_front,
    insert_text,
    instruct,
    majority,
    number,
    parsed,
    phrase,
    reason_then_answer,
)
from reprojax.text.answers import Rule
from reprojax.text.procedure import Procedure, Row


@on_texts
def chain_of_thought(
    template: str,
    rows: Sequence[Row],
    rule: Rule,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    instruction: str = "",
    between: str = "\n\n",
    length: int = 256,
    budget: int | None = None,
    drop: str = "first",
) -> Procedure:
    """Demonstrations that write out their steps (Wei et al., arXiv 2201.11903).

    Demonstrations with bare answers give plain few-shot answering, the control; no rows
    give zero-shot answering.

    Args:
        rows: the answer's field holds the steps and the phrase that the rule looks for,
            such as "5 + 6 = 11. The answer is 11."
        between: separates demonstrations; the model's answer ends where it writes it.
        length: the most tokens of the answer.
        budget: the most tokens of the prompt; by default the language's context, if it
            has one, minus `length`.
    """
    dialogue = ask(
        template,
        samples=samples,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        length=length,
        stop=(between,),
    )
    front = in_front(
        template,
        rows,
        instruction=instruction,
        between=between,
        budget=budget,
        reserve=length,
        drop=drop,
    )
    read = parsed(rule) if samples == 1 else majority(rule)
    return instruct(dialogue, {"ask:in": front, "output": read})


@on_texts
def self_consistency(
    template: str,
    rows: Sequence[Row],
    rule: Rule,
    *,
    samples: int = 40,
    temperature: float = 0.7,
    **kw: Any,
) -> Procedure:
    """The majority of sampled chains of thought (Wang et al., arXiv 2203.11171).

    All samples of a query are one request, so its prompt is read once.

    Args:
        samples, temperature: the paper's for its largest models; others use .5 with
            top_k=40.
    """
    if samples < 2:
        raise ValueError(f"got samples={samples}, expected at least 2 for a majority")
    return chain_of_thought(
        template, rows, rule, samples=samples, temperature=temperature, **kw
    )


@on_texts
def zero_shot_chain_of_thought(
    template: str,
    rule: Rule | None = None,
    *,
    trigger: str = " Let's think step by step.",
    answer: str = "\nTherefore, the answer (arabic numerals) is",
    length: int = 128,
    answer_length: int = 32,
    stop: tuple[str, ...] = (),
) -> Procedure:
    """Reasoning after a trigger, then the answer in a second call (arXiv 2205.11916).

    Source: Kojima et al. By default the answer is the first number, as there.

    Args:
        trigger: the text after the question; learnable, so a search may change it.
        stop: texts that end the reasoning, such as "\\nQ:" for a model that goes on to
            ask another question.
    """
    dialogue = reason_then_answer(
        template, length=length, answer_length=answer_length, stop=stop
    )
    at = {
        "reason:in": insert_text(phrase(trigger, learnable=True), at=None),
        "answer:in": insert_text(phrase(answer), at=None),
        "output": parsed(number("first") if rule is None else rule),
    }
    return instruct(dialogue, at)


CHAIN_OF_THOUGHT = Method(
    "chain-of-thought",
    chain_of_thought,
    source="arXiv 2201.11903",
    enters="demonstrations with steps",
)
register(CHAIN_OF_THOUGHT)
SELF_CONSISTENCY = Method(
    "self-consistency",
    self_consistency,
    source="arXiv 2203.11171",
    enters="demonstrations with steps",
)
register(SELF_CONSISTENCY)
ZERO_SHOT_CHAIN_OF_THOUGHT = Method(
    "zero-shot-chain-of-thought",
    zero_shot_chain_of_thought,
    source="arXiv 2205.11916",
    enters="a trigger behind the question",
)
register(ZERO_SHOT_CHAIN_OF_THOUGHT)
