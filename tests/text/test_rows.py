import numpy as np
import pytest

from reprojax.text import (
    flipped_labels,
    labelled,
    nearest_rows,
    random_labels,
    shuffled,
)

LABELS = ("bad", "fair", "good")
ROWS = labelled([f"t{i}" for i in range(60)], [i % 3 for i in range(60)], LABELS)


def test_labelled():
    assert ROWS[4] == {"text": "t4", "label": "fair"}
    made = labelled(["a"], np.array([1]), LABELS, text="question", label="answer")
    assert made == [{"question": "a", "answer": "fair"}]
    with pytest.raises(ValueError, match="1 texts with classes \\[3\\]"):
        labelled(["a"], [3], LABELS)
    with pytest.raises(ValueError, match="2 texts with classes"):
        labelled(["a", "b"], [0], LABELS)


def test_flipped_labels_are_all_wrong_and_as_many_of_each():
    made = flipped_labels(ROWS, LABELS)
    assert all(a["label"] != b["label"] for a, b in zip(ROWS, made, strict=True))
    assert [a["text"] for a in made] == [a["text"] for a in ROWS]
    assert sum(row["label"] == "bad" for row in made) == 20
    assert flipped_labels(ROWS[:1], ("good", "bad"))[0]["label"] == "good"
    assert ROWS[0]["label"] == "bad", "the rows themselves stay"


def test_random_labels_do_not_hang_on_the_right_ones():
    made = random_labels(ROWS * 10, LABELS, 1)
    assert made == random_labels(ROWS * 10, LABELS, 1)
    assert made != random_labels(ROWS * 10, LABELS, 2)
    right = sum(a["label"] == b["label"] for a, b in zip(ROWS * 10, made, strict=True))
    assert 150 < right < 250  # a third: the right one is among those drawn
    assert ROWS[0]["label"] == "bad"


@pytest.mark.parametrize(
    "labels", [("bad", "fair"), ("bad", "bad", "fair", "good"), ()]
)
def test_labels_that_do_not_fit_the_rows(labels):
    for control in (
        lambda: flipped_labels(ROWS, labels),
        lambda: random_labels(ROWS, labels, 0),
    ):
        with pytest.raises(ValueError, match="expected rows with only these"):
            control()


def test_shuffled_is_an_order_by_seed():
    made = shuffled(ROWS, 0)
    assert made != ROWS and sorted(made, key=ROWS.index) == ROWS
    assert made == shuffled(ROWS, 0) != shuffled(ROWS, 1)


PLANE = {"a": [1, 0], "b": [90, 10], "c": [0, 5], "d": [-1, 0], "x": [2, 0.1]}


def test_nearest_by_cosine_the_nearest_last():
    calls = []

    def embed(texts):
        calls.append(list(texts))
        return np.array([PLANE[t] for t in texts])

    rows = [{"text": t} for t in "abcd"]
    look = nearest_rows(rows, 3, embed, "{text}")
    assert calls == [["a", "b", "c", "d"]]
    found = look([{"text": "x"}, {"text": "c"}])
    assert [[row["text"] for row in own] for own in found] == [
        ["c", "b", "a"],
        ["a", "b", "c"],  # of equals the first is the nearer one
    ]
    assert calls[1:] == [["x", "c"]], "all queries in one batch"
    first = nearest_rows(rows, 2, embed, "{text}", last=False)
    assert [row["text"] for row in first([{"text": "x"}])[0]] == ["a", "b"]
    assert look([]) == []


def test_nearest_by_euclidean_distance_counts_lengths():
    rows = [{"text": t} for t in "abcd"]
    embed = lambda texts: np.array([PLANE[t] for t in texts])
    look = nearest_rows(rows, 4, embed, "{text}", distance="euclidean", last=False)
    plane = np.array([PLANE[t] for t in "abcd"], float)
    away = np.linalg.norm(plane - PLANE["x"], axis=1)
    right = ["abcd"[i] for i in away.argsort()]
    assert [row["text"] for row in look([{"text": "x"}])[0]] == right == list("adcb")


def test_nearest_refuses():
    rows = [{"text": t} for t in "abcd"]
    with pytest.raises(ValueError, match="distance='manhattan', expected 'cosine'"):
        nearest_rows(
            rows, 1, lambda texts: np.ones((4, 2)), "{text}", distance="manhattan"
        )
    with pytest.raises(ValueError, match="got k=5, expected 1 to 4"):
        nearest_rows(rows, 5, lambda texts: np.ones((4, 2)), "{text}")
    with pytest.raises(ValueError, match=r"embed gave \(3, 2\) for 4 texts"):
        nearest_rows(rows, 2, lambda texts: np.ones((3, 2)), "{text}")
    with pytest.raises(ValueError, match="expected a finite vector each"):
        nearest_rows(rows, 2, lambda texts: np.full((4, 2), np.nan), "{text}")


def test_a_class_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match=r"classes .*0\.5.*a class each"):
        labelled(["a film"], np.array([0.5]), ("bad", "good"))
