import subprocess
import sys
import zipfile
from functools import partial
from hashlib import sha256

import numpy as np
import pytest

from reprojax.data import Shared, digest, from_arrays, from_npz, load
from reprojax.data.letters import letters_behind_glass


def pictures(n=30, shape=(4, 4, 3), seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
    return x, np.arange(n) % 3


def sizes(task):
    return tuple(len(s.y) for s in (task.train, task.validation, task.test))


def test_importing_the_data_package_imports_nothing_heavy():
    heavy = "jax tensorflow tensorflow_datasets PIL sklearn".split()
    names = f"print([m for m in {heavy} if m in sys.modules])"
    # the package alone: what reprojax itself imports is another matter
    alone = (
        "import types, sys; p = types.ModuleType('reprojax'); "
        "p.__path__ = ['reprojax']; sys.modules['reprojax'] = p; import reprojax.data; "
    )
    done = subprocess.run([sys.executable, "-c", alone + names], capture_output=True)
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()


def test_digits_are_scikit_learns_scaled_to_bytes():
    from sklearn.datasets import load_digits

    task = load("digits", seed=3)
    assert task.name == "digits" and sizes(task) == (1079, 359, 359)
    assert task.classes == tuple("0123456789") and task.train.x.shape[1:] == (8, 8, 1)
    source = load_digits()
    table = {
        im.tobytes(): t for im, t in zip(source.images, source.target, strict=True)
    }
    for split in (task.train, task.validation, task.test):
        ink = np.rint(split.x[..., 0] / 255 * 16)
        assert [table[im.tobytes()] for im in ink] == list(split.y)
    assert task.train.x.max() == 255


def test_the_digits_test_split_is_the_same_for_all_seeds():
    a, b = (load("digits", seed=s, train=100, validation=50, test=300) for s in (0, 1))
    assert sizes(a) == sizes(b) == (100, 50, 300)
    assert (a.test.x == b.test.x).all() and digest(a) != digest(b)
    c = load("digits", seed=1, test_seed=1, train=100, validation=50, test=300)
    assert (c.test.x != b.test.x).any()


def test_letters_behind_glass_are_the_same_bytes_everywhere():
    x, y, classes = letters_behind_glass(each=20)
    assert x.shape == (200, 32, 32, 3) and classes == [*"CEHJLTUVXY"]
    assert sha256(x.tobytes()).hexdigest()[:16] == "26adf8b3b7cc179b"
    task = load("letters-behind-glass", train=30, validation=10, test=50)
    assert sizes(task) == (30, 10, 50) and task.classes == tuple(classes)


def test_the_same_light_lies_over_all_letters():
    x = letters_behind_glass(each=20)[0]
    least = x.min(0).astype(int)  # no letter covers a pixel of every image
    assert least.max() > 100 and (least < 5).any() and x.max() < 255
    assert (letters_behind_glass(each=20, seed=1)[0] != x).any()


def test_npz_of_one_pool_and_of_splits(tmp_path):
    x, y = pictures()
    names = ["red", "green", "blue"]
    np.savez(tmp_path / "pool.npz", x=x, y=y, classes=names)
    task = load(tmp_path / "pool.npz", seed=5)
    assert task.name == "pool" and task.classes == ("red", "green", "blue")
    assert digest(task) == digest(from_arrays(x, y, names, seed=5))

    parts = {"x_train": x, "y_train": y, "x_val": x[:9], "y_val": y[:9]}
    parts |= {"x_test": x[9:20], "y_test": y[9:20]}
    np.savez(tmp_path / "split.npz", **parts)
    given = {"duplicates": "keep"}  # all splits are parts of one pool
    task = load(str(tmp_path / "split.npz"), **given)
    assert sizes(task) == (30, 9, 11) and (task.test.x == x[9:20]).all()
    task = from_npz(tmp_path / "split.npz", train=12, test=6, **given)
    assert sizes(task) == (12, 9, 6)

    medmnist = {"train_images": x[..., 0], "train_labels": y[:, None]}
    medmnist |= {"test_images": x[:6, ..., 0], "test_labels": y[:6, None]}
    np.savez(tmp_path / "grey.npz", **medmnist)
    task = from_npz(tmp_path / "grey.npz", **given)
    assert sizes(task) == (24, 6, 6) and task.train.x.shape[1:] == (4, 4, 1)


def test_bad_npz(tmp_path):
    x, y = pictures()
    path = tmp_path / "bad.npz"

    def fails(message, **arrays):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            load(path)

    fails("has no 'x' to go with", pixels=x, y=y)
    fails("holds a, b; expected x and y, or x_train", a=x, b=y)
    fails("has no 'y_test' to go with", x=x, y=y, x_test=x)
    fails("has the train images twice", x=x, y=y, x_train=x, y_train=y)
    fails("expected x and y, or x_train", x_test=x, y_test=y)
    fails("cannot read .*no objects", x=np.array([{}, None]), y=y)
    path.write_bytes(b"PK\3\4 not a zip")
    with pytest.raises(ValueError, match="cannot read .* as an npz file"):
        load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot read .* as an npz file"):
        load(path)
    np.save(tmp_path / "one.npy", x)
    (tmp_path / "one.npy").rename(path)
    with pytest.raises(ValueError, match="cannot read .* as an npz file"):
        load(path)
    with pytest.raises(ValueError, match="no file .*absent.npz"):
        from_npz(tmp_path / "absent.npz")


def test_unknown_names_bring_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="'mnist'; expected 'digits' or 'letters-b"):
        load("mnist")
    (tmp_path / "table.csv").write_text("x,y")
    with pytest.raises(ValueError, match="'table.csv' is a file, but not .npz"):
        load("table.csv")


def test_an_npz_that_announces_what_it_does_not_hold(tmp_path):
    from numpy.lib import format as npy

    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("x.npy", "w") as array:
            header = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 1, 1)}
            npy.write_array_header_1_0(array, header)
        archive.writestr("y.npy", b"")
    with pytest.raises(ValueError, match=r"x.npy announces uint8\[1099511627776, 1, 1"):
        from_npz(path)


def test_damaged_npz_files_are_named(tmp_path):
    x, y = pictures()
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=x, y=y)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        place = int(rng.integers(len(data)))
        data[place : place + 8] = rng.bytes(8)
        path.write_bytes(bytes(data)[: len(data) - int(rng.integers(0, 40))])
        with pytest.raises(ValueError, match="a.npz"):
            from_npz(path)


def test_wrong_values_name_the_file(tmp_path):
    x, y = pictures()
    path = tmp_path / "a.npz"
    nan = np.full(x.shape, np.nan)
    for given, words in (
        ({"x": nan, "y": y}, "pixel values are NaN or infinite"),
        ({"x": x.astype(float), "y": y}, r"outside \[0, 1\]"),
        ({"x": x.astype(np.uint16), "y": y}, "images of type uint16"),
        ({"x": x, "y": y.astype(float)}, "labels of type float64"),
        ({"x": x, "y": y.astype(str)}, "labels of type <U"),
        ({"x": x, "y": y - 1}, "out of range"),
        ({"x": x, "y": y, "x_test": x[:0], "y_test": y[:0]}, "test split is empty"),
        ({"x": x, "y": y, "classes": np.array([0.5, np.nan, 1])}, "classes of float64"),
    ):
        np.savez(path, **given)
        with pytest.raises(ValueError, match=f"a.npz.*{words}"):
            from_npz(path)


# -- other than images


def test_series_and_trees_are_drawn_as_they_are_with_their_context():
    draw = np.random.default_rng(0)
    x = {"nodes": draw.normal(size=(30, 4, 2)), "edges": np.arange(30)[:, None]}
    y, near = np.arange(30) % 3, np.arange(30)
    context = {"near": near, "table": Shared(np.eye(3))}
    given = {"holds": "graphs", "context": context, "validation": 6, "test": 5}
    task = from_arrays(x, y, ["a", "b", "c"], **given)
    assert [len(s.y) for s in (task.train, task.validation, task.test)] == [19, 6, 5]
    for split in (task.train, task.validation, task.test):
        row = split.x["edges"][:, 0]
        np.testing.assert_array_equal(split.x["nodes"], x["nodes"][row])
        np.testing.assert_array_equal(split.y, row % 3)
        np.testing.assert_array_equal(split.context["near"], row)
        np.testing.assert_array_equal(split.context["table"].value, np.eye(3))
    own = {"nodes": x["nodes"][:4], "edges": x["edges"][:4]}
    del given["test"]
    kept = (own, y[:4], {"near": near[:4], "table": Shared(np.eye(3))})
    task = from_arrays(x, y, **given, test=kept, duplicates="keep")
    assert task.test.context["near"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="some splits have a context"):
        from_arrays(x, y, **given, test=kept[:2], duplicates="keep")
    with pytest.raises(ValueError, match="test: rows of shape .* pad them"):
        short = {"nodes": own["nodes"][:, :3], "edges": own["edges"]}
        from_arrays(x, y, holds="graphs", test=(short, y[:4]))


def test_equal_rows_of_trees_are_dropped():
    x = {"a": np.arange(12.0)[:, None], "b": np.zeros(12)}
    x["a"][11] = x["a"][0]
    given = {"holds": "pairs", "duplicates": "drop", "test": 3, "validation": 3}
    task = from_arrays(x, np.arange(12.0), answers="numbers", **given)
    every = np.concatenate([s.x["a"] for s in (task.train, task.validation, task.test)])
    assert sorted(every[:, 0]) == list(range(11))


def test_labels_of_every_kind():
    x = np.random.default_rng(1).normal(size=(20, 8, 1)).astype(np.float32)
    draw = partial(from_arrays, x, holds="series", test=4, validation=4)
    numbers = draw(np.arange(20), answers="numbers").train.y
    assert numbers.shape == (12, 1) and numbers.dtype == np.float32
    several = np.where(np.arange(40).reshape(20, 2) % 5 == 0, np.nan, 1.0)
    task = draw(several, ["red", "round"], answers="labels")
    assert {*np.unique(task.train.y)} == {-1, 1} and task.classes == ("red", "round")
    nothing = draw(None)
    assert nothing.answers == "none" and not nothing.train.y.any()
    with pytest.raises(ValueError, match="float.* for 2 at once, expected whole"):
        draw(several / 2, answers="labels")
