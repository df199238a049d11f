"""Texts that are not in the repository: tasks, and questions with written answers.

They lie in data/text of the assets' folder. Splits follow the rule of all tasks: what a
set comes with is kept, validation is drawn from training, and the test split is read
once, at the end.
"""

import csv
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from experiments.shared.assets import file
from reprojax.data import Questions, Task, from_texts
from reprojax.data.checks import listed
from reprojax.data.text import Labelled, Sizes
from reprojax.saving.files import MOST_JSON, decode_json, read_file, read_json

REVIEWS = {"imdb": "imdb", "yelp": "yelp", "amazon": "amazon_cells"}


class Example(TypedDict):
    """A row of BIG-Bench-Hard."""

    input: str
    target: str


class Examples(TypedDict):
    """A file of BIG-Bench-Hard."""

    examples: list[Example]


def load_text(
    name: str,
    *,
    train: Sizes = None,
    validation: Sizes = None,
    test: Sizes = None,
    seed: int = 0,
    test_seed: int | None = None,
) -> Task:
    """A task of texts: x are strings [N], `holds` is "text". Sizes as for `data.load`.

    "sentiment" (2,982 different of 3,000 sentences, or those of "imdb", "yelp",
    "amazon"), "sms-spam" (5,160 different of 5,574 messages), "banking77" (10,003
    questions, 3,080 for test as published).
    """
    if name not in TEXTS:
        raise ValueError(f"no texts {name!r}; expected one of {listed(list(TEXTS))}")
    parts, classes = TEXTS[name]()
    return from_texts(
        parts,
        classes,
        name=name,
        sizes={"train": train, "validation": validation, "test": test},
        seed=seed,
        test_seed=test_seed,
    )


def _lines(path: str) -> list[str]:
    """Lines end with a newline alone: texts hold other characters that break lines."""
    found = file(f"data/text/{path}")
    try:
        text = found.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"cannot read {found} ({error}); expected UTF-8 text"
        ) from error
    return [line for line in text.split("\n") if line]


def _sentiment(*names: str) -> Callable[[], tuple[dict[str, Labelled], list[str]]]:
    def read() -> tuple[dict[str, Labelled], list[str]]:
        texts, y = [], []
        for name in names:
            for line in _lines(f"sentiment_sentences/{REVIEWS[name]}_labelled.txt"):
                text, _, label = line.rpartition("\t")
                if label not in ("0", "1"):
                    raise ValueError(
                        f"{REVIEWS[name]}: {line[-60:]!r} does not end with a label, "
                        "expected a tab and 0 or 1"
                    )
                texts.append(text)
                y.append(int(label))
        return {"train": (texts, y)}, ["negative", "positive"]

    return read


def _sms_spam() -> tuple[dict[str, Labelled], list[str]]:
    classes = ["ham", "spam"]
    rows = [line.partition("\t") for line in _lines("sms_spam/SMSSpamCollection")[1:]]
    if bad := [c for c, _, _ in rows if c not in classes]:
        raise ValueError(
            f"SMSSpamCollection: {len(bad)} lines begin with another label (first "
            f"{bad[0][:60]!r}), expected ham or spam and a tab"
        )
    return {
        "train": ([text for _, _, text in rows], [classes.index(c) for c, _, _ in rows])
    }, classes


def _banking77() -> tuple[dict[str, Labelled], list[str]]:
    folder = file("data/text/banking77")
    classes = read_json(folder / "categories.json", list[str])
    number = {name: i for i, name in enumerate(classes)}
    parts: dict[str, Labelled] = {}
    for part in ("train", "test"):
        rows = _rows(folder / f"{part}.csv", ("text", "category"))
        if bad := [r["category"] for r in rows if r["category"] not in number]:
            raise ValueError(
                f"{part}.csv has {len(bad)} rows of other categories (first {bad[0]!r})"
                ", expected those of categories.json"
            )
        parts[part] = (
            [" ".join(row["text"].split()) for row in rows],
            [number[row["category"]] for row in rows],
        )
    return parts, [name.replace("_", " ") for name in classes]


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV, each with these columns; a ValueError names the file."""
    try:
        text = read_file(path, MOST_JSON).decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"cannot read {path} ({error}); expected CSV") from error
    whole = all(isinstance(row.get(column), str) for row in rows for column in columns)
    if not rows or not whole:
        raise ValueError(
            f"{path}: rows have not all the columns {listed(columns)}; expected each "
            "in every row"
        )
    return rows


TEXTS: dict[str, Callable[[], tuple[dict[str, Labelled], list[str]]]] = {
    "sentiment": _sentiment(*REVIEWS),
    **{name: _sentiment(name) for name in REVIEWS},
    "sms-spam": _sms_spam,
    "banking77": _banking77,
}


# -- questions


def gsm8k(*, validation: int = 200, seed: int = 0) -> Questions:
    """Grade-school problems (Cobbe et al., arXiv 2110.14168): 1,319 for test.

    Of the first 1,000 training problems `validation` are drawn by seed. `steps` are the
    worked solution without its calculator notes, `answer` the number behind "####".
    """
    train = [_worked(line) for line in _lines("gsm8k/train_first1000.jsonl")]
    test = [_worked(line) for line in _lines("gsm8k/test.jsonl")]
    return _questions("gsm8k", train, test, 0, validation, seed)


def _worked(line: str) -> dict[str, str]:
    row = decode_json(line, dict[str, str], f"{line[:60]!r}")
    if missing := {"question", "answer"} - row.keys():
        raise ValueError(f"{line[:60]!r} has no {missing.pop()!r}, expected it")
    steps, _, answer = row["answer"].rpartition("\n#### ")
    if not steps:
        raise ValueError(f"no '#### ' in {row['answer'][-60:]!r}, expected an answer")
    return {
        "question": row["question"].strip(),
        "steps": re.sub(r"<<.*?>>", "", steps).strip(),
        "answer": answer.strip(),
    }


def bbh_tasks() -> tuple[str, ...]:
    """The names of the 27 BIG-Bench-Hard tasks (Suzgun et al., arXiv 2210.09261)."""
    folder = file("data/text/bbh")
    return tuple(sorted(path.stem for path in folder.glob("*.json")))


def bbh(task: str, *, train: int = 0, validation: int = 0, seed: int = 0) -> Questions:
    """One of `bbh_tasks()`. It comes as a test set alone, of 250 questions at most.

    `train` demonstrations and `validation` questions are drawn from it by seed, and are
    then no longer in the test split. The published prompts' own three are not among
    these data.
    """
    names = bbh_tasks()
    if task not in names:
        raise ValueError(f"no task {task!r}; expected one of {listed(names, 27)}")
    path = file(f"data/text/bbh/{task}.json")
    rows = [
        {"question": row["input"].strip(), "answer": row["target"].strip()}
        for row in read_json(path, Examples)["examples"]
    ]
    return _questions(f"bbh/{task}", [], rows, train, validation, seed)


def _questions(
    name: str,
    train: Sequence[dict[str, str]],
    test: Sequence[dict[str, str]],
    draw_train: int,
    draw_validation: int,
    seed: int,
) -> Questions:
    for row in [*train, *test]:
        if empty := [key for key, text in row.items() if not text]:
            raise ValueError(
                f"{name} has a row with an empty {empty[0]}: {str(row)[:80]}, "
                "expected text; mend the file"
            )
    pool = list(train or test)
    wanted = draw_train + draw_validation
    if draw_train < 0 or draw_validation < 0 or wanted >= len(pool):
        raise ValueError(
            f"{name}: {draw_train} for training and {draw_validation} for validation "
            f"were asked for, expected fewer than the {len(pool)} there are together"
        )
    order = np.random.default_rng((seed, 5)).permutation(len(pool))
    taken = [pool[i] for i in order[:wanted]]
    rest = [pool[i] for i in sorted(order[wanted:])]
    validation = tuple(taken[draw_train:])
    if train:
        return Questions(name, tuple(rest), validation, tuple(test))
    return Questions(name, tuple(taken[:draw_train]), validation, tuple(rest))
