"""Images that stay in their files: the same batches, little memory, named faults."""

import gc
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from test_folder import classes
from test_tfds import correct, prepare

from reprojax import reprogram
from reprojax.alignments import bayesian
from reprojax.core import passthrough, stateless
from reprojax.data import (
    Images,
    Split,
    batch,
    batches,
    digest,
    from_arrays,
    from_folder,
    from_tfds,
    in_order,
    load,
    order,
    shots,
)
from reprojax.data.pixels import opened
from reprojax.training.loop import fit


def shades(n, seen=lambda image: None):
    """Image i of grey i, labelled i, from "files" that are numbers."""

    def read(i):
        image = np.full((3, 3, 1), i, np.uint8)
        seen(image)
        return image

    return Split(Images(range(n), read, mark=str), np.arange(n, dtype=np.int32))


def decoded(task):
    return [(split.x[:], split.y) for split in (task.train, task.validation, task.test)]


def same(a, b):
    for (x, y, *_), (u, v, *_) in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def test_rows_are_those_of_an_array():
    lazy = shades(9).x
    array = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((3, 3, 1), "u1")
    assert (lazy.shape, lazy.dtype, lazy.ndim) == (array.shape, array.dtype, 4)
    mask = np.arange(9) % 2 == 0
    for rows in ([4, 1, 1], np.array([8]), slice(2, 5), 3, -1, mask, [], slice(0)):
        np.testing.assert_array_equal(lazy[rows], array[rows])
        assert lazy[rows].dtype == np.uint8
    taken = lazy.take(np.array([5, 2, 7])).joined(lazy.take(np.array([0])))
    np.testing.assert_array_equal(taken[:], array[[5, 2, 7, 0]])
    with pytest.raises(IndexError):
        lazy[9]
    with pytest.raises(ValueError, match=r"9 images of \(3, 3, 1\) lie in .*x\[rows\]"):
        np.asarray(lazy)


@pytest.mark.parametrize("split", [False, True])
def test_a_lazy_folder_is_the_folder(tmp_path, split):
    root = classes(tmp_path / "train" if split else tmp_path)
    if split:
        classes(tmp_path / "val", count=2, first=20)
    root = tmp_path
    for sizes in ({}, {"seed": 3, "test": 4}, {"test_seed": 1, "train": 5}):
        lazy, whole = (load(root, size=5, lazy=k, **sizes) for k in (True, False))
        assert isinstance(lazy.train.x, Images)
        same(decoded(lazy), decoded(whole))
    few = shots(lazy, 1, seed=2)
    assert isinstance(few.train.x, Images)
    same(decoded(few), decoded(shots(whole, 1, seed=2)))


@pytest.mark.parametrize("shape", [(None, None, 3), (4, 7, 1)])
def test_a_lazy_array_record_is_the_array_record(tmp_path, shape):
    path = prepare(tmp_path, shape, {"train": 12, "test": 6})
    lazy, whole = (from_tfds(path, size=5, validation=4, lazy=k) for k in (True, False))
    same(decoded(lazy), decoded(whole))
    assert correct(lazy._replace(**_whole(lazy)))
    assert digest(lazy) == digest(from_tfds(path, size=5, validation=4, lazy=True))
    assert digest(lazy) != digest(from_tfds(path, validation=3, lazy=True))


def _whole(task):
    names = ("train", "validation", "test")
    return {n: Split(x, y) for n, (x, y) in zip(names, decoded(task), strict=True)}


def test_an_own_source_becomes_a_task():
    def png(i):
        file = io.BytesIO()
        Image.new("L", (2, 2), 10 * i).save(file, "png")
        return file.getvalue()

    read = lambda raw: opened(raw, np.array)[..., None]
    records = [png(i) for i in range(12)]
    x = Images(records, read)
    y = np.arange(12) % 2
    task = from_arrays(x, y, ["even", "odd"], test=2, validation=2)
    assert ((task.train.x[:] // 10)[:, 0, 0, 0] % 2 == task.train.y).all()
    assert digest(task) != digest(
        from_arrays(Images(records[1:] + [png(0)], read), y, test=2, validation=2)
    )
    with pytest.raises(ValueError, match="some splits are arrays and some lie in"):
        from_arrays(x, y, test=(np.zeros((2, 2, 2, 1), "u1"), [0, 1]))


# -- order


@pytest.mark.parametrize("n, size", [(11, 4), (12, 4), (3, 5)])
def test_batches_are_those_of_each_step_from_any_first_step(n, size):
    lazy = shades(n)
    memory = Split(lazy.x[:], lazy.y)
    for first, total in ((0, 9), (2, 3), (5, 9), (7, 7)):
        wanted = [batch(memory, size, 3, step) for step in range(first, total)]
        for split in (lazy, memory):
            same(batches(split, size, 3, first, total), wanted)
    same(in_order(lazy, size), in_order(memory, size))


CHILD = """
    import sys, time
    sys.path[:0] = {paths!r}
    from test_lazy import batches, shades
    for step, (x, y, _) in enumerate(batches(shades(11), 4, 3, int(sys.argv[1]), 40)):
        print(int(sys.argv[1]) + step, *y, flush=True)
        time.sleep(.02)
"""


def test_after_a_kill_the_rows_go_on_where_they_were():
    here = os.path.dirname(__file__)
    code = textwrap.dedent(CHILD).format(paths=[here, os.path.dirname(here)])
    lines, first = [], 0
    for _ in range(2):  # killed, and gone on
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(first)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            assert child.stdout is not None
            lines += [child.stdout.readline() for _ in range(7)]
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            child.stdout.close()
        first = 7
    expected = [[i, *batch(shades(11), 4, 3, i)[1]] for i in range(14)]
    assert [list(map(int, line.split())) for line in lines] == expected


# -- memory and threads


def test_few_rows_are_alive_at_once_however_many_there_are():
    alive, most, size = set(), [0], 8
    lock = threading.Lock()

    def seen(image):
        with lock:
            alive.add(id(image))
            weakref.finalize(image, alive.discard, id(image))

    split = shades(250, seen)
    made = []
    make = order.batch

    def counted(*args):
        made.append(args[-1])
        return make(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "batch", counted)
        for step, _ in enumerate(batches(split, size, 0, 0, 60)):
            time.sleep(0.001)
            assert len(made) <= step + 1 + order.AHEAD
            most[0] = max(most[0], len(alive))
    assert len(made) == 60 and most[0] <= (order.AHEAD + 1) * size
    gc.collect()
    assert not alive


def test_a_loop_that_is_left_early_leaves_no_thread_behind():
    before = {t for t in threading.enumerate() if "images" not in t.name}
    run = batches(shades(50), 4, 0, 0, 1000)
    next(run)
    assert any("grain" in t.name for t in threading.enumerate())
    run.close()
    for _ in range(100):
        rest = {t for t in threading.enumerate() if "images" not in t.name} - before
        if not rest:
            break
        time.sleep(0.02)
    assert not rest


def test_arrays_need_no_grain(monkeypatch):
    split = shades(5)
    monkeypatch.setitem(sys.modules, "grain", None)
    memory = Split(split.x[:], split.y)
    assert len(list(batches(memory, 2, 0, 0, 3))) == 3
    with pytest.raises(ValueError, match=r"grain, .* not installed; pip install"):
        shades(5)  # when they are loaded, before any work


# -- identity and faults


def test_the_digest_sees_names_labels_sizes_and_contents(tmp_path):
    root = classes(tmp_path / "paint")
    first = digest(from_folder(root, size=5, lazy=True))
    assert first == digest(from_folder(root, size=5, lazy=True))
    (tmp_path / "copy").mkdir()
    assert first == digest(from_folder(classes(tmp_path / "copy"), size=5, lazy=True))
    assert first != digest(from_folder(root, size=6, lazy=True))
    assert first != digest(from_folder(root, size=5, lazy=True, seed=1))
    path = root / "red/00.png"
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"?" + data[-19:])  # same name and byte count
    assert first != digest(from_folder(root, size=5, lazy=True))


def test_a_broken_image_is_named_by_its_path(tmp_path):
    root = classes(tmp_path)
    task = from_folder(root, size=5, lazy=True, test=3, validation=3)
    rows = [i for i in range(12) if task.train.y[i] == 1]
    broken = [str(root / "green" / f"{i:02}.png") for i in range(6)]
    for path in broken:
        with open(path, "r+b") as file:
            file.truncate(50)
    with pytest.raises(ValueError, match="4 of 12 images cannot be read") as caught:
        task.train.x[:]
    assert sum(path in str(caught.value) for path in broken) == len(rows) == 4
    with pytest.raises(ValueError, match=r"images cannot be read; replace.*\n.*green"):
        list(batches(task.train, 4, 0, 0, 3))
    with pytest.raises(ValueError, match=r"1 of 1 .*\n  .*green/00.png \(OSError: .*"):
        Images([broken[0]], lambda path: opened(path, np.array))


def test_other_shapes_and_types_are_named():
    sizes = lambda i: np.zeros((3, 3 + (i == 2), 1), np.uint8)
    with pytest.raises(ValueError, match=r"image 2 \(it is uint8 \[3, 4, 1\], expect"):
        Images(range(3), sizes)[:]
    with pytest.raises(ValueError, match=r"it is float64 \[3, 3, 1\], expected uint8"):
        Images(range(3), lambda i: np.zeros((3, 3, 1)))
    with pytest.raises(ValueError, match="no images to read"):
        Images([], sizes)


# -- training


def colours(frozen, x, edit=passthrough):
    return edit("output", edit("input", x).mean((1, 2)) @ frozen)


def test_fit_on_files_is_fit_in_memory(tmp_path):
    root = classes(tmp_path)
    program = reprogram(
        colours, {"input": stateless(lambda x: x / 255.0), "output": bayesian(3)}
    )
    run = lambda lazy: fit(
        program,
        jax.numpy.eye(3, 4),
        load(root, size=4, lazy=lazy),
        optimizer=optax.sgd(0.1),
        epochs=2,
        batch=5,
        progress=False,
    )
    lazy, whole = run(True), run(False)
    assert lazy.score == whole.score
    jax.tree.map(np.testing.assert_array_equal, lazy.params, whole.params)
