import hashlib

import numpy as np
import pytest

from reprojax.data import Split, Task, check, digest, from_arrays


def pictures(n=12, shape=(4, 5, 3), classes=3):
    x = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    return x, np.arange(n) % classes


def task(**changes):
    x, y = pictures()
    y = y.astype(np.int32)
    splits = Split(x[:6], y[:6]), Split(x[6:9], y[6:9]), Split(x[9:], y[9:])
    return Task("toy", *splits, ("a", "b", "c"))._replace(**changes)


def test_check_hands_back_a_good_task():
    good = task()
    assert check(good) is good


x, y = pictures(6)
WRONG = {
    "the test split is empty": task(test=Split(x[:0], y[:0])),
    "train: 6 images and 5 labels": task(train=Split(x, y[:5])),
    r"validation: 1 of 3 labels out of range \(-1; first at row 2\); expected 0 to 2": (
        task(validation=Split(x[:3], np.array([0, 1, -1])))
    ),
    r"train: 2 of 6 labels out of range \(3, 7; first at row 0\)": (
        task(train=Split(x, np.array([7, 0, 1, 2, 3, 0])))
    ),
    r"no training image for 'b' \(label 1\), 'c' \(label 2\)": (
        task(train=Split(x, np.zeros(6, int)))
    ),
    r"images of shape \(6, 4, 5\); expected \[N h w C\]": (
        task(train=Split(x[..., 0], y))
    ),
    "channels come last: x.transpose": (
        task(train=Split(np.zeros((6, 3, 4, 5), np.uint8), y))
    ),
    r"drop the alpha channel: x\[..., :3\]": (
        task(train=Split(np.zeros((6, 4, 5, 4), np.uint8), y))
    ),
    r"images of type int64; expected uint8": task(train=Split(x.astype(int), y)),
    "labels of type float64; expected whole numbers": task(train=Split(x, y / 1)),
    "images differ in shape between splits": task(test=Split(x[:, :3], y)),
    r"1 class \(a\); expected at least two": task(classes=("a",)),
    "class names twice: a; expected each once": task(classes=("a", "a", "b")),
}


@pytest.mark.parametrize("message", WRONG)
def test_check_says_what_is_wrong(message):
    with pytest.raises(ValueError, match=message):
        check(WRONG[message])


def test_floats_are_rounded_and_grey_gets_its_axis():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    y = np.arange(16) % 2
    for kind in (np.float16, np.float32, np.float64):
        made = from_arrays((levels / 255).astype(kind), y, seed=1)
        plain = from_arrays(levels, y, seed=1)
        assert made.train.x.shape[1:] == (4, 4, 1) and made.train.x.dtype == np.uint8
        assert digest(made) == digest(plain)


def test_bad_pixels_are_counted_and_placed():
    x, y = pictures()
    good = x / 255.0
    for value, fault in ((np.nan, "NaN"), (-np.inf, "NaN"), (1.5, "outside")):
        bad = good.copy()
        bad[3, 2, 1, 0] = bad[7, 0, 0, 0] = value
        with pytest.raises(ValueError, match=rf"2 of 720 .*{fault}.*x\[3, 2, 1, 0\]"):
            from_arrays(bad, y)


def test_labels_that_cannot_be_labels():
    x, y = pictures()
    with pytest.raises(ValueError, match=r"y.argmax\(-1\)"):
        from_arrays(x, np.eye(3)[y])
    with pytest.raises(ValueError, match="np.unique"):
        from_arrays(x, np.array(["cat", "dog", "cow"])[y])
    with pytest.raises(ValueError, match="labels go up to 1000000 with only 12"):
        from_arrays(x, np.where(y == 2, 1_000_000, y))
    with pytest.raises(ValueError, match=r"labels out of range \(-1;"):
        from_arrays(x, y - 1)
    with pytest.raises(ValueError, match=r"no training image for '0' \(label 0\)"):
        from_arrays(x, y + 1)
    with pytest.raises(
        ValueError, match=r"4 of 12 labels out of range \(2; first at row 2\)"
    ):
        from_arrays(x, y, ["a", "b"])
    assert from_arrays(x, y[:, None]).classes == ("0", "1", "2")


def test_digest_sees_every_pixel_label_name_and_order():
    base = task()
    other = base.train.x.copy()
    other[0, 0, 0, 0] ^= 1
    changed = [
        base._replace(train=Split(other, base.train.y)),
        base._replace(test=Split(base.test.x, base.test.y[::-1])),
        base._replace(classes=("a", "b", "d")),
        base._replace(validation=base.test, test=base.validation),
        base._replace(train=Split(base.train.x.swapaxes(1, 2), base.train.y)),
    ]
    assert len({digest(t) for t in [base, *changed]}) == 6
    same = base._replace(
        name="other", train=Split(base.train.x.copy(), base.train.y.copy())
    )
    assert digest(same) == digest(base)
    by_hand = hashlib.sha256(b"('a', 'b', 'c')")
    for name in ("train", "validation", "test"):
        x, y, _ = getattr(base, name)
        by_hand.update(f"{name} {x.shape}".encode() + x.tobytes() + y.tobytes())
    assert digest(base) == by_hand.hexdigest()
