"""Dialogues with a language model: one answer, scores of labels, or two calls."""

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp

from reprojax.text.labels import check_texts
from reprojax.text.language import Continuation, Request
from reprojax.text.procedure import Dialogue, Edit, Row, Run
from reprojax.text.template import asked, fill


def ask(
    template: str,
    *,
    samples: int = 1,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    length: int = 64,
    stop: tuple[str, ...] = ("\n",),
) -> Dialogue:
    """Let the language write the answer where the template ends; gives a `Reply`.

    Sites: "ask:in", the prompt; "ask:out", the reply.
    """
    question, _, _ = asked(template)

    def run(x: Row, edit: Edit) -> Run:
        prompt = edit("ask:in", fill(question, x))
        reply = yield Request(prompt, samples, length, temperature, top_k, top_p, stop)
        return edit("ask:out", reply)

    return Dialogue(run, ("ask:in", "ask:out"))


def choose_label(
    template: str, labels: Sequence[str], by: Literal["sum", "mean"] = "sum"
) -> Dialogue:
    """Each label's log-probability where the template ends: an array [T].

    Sites: "ask:in", the prompt; "ask:out", the array.

    Args:
        by: "sum" gives log p(label | prompt); "mean" divides it by the label's tokens.
    """
    question, gap, _ = asked(template)
    if by not in ("sum", "mean"):
        raise ValueError(f"got by={by!r}, expected 'sum' or 'mean'")
    check_texts(labels)
    if odd := [label for label in labels if gap and label != label.lstrip()]:
        raise ValueError(
            f"got the label {odd[0]!r} after a template that ends with {gap!r}, "
            "expected one blank between them; give labels without theirs"
        )

    def run(x: Row, edit: Edit) -> Run:
        prompt = edit("ask:in", fill(question, x))
        found = yield [Continuation(prompt, gap + label) for label in labels]
        each = [s.logp / (s.tokens if by == "mean" else 1) for s in found]
        return edit("ask:out", jnp.asarray(each, jnp.float32))

    return Dialogue(run, ("ask:in", "ask:out"))


def reason_then_answer(
    template: str,
    *,
    length: int = 128,
    answer_length: int = 32,
    stop: tuple[str, ...] = (),
    answer_stop: tuple[str, ...] = ("\n",),
) -> Dialogue:
    """Two calls: the reasons, then the answer after them; gives a `Reply`.

    Reasons that were cut are used as they are; only the answer has to be complete.
    Sites: "reason:in", "reason:out", "answer:in", "answer:out".
    """
    question, _, _ = asked(template)

    def run(x: Row, edit: Edit) -> Run:
        prompt = edit("reason:in", fill(question, x))
        reply = yield Request(prompt, length=length, stop=stop)
        reasons = edit("reason:out", reply).completions[0].text
        prompt = edit("answer:in", prompt + reasons)
        reply = yield Request(prompt, length=answer_length, stop=answer_stop)
        return edit("answer:out", reply)

    return Dialogue(run, ("reason:in", "reason:out", "answer:in", "answer:out"))
