import numpy as np
import pytest

from reprojax.data import digest, shots
from reprojax.data.text import from_texts

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
