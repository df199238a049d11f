"""Tasks of texts as tasks of Tokens, on which `fit` trains.

A template gives the model's input: "Review: {text} Sentiment: {label}" for a causal
model, which continues where the label would be; "{text} It was {mask}." for a masked
one; "{text}" for a model with a head on its vectors. No text is cut.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from reprojax.core import Tokens, padded
from reprojax.core.guards import nearest
from reprojax.data import Questions, Split, Task, check
from reprojax.data.task import SPLITS
from reprojax.models import Model
from reprojax.models.language import Tokenizer, Words
from reprojax.text import asked, ending, fields, fill
from reprojax.text.labels import label_tokens, one_token_each

Side = Literal["left", "right"]


class Encoded(NamedTuple):
    """A task whose x are Tokens, and one word of the vocabulary for each class."""

    task: Task
    words: tuple[int, ...]
    """For `label_words`; () if the template has no place for a word."""


def encoded(
    language: Model[Words],
    task: Task,
    template: str,
    labels: Sequence[str] | None = None,
    *,
    side: Side = "right",
    length: int | None = None,
) -> Encoded:
    """Encode a task of texts for a model, all rows padded to one length.

    Args:
        task: its x are strings, such as `data.from_texts` gives.
        template: with {text}. It may end with another field of any name, the label's
            place; {mask} is the model's mask token.
        labels: a word for each class, by default its name, each a single token. The
            blank before the label's field belongs to it. For a masked model, write a
            blank into the word if its tokeniser needs one.
        length: L; by default that of the longest text.
    """
    text = _tokenizer(language)
    if task.holds != "text":
        raise ValueError(
            f"{task.name} holds {task.holds}, expected texts; call data.from_texts"
        )
    labels = task.classes if labels is None else labels
    if len(labels) != len(task.classes):
        raise ValueError(
            f"got {len(labels)} labels for the {len(task.classes)} classes of "
            f"{task.name}, expected one each"
        )
    read, words = _place(language, template, labels)
    whole = {"mask": text.token(language.input.special.mask or 0)}
    rows = {
        name: [
            text.encode(fill(read, whole | {"text": str(x)}))
            for x in getattr(task, name).x
        ]
        for name in SPLITS
    }
    if "mask" in fields(read):
        _check_masks(rows, language.input.special.mask)
    x = _padded(language, rows, side, length)
    splits = {name: getattr(task, name)._replace(x=x[name]) for name in SPLITS}
    return Encoded(check(task._replace(**splits, holds="tokens")), words)


def _check_masks(rows: Mapping[str, Sequence[Sequence[int]]], mask: int | None) -> None:
    """Raise if a text itself contains a mask token: the place would be ambiguous."""
    for name, split in rows.items():
        for i, row in enumerate(split):
            if (count := sum(token == mask for token in row)) != 1:
                raise ValueError(
                    f"row {i} of {name} has {count} mask tokens in its template, "
                    "expected one; take the model's mask token out of the text"
                )


def _tokenizer(language: Model[Words]) -> Tokenizer:
    if language.input.tokenizer is None:
        raise ValueError(
            f"got {language.name} without a tokeniser, expected one that encodes "
            "texts; call load(..., tokenizer=folder), or pad ids with sequence.padded"
        )
    return language.input.tokenizer


def _place(
    language: Model[Words], template: str, labels: Sequence[str]
) -> tuple[str, tuple[int, ...]]:
    """The template of the model's input, and the ids of the label words."""
    found, encode = fields(template), _tokenizer(language).encode
    if "text" not in found:
        raise ValueError(
            f"the template {template!r} has the fields {list(found)}, expected {{text}}"
            f" among them{nearest('text', found)}"
        )
    if "mask" in found:
        if language.input.kind != "masked" or language.input.special.mask is None:
            raise ValueError(
                f"the template {template!r} has a {{mask}}, and {language.name} is a "
                f"{language.input.kind} model, expected a masked one; end the template "
                "with {label}, or with {text} for a head"
            )
        plain = lambda word: encode(word, special=False)
        return template, tuple(one_token_each(plain, "", labels))
    if found == ("text",):
        return template, ()
    if language.input.kind != "causal":
        raise ValueError(
            f"the template {template!r} ends with a label, and {language.name} is a "
            f"{language.input.kind} model, expected a causal one, which continues "
            "there; write {mask} in its place for a masked one, or {text} alone for a "
            "head"
        )
    question, gap, _ = asked(template)
    spelled = [gap + label for label in labels]
    return question, tuple(one_token_each(encode, ending(question), spelled))


def _padded(
    language: Model[Words],
    rows: dict[str, list[list[int]]],
    side: Side,
    length: int | None,
) -> dict[str, Tokens]:
    longest = max(len(row) for split in rows.values() for row in split)
    most = (
        language.input.positions
        if length is None
        else min(length, language.input.positions)
    )
    if longest > most:
        where = next(
            f"{name} {i}"
            for name, split in rows.items()
            for i, row in enumerate(split)
            if len(row) == longest
        )
        raise ValueError(
            f"got a text of {longest} tokens ({where}), expected at most {most} "
            f"({language.name} has {language.input.positions} positions, prompts among "
            "them); leave such texts out, or shorten them yourself: nothing is cut"
        )
    made = {
        name: padded(split, side, length or longest, language.input.special.pad)
        for name, split in rows.items()
    }
    return jax.tree.map(np.asarray, made)


def written(
    language: Model[Words],
    questions: Questions,
    template: str,
    *,
    side: Side = "right",
    length: int | None = None,
) -> Task:
    """Questions whose answers a causal model should write; y [N L] is the next token at
    each place of the answer, and -1 elsewhere.

    Put `alignments.at_words()` at the program's "output"; cross entropy is then the
    mean over the answers' tokens. An answer ends with the model's end of text.

    Args:
        template: over the rows' fields, ending with the answer's, as in "Q:
            {question}\\nA: {answer}".
        length: L; by default that of the longest question with its answer.
    """
    encode = _tokenizer(language).encode
    if language.input.kind != "causal" or not language.input.special.eos:
        raise ValueError(
            f"got {language.name}, a {language.input.kind} model with the ends of text "
            f"{language.input.special.eos}, expected a causal one that has an end"
        )
    question, gap, answer = asked(template)
    end, rows, starts = language.input.special.eos[0], {}, {}
    for name in SPLITS:
        rows[name], starts[name] = [], []
        for row in getattr(questions, name):
            asked_for = fill(question, row)
            reply = fill(f"{gap}{{{answer}}}", row)
            (ids,) = label_tokens(encode, asked_for, [reply])
            start = encode(asked_for)
            rows[name].append([*start, *ids, end])
            starts[name].append(len(start))
    x = _padded(language, rows, side, length)
    splits = {n: Split(x[n], _following(x[n], starts[n], side)) for n in SPLITS}
    return check(
        Task(questions.name, **splits, classes=(), holds="tokens", answers="words")
    )


def _following(x: Tokens, starts: Sequence[int], side: Side) -> np.ndarray:
    ids: Any = np.asarray(x.value)
    real = np.asarray(x.weight) > 0
    y = np.full(ids.shape, -1, np.int32)
    y[:, :-1] = np.where(real[:, 1:], ids[:, 1:], -1)
    first = np.asarray(starts) - 1  # the place that predicts the answer's first token
    if side == "left":
        first = first + (~real).sum(1)
    return np.where(np.arange(ids.shape[1]) < first[:, None], -1, y)
