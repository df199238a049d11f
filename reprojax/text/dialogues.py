"""How a language is asked: once for an answer, once for scores of labels, or twice."""

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
    """The language writes the answer, where the template ends. It comes as a `Reply`.

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
        by: "sum" is log p(label | prompt); "mean" divides it by the label's tokens.
    """
    question, gap, _ = asked(template)
    if by not in ("sum", "mean"):
        raise ValueError(f"by={by!r} came, expected 'sum' or 'mean'")
    check_texts(labels)
    if odd := [label for label in labels if gap and label != label.lstrip()]:
        raise ValueError(
            f"got the label {odd[0]!r} behind a template that ends with {gap!r}, "
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
    """Two calls: reasons first, then the answer behind them. It comes as a `Reply`.

    Reasons that were cut are gone on with as they are; only the answer has to end.
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
