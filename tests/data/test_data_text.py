import csv
import json

import numpy as np
import pytest
from assets import assets

from reprojax.data import digest, shots
from reprojax.data.text import bbh, bbh_tasks, from_texts, gsm8k, load_text

CLASSES = ("no", "yes")


def numbered(n, start=0):
    return [f"text {i}" for i in range(start, start + n)], [i % 2 for i in range(n)]


def test_a_task_of_texts():
    task = from_texts({"train": numbered(40)}, CLASSES)
    assert task.holds == "text" and task.classes == CLASSES
    parts = [task.train.x, task.validation.x, task.test.x]
    assert [len(x) for x in parts] == [24, 8, 8]
    assert sorted(np.concatenate(parts)) == sorted(numbered(40)[0])
    for split in (task.train, task.validation, task.test):
        right = [int(text.split()[1]) % 2 for text in split.x]
        np.testing.assert_array_equal(split.y, right)
        assert split.y.dtype == np.int32 and split.x.dtype.kind == "U"


def test_seed_leaves_the_test_split_alone_and_test_seed_does_not():
    make = lambda **kw: from_texts({"train": numbered(40)}, CLASSES, **kw)
    a, b, c = make(seed=0), make(seed=1), make(test_seed=1)
    assert set(a.test.x) == set(b.test.x) != set(c.test.x)
    assert set(a.train.x) != set(b.train.x)


def test_shots_and_digests_take_texts():
    task = from_texts({"train": numbered(40)}, CLASSES)
    few = shots(task, 2, seed=0)
    assert sorted(few.train.y) == [0, 0, 1, 1]
    assert digest(task) == digest(from_texts({"train": numbered(40)}, CLASSES))
    assert digest(task) != digest(few)


def test_no_text_stands_in_two_splits():
    x, y = numbered(20)
    test = (["text 3 ", "text 100", "text 100"], [1, 0, 0])
    task = from_texts({"train": (x + x[:5], y + y[:5]), "test": test}, CLASSES)
    assert sorted(task.test.x) == ["text 100", "text 100", "text 3"]  # as published
    rest = [*task.train.x, *task.validation.x]
    assert len(rest) == len(set(rest)) == 19 and "text 3" not in rest


def test_one_text_with_two_labels_is_refused():
    with pytest.raises(ValueError, match="'text 0' has the label 1 in train 2 and 0"):
        from_texts({"train": (["text 0", "b", "text 0"], [0, 1, 1])}, CLASSES)
    with pytest.raises(ValueError, match="train: 2 texts and 1 labels"):
        from_texts({"train": (["a", "b"], [0])}, CLASSES)


def test_names():
    with pytest.raises(ValueError, match="no texts 'imbd'; expected one of sentiment"):
        load_text("imbd")


@pytest.fixture
def gsm8k_files(tmp_path, monkeypatch):
    folder = tmp_path / "data/text/gsm8k"
    folder.mkdir(parents=True)
    row = {
        "question": " How many? ",
        "answer": "2+3 = <<2+3=5>>5.\nThen 5*1000 = $<<5*1000=5000>>5,000.\n#### 5,000",
    }
    lines = [json.dumps({**row, "question": f"How many {i}?"}) for i in range(10)]
    (folder / "train_first1000.jsonl").write_text("\n".join(lines))
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setenv("REPROJAX_ASSETS", str(tmp_path))
    return folder


def test_gsm8k_rows(gsm8k_files):
    found = gsm8k(validation=3)
    assert found.test == (
        {
            "question": "How many?",
            "steps": "2+3 = 5.\nThen 5*1000 = $5,000.",
            "answer": "5,000",
        },
    )
    names = {row["question"] for row in found.train + found.validation}
    assert (len(found.train), len(found.validation), len(names)) == (7, 3, 10)
    assert gsm8k(validation=3, seed=1).validation != found.validation
    with pytest.raises(ValueError, match="expected fewer than the 10"):
        gsm8k(validation=10)
    (gsm8k_files / "test.jsonl").write_text('{"question": "?", "answer": "5"}')
    with pytest.raises(ValueError, match="no .#### . in .5."):
        gsm8k(validation=3)
    (gsm8k_files / "test.jsonl").unlink()
    with pytest.raises(ValueError, match="cannot read .*test.jsonl"):
        gsm8k(validation=3)


@pytest.mark.verify
def test_the_real_sets_are_whole():
    sentiment, spam = load_text("sentiment"), load_text("sms-spam")
    sizes = lambda task: [len(s.y) for s in (task.train, task.validation, task.test)]
    assert sum(sizes(sentiment)) == 2982 and sum(sizes(spam)) == 5160
    banking = load_text("banking77", validation=0.1)
    assert len(banking.test.y) == 3080 and len(banking.classes) == 77
    assert sum(sizes(banking)) == 10003 + 3080 - 11  # 4 twice, 7 of the test's own
    assert sum(sizes(load_text("imdb"))) == 997


@pytest.mark.verify
def test_labels_of_the_real_sets_are_those_of_the_files():
    """By other readers: the csv module, and lines looked up."""
    folder = assets() / "data/text"
    with (folder / "banking77/test.csv").open(encoding="utf-8", newline="") as file:
        rows = {" ".join(r[0].split()): r[1] for r in csv.reader(file)}
    task = load_text("banking77")
    for x, y in zip(*task.test, strict=True):
        assert rows[x].replace("_", " ") == task.classes[y]
    lines = (folder / "sms_spam/SMSSpamCollection").read_text(encoding="utf-8")
    task = load_text("sms-spam")
    for x, y in zip(task.test.x[:100], task.test.y[:100], strict=True):
        assert f"{task.classes[y]}\t{x}" in lines
    share = task.test.y.mean()
    assert abs(share - task.train.y.mean()) < 0.01  # each class by its share


@pytest.mark.verify
def test_the_real_questions_are_whole():
    found = gsm8k()
    assert [len(s) for s in found[1:]] == [800, 200, 1319]
    assert not any("<<" in row["steps"] for row in found.train + found.test)
    names = bbh_tasks()
    assert len(names) == 27 and sum(len(bbh(task).test) for task in names) == 6511
    drawn = bbh("snarks", train=3, validation=20)
    assert [len(s) for s in drawn[1:]] == [3, 20, 155]
    with pytest.raises(ValueError, match="no task 'snark'; expected one of"):
        bbh("snark")


@pytest.mark.parametrize("wrong", [None, float("nan"), 3, b"a"])
def test_what_is_no_text_or_no_label_is_refused(wrong, unchecked):
    with pytest.raises(ValueError, match="train: 1 of 3 texts are none"):
        from_texts({"train": (["a", "b", wrong], [0, 1, 0])}, CLASSES)
    if not isinstance(wrong, int):
        with pytest.raises(ValueError, match="train: labels of type"):
            from_texts({"train": (["a", "b", "c"], [0, 1, wrong])}, CLASSES)
    with pytest.raises(ValueError, match="train: labels of type float64"):
        from_texts({"train": (["a", "b", "c"], [0, 1, 0.9])}, CLASSES)


def test_no_validation_text_is_a_test_text():
    x, y = numbered(20)
    parts = {"train": (x, y), "validation": (x[:4], y[:4]), "test": (x[3:5], y[3:5])}
    task = from_texts(parts, CLASSES)
    assert sorted(task.validation.x) == x[:3] and sorted(task.test.x) == x[3:5]
