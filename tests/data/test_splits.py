import numpy as np
import pytest

from reprojax.data import digest, from_arrays, shots


def numbered(counts, size=(2, 2)):
    """Images that spell their own row number in two bytes; labels by counts."""
    y = np.repeat(np.arange(len(counts)), counts)
    y = np.random.default_rng(9).permutation(y)
    x = np.zeros((len(y), *size, 1), np.uint8)
    x[:, 0, 0, 0], x[:, 0, 1, 0] = np.arange(len(y)) // 256, np.arange(len(y)) % 256
    return x, y


def rows(split):
    return split.x[:, 0, 0, 0].astype(int) * 256 + split.x[:, 0, 1, 0]


def every(task):
    return [set(rows(s)) for s in (task.train, task.validation, task.test)]


def test_three_disjoint_splits_cover_all_rows_and_keep_their_labels():
    x, y = numbered([50, 30, 20])
    task = from_arrays(x, y)
    parts = every(task)
    assert [len(p) for p in parts] == [60, 20, 20]
    assert set.union(*parts) == set(range(100))
    for split in (task.train, task.validation, task.test):
        assert (y[rows(split)] == split.y).all() and split.y.dtype == np.int32


@pytest.mark.parametrize("sizes", [(None, 0.2, 0.2), (70, 31, 47), (0.3, 0.1, 0.5)])
def test_each_class_has_its_share(sizes):
    counts = np.array([101, 53, 29, 17])
    train, validation, test = sizes
    task = from_arrays(
        *numbered(counts), train=train, validation=validation, test=test, seed=3
    )
    for split in (task.validation, task.test):
        quota = len(split.y) * counts / counts.sum()
        assert (abs(np.bincount(split.y, minlength=4) - quota) < 2).all()
    if train == 70:
        assert (len(task.train.y), len(task.validation.y)) == (70, 31)
        assert len(task.test.y) == 47
    if train == 0.3:
        assert (len(task.train.y), len(task.test.y)) == (60, 100)


def test_seed_redraws_training_and_validation_and_leaves_the_test_images():
    data = numbered([60, 60])
    draws = [from_arrays(*data, train=30, seed=s) for s in range(3)]
    assert len({digest(t) for t in draws}) == 3
    tests = {tuple(rows(t.test)) for t in draws}
    assert len(tests) == 1
    for part in ("train", "validation"):
        assert len({tuple(rows(getattr(t, part))) for t in draws}) == 3
    again = from_arrays(*data, train=30, seed=1)
    assert digest(again) == digest(draws[1])
    other = from_arrays(*data, train=30, seed=1, test_seed=1)
    assert tuple(rows(other.test)) not in tests


def test_the_size_of_one_split_leaves_the_earlier_draws_alone():
    data = numbered([60, 60])
    small, large = (from_arrays(*data, train=n, seed=4) for n in (20, 60))
    assert (rows(small.validation) == rows(large.validation)).all()
    assert set(rows(small.train)) < set(rows(large.train))


def test_given_splits_are_kept_and_missing_ones_drawn_from_training():
    x, y = numbered([40, 40, 40])
    own = (x[:30], y[:30])
    task = from_arrays(x[30:], y[30:], test=own)
    assert (task.test.x == own[0]).all() and (task.test.y == own[1]).all()
    assert [len(p) for p in every(task)] == [72, 18, 30]
    part = from_arrays(x[60:], y[60:], test=own, validation=(x[30:60], y[30:60]))
    assert len(part.train.y) == 60 and len(part.validation.y) == 30


def test_a_test_seed_pools_given_splits_and_keeps_their_sizes():
    x, y = numbered([40, 40, 40])
    draws = [
        from_arrays(x[30:], y[30:], test=(x[:30], y[:30]), seed=s, test_seed=s)
        for s in range(2)
    ]
    for task in draws:
        assert [len(p) for p in every(task)] == [66, 24, 30]
        assert set.union(*every(task)) == set(range(120))
    assert every(draws[0])[2] != every(draws[1])[2]
    assert every(draws[0])[2] != set(range(30))


def test_equal_images_are_counted_across_the_splits_that_are_drawn():
    x, y = numbered([40, 40])
    x, y = np.concatenate([x, x[:10]]), np.concatenate([y, y[:10]])
    with pytest.warns(UserWarning) as told:
        task = from_arrays(x, y, seed=1)
    train, validation, test = every(task)
    line = told[0].message.args[0]
    for split, others in (("validation", train), ("test", train | validation)):
        numbers = rows(getattr(task, split)).tolist()
        count = sum(number in others for number in numbers)
        assert count and f"{count} of {len(numbers)} {split} images" in line
    assert len(told) == 1
    few = from_arrays(x, y, duplicates="drop")
    assert sum(map(len, every(few))) == sum(len(s.y) for s in few[1:4]) == 80


def test_of_equal_images_the_test_split_keeps_its_own():
    x, y = numbered([10, 10])
    own = {"validation": (x[2:6], y[2:6]), "test": (x[[3, 3, 19]], y[[3, 3, 19]])}
    task = from_arrays(x, y, **own, duplicates="drop")
    shown = [sorted(rows(split).tolist()) for split in task[1:4]]
    assert shown == [[0, 1, *range(6, 19)], [2, 4, 5], [3, 3, 19]]
    pooled = from_arrays(x, y, **own, duplicates="drop", test_seed=0)
    assert sum(map(len, every(pooled))) == sum(len(s.y) for s in pooled[1:4]) == 20


def test_equal_images_under_two_labels_are_no_training_images():
    x, y = numbered([10, 10])
    both, labels = np.concatenate([x, x[:3]]), np.concatenate([y, 1 - y[:3]])
    with pytest.warns(UserWarning, match="images have an equal one under another"):
        from_arrays(both, labels, validation=4, test=4)
    task = from_arrays(both, labels, validation=4, test=4, duplicates="drop")
    assert set.union(*every(task)) == set(range(3, 20))


def test_rare_classes_stay_in_training():
    task = from_arrays(*numbered([40, 1, 2]), validation=0.4, test=0.4)
    assert set(task.train.y) == {0, 1, 2}
    task = from_arrays(*numbered([400, 2]), train=20, test=0.2)
    assert set(task.train.y) == {0, 1} and len(task.train.y) == 20


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"test": 39}, r"test=39 asks for 39 images; expected 1 to 38, of the 40"),
        ({"train": 50}, r"train=50 asks for 50 images; expected 2 to 24, of the 24"),
        ({"train": 1}, "train=1 .*training needs one a class"),
        ({"validation": 1.5}, "validation=1.5: expected a number of images from 1, or"),
        ({"test": 0}, "test=0: expected a number"),
        ({"test": -3}, "test=-3: expected a number"),
        ({"train": 1.0}, "train=1.0: expected a number"),
        ({"test": True}, "test=True: expected a number"),
    ],
)
def test_impossible_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        from_arrays(*numbered([20, 20]), **sizes)


def test_too_few_images_for_a_split():
    wanted = "got 2 images, of which none can be left for the test split; training"
    with pytest.raises(ValueError, match=wanted):
        from_arrays(*numbered([1, 1]))


def test_an_empty_given_split():
    x, y = numbered([20, 20])
    with pytest.raises(ValueError, match="the test split is empty"):
        from_arrays(x, y, test=(x[:0], y[:0]))
    with pytest.raises(ValueError, match="validation: 3 images and 2 labels"):
        from_arrays(x, y, validation=(x[:3], y[:2]))
    with pytest.raises(ValueError, match="test: images of shape .*resize them first"):
        from_arrays(x, y, test=(x[:, :1], y))


def test_shots_are_exact_nested_and_drawn_by_seed():
    task = from_arrays(*numbered([40, 30, 20]))
    few, more = (shots(task, k, seed=2) for k in (3, 5))
    assert list(np.bincount(few.train.y)) == [3, 3, 3]
    assert list(np.bincount(more.train.y)) == [5, 5, 5]
    assert set(rows(few.train)) < set(rows(more.train)) < set(rows(task.train))
    assert (few.test.x == task.test.x).all() and few.validation is task.validation
    assert set(rows(shots(task, 3, seed=3).train)) != set(rows(few.train))
    assert digest(shots(task, 3, seed=2)) == digest(few) and few.name == "arrays-3-shot"


def test_shots_name_the_classes_with_fewer():
    task = from_arrays(*numbered([40, 10, 5]), ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"images for b \(6\), c \(3\).*at most 3"):
        shots(task, 7, seed=0)
    with pytest.raises(ValueError, match="0 training images a class"):
        shots(task, 0, seed=0)
