"""Texts of the assets: rows as their files have them, and what is said of bad files."""

import csv
import json

import pytest

from experiments.shared.assets import file
from experiments.shared.texts import bbh, bbh_tasks, gsm8k, load_text


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
    with pytest.raises(ValueError, match="no .*test.jsonl; .*REPROJAX_ASSETS"):
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
    folder = file("data/text")
    with (folder / "banking77/test.csv").open(encoding="utf-8", newline="") as lines:
        rows = {" ".join(r[0].split()): r[1] for r in csv.reader(lines)}
    task = load_text("banking77")
    for x, y in zip(*task.test[:2], strict=True):
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
