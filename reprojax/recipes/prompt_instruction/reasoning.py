"""Answers that a frozen language model writes, with its reasons before them.

A template such as "Q: {question}\\nA: {answer}" ends with the field that is written. A
rule reads the answer off what was written (`number`, `choice`, `words`); what was cut,
or says nothing by the rule, is counted and not guessed.
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

    Demonstrations whose answers are bare make it plain few-shot answering, the control;
    no rows make it zero-shot.

    Args:
        rows: the answer's field holds the steps and what the rule will look for, such
            as "5 + 6 = 11. The answer is 11."
        between: stands behind each demonstration, and ends the answer.
        length: the most tokens of the answer.
        budget: the most tokens of the prompt; by default the language's context, where
            it has one, less the answer.
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

    All samples of a query come from one request, so from one reading of its prompt.

    Args:
        samples, temperature: the paper's for its largest models; others had .5 with
            top_k=40.
    """
    if samples < 2:
        raise ValueError(f"samples={samples} came, expected at least 2 to agree")
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
    """Reasons by a trigger, then the answer in a second call (arXiv 2205.11916).

    Source: Kojima et al. By default the answer is the first number, as there.

    Args:
        trigger: stands behind the question; a search may change it.
        stop: ends the reasons, such as ("\\nQ:",) for a model that asks itself more.
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
