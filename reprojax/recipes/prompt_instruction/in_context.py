"""Labels chosen by a frozen language model, told by words and by demonstrations.

A template such as "Review: {text}\\nSentiment: {label}" ends with the label's field.
Demonstrations are rows of its fields, queries rows without the label. Every recipe
scores the whole label words; with `one_token=True` it insists on labels of one token
each, told apart by it, as a model needs that answers with one token's scores.
"""

from collections.abc import Sequence
from typing import Any

from reprojax.core import Manipulation
from reprojax.recipes.method import Method, on_texts
from reprojax.recipes.registry import register
from reprojax.text import (
    asked,
    choose_label,
    in_front,
    informed_texts,
    insert_text,
    instruct,
    nearest_rows,
    phrase,
)
from reprojax.text.labels import By, label_of
from reprojax.text.procedure import Procedure, Row
from reprojax.text.rows import Embed


@on_texts
def zero_shot(
    template: str,
    labels: Sequence[str],
    *,
    instruction: str = "",
    one_token: bool = False,
    by: By = "sum",
    calibration: Manipulation | None = None,
) -> Procedure:
    """The likeliest label word behind the query (Brown et al., arXiv 2005.14165).

    Args:
        instruction: a text in front of the query, with the blank behind it.
        by: "sum" of a label's log-probabilities, or their "mean".
        calibration: by default `calibrated(T)`, which changes nothing until a
            calibration recipe has estimated it.
    """
    dialogue = choose_label(template, labels, by)
    align = label_of(
        template, labels, one_token=one_token, by=by, calibration=calibration
    )
    at = {"ask:in": insert_text(phrase(instruction)), "output": align}
    return instruct(dialogue, at)


@on_texts
def few_shot(
    template: str,
    labels: Sequence[str],
    rows: Sequence[Row] | None,
    *,
    instruction: str = "",
    between: str = "\n",
    budget: int | None = None,
    drop: str = "first",
    one_token: bool = False,
    by: By = "sum",
    calibration: Manipulation | None = None,
) -> Procedure:
    """Demonstrations in front of the query (Brown et al., arXiv 2005.14165).

    Controls are other rows: `random_labels` (Min et al., arXiv 2202.12837),
    `flipped_labels` (Wei et al., arXiv 2303.03846), `shuffled` (Lu et al., arXiv
    2104.08786).

    Args:
        rows: in the order in which they will stand; None takes each query's context.
        instruction: a text in front of them, with the blank behind it.
        budget, drop: the most tokens, instruction and label counted, and what is left
            out for it, as in `demonstrations`.
    """
    dialogue = choose_label(template, labels, by)
    _, gap, _ = asked(template)
    front = in_front(
        template,
        rows,
        instruction=instruction,
        behind=gap + max(labels, key=len),
        between=between,
        budget=budget,
        drop=drop,
    )
    align = label_of(
        template, labels, one_token=one_token, by=by, calibration=calibration
    )
    return instruct(dialogue, {"ask:in": front, "output": align})


@on_texts
def kate(
    template: str,
    labels: Sequence[str],
    rows: Sequence[Row],
    embed: Embed,
    *,
    k: int = 8,
    distance: str = "cosine",
    last: bool = True,
    **kw: Any,
) -> Procedure:
    """Each query's k nearest rows as its demonstrations (Liu et al., arXiv 2101.06804).

    Args:
        embed: texts -> vectors; of rows and queries what stands in the template's
            question is embedded.
        distance: "cosine" or "euclidean". The published scripts have the first for
            encoders that were trained on pairs of sentences, and the second, which is
            their default, for RoBERTa as it is.
        last: our default, the nearest stands last, next to the query. In the published
            code the nearest stands first. Over a budget the farthest are left out.
        kw: of `few_shot`: instruction, between, budget, one_token, by, calibration.
    """
    drop = "first" if last else "last"
    program = few_shot(template, labels, None, drop=drop, **kw)
    question, _, _ = asked(template)
    return informed_texts(
        program, nearest_rows(rows, k, embed, question, distance=distance, last=last)
    )


ZERO_SHOT = Method(
    "zero-shot", zero_shot, source="arXiv 2005.14165", enters="an instruction in front"
)
register(ZERO_SHOT)
FEW_SHOT = Method(
    "few-shot", few_shot, source="arXiv 2005.14165", enters="demonstrations in front"
)
register(FEW_SHOT)
KATE = Method(
    "kate", kate, source="arXiv 2101.06804", enters="the nearest demonstrations"
)
register(KATE)
