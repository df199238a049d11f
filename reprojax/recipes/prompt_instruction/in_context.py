"""Classification by a frozen language model from instructions and demonstrations.

A template such as "Review: {text}\\nSentiment: {label}" ends with the label's field.
Demonstrations are rows of its fields; queries are rows without the label. Recipes score
whole label words. `one_token=True` requires every label to be a single, distinct token;
use it for models that return scores for the next token only.
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
    """The most likely label word after the query (Brown et al., arXiv 2005.14165).

    Args:
        instruction: a text in front of the query, with the blank that follows it.
        by: "sum" of a label's log-probabilities, or their "mean".
        calibration: by default `calibrated(T)`, which changes nothing until a
            calibration recipe estimates it.
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

    Controls replace the rows: `random_labels` (Min et al., arXiv 2202.12837),
    `flipped_labels` (Wei et al., arXiv 2303.03846), `shuffled` (Lu et al., arXiv
    2104.08786).

    Args:
        rows: demonstrations in the prompt's order; None takes each query's context.
        instruction: a text in front of them, with the blank that follows it.
        budget, drop: the most tokens, with instruction and label, and which rows to
            leave out to meet it, as in `demonstrations`.
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
        embed: texts -> vectors; the template's question of each row and query.
        distance: "cosine" or "euclidean". The published scripts use cosine for encoders
            trained on sentence pairs, and euclidean, their default, for plain RoBERTa.
        last: whether the nearest row stands last, next to the query (our default; in
            the published code it stands first). A budget leaves out the farthest rows.
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
