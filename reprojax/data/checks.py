"""What is wrong with a task, its images, labels, context or numbers, in words."""

from collections.abc import Sequence
from numbers import Real
from typing import Any, get_args

import numpy as np

from reprojax.data.lazy import Images
from reprojax.data.rows import leaves, parted, shape_of, spec
from reprojax.data.task import SPLITS, Answers, Split, Task


def check(task: Task) -> Task:
    """The task itself; raise a ValueError that says what is wrong with it."""
    if task.answers not in get_args(Answers):
        raise ValueError(
            f"{task.name} has answers={task.answers!r}, expected {get_args(Answers)}"
        )
    if task.answers == "class":
        _check_classes(task.classes)
    for name in SPLITS:
        split = getattr(task, name)
        if task.holds == "images":
            _check_images(split.x, name)
        _check_answers(task, split.y, name)
        rows = sorted({len(leaf) for leaf in leaves(split.x)})
        if rows != [len(split.y)]:
            what = "images" if task.holds == "images" else "rows"
            raise ValueError(
                f"{name}: {', '.join(map(str, rows))} {what} and {len(split.y)} labels;"
                f" expected one label each of the {what}"
            )
        _check_finite(split.x, name)
        _check_context(split, name)
        if not len(split.y):
            raise ValueError(
                f"the {name} split is empty; give it images, or a share such as .2 "
                "to draw from the training images"
            )
        if task.answers == "class":
            check_classes(split.y, len(task.classes), name)
    _check_one_shape(task)
    if task.answers != "class":
        return task
    counts = np.bincount(task.train.y, minlength=len(task.classes))
    absent = [f"{task.classes[i]!r} (label {i})" for i in np.flatnonzero(counts == 0)]
    if absent:
        raise ValueError(
            f"no training image for {listed(absent)}; expected at least one a class: "
            "draw a larger train split, or drop these classes and number the labels "
            "from 0"
        )
    return task


def _check_answers(task: Task, y: np.ndarray, name: str) -> None:
    checks = {"class": labels, "words": _check_words, "numbers": _check_numbers}
    if task.answers in checks:
        checks[task.answers](y, name)
    elif task.answers == "labels":
        _check_labels(y, len(task.classes), name)
    elif np.shape(y) != (len(y),) or np.any(y):
        raise ValueError(
            f"{name}: got y of {y.dtype}{[*y.shape]} for a task whose answers are "
            '"none", expected zeros [N]; say answers="class" if they are labels'
        )


def _check_labels(y: np.ndarray, count: int, name: str) -> None:
    known = np.isin(y, (-1, 0, 1))
    if y.ndim != 2 or y.shape[1] != count or y.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: got labels of {y.dtype}{[*y.shape]} for {count} at once, "
            f"expected whole numbers [N {count}]: 1, 0, or -1 where it is not known; "
            "name each by classes="
        )
    if not known.all():
        raise ValueError(
            f"{name}: labels hold {listed([str(v) for v in np.unique(y[~known])])}, "
            "expected 1, 0, and -1 where it is not known"
        )
    if empty := [i for i in range(count) if not (y[:, i] >= 0).any()]:
        raise ValueError(
            f"{name}: label {empty[0]} is unknown in every row, expected it known in "
            "one at least; draw a larger split, or leave the label out"
        )


def _check_numbers(y: np.ndarray, name: str) -> None:
    if y.ndim != 2 or y.dtype.kind != "f" or np.isinf(y).any():
        raise ValueError(
            f"{name}: got numbers of {y.dtype}{[*y.shape]}, expected finite floats "
            "[N R], or NaN where one is not known; of one number a row: y[:, None]"
        )


def _check_context(split: Split, name: str) -> None:
    rows, _ = parted(split.context)
    lengths = {np.shape(leaf)[:1] for leaf in leaves(rows)}
    if lengths - {(len(split.y),)}:
        found = [[*np.shape(leaf)] for leaf in leaves(rows)]
        raise ValueError(
            f"{name}: got a context with arrays of {found} for {len(split.y)} rows, "
            "expected a row for each in all of them; wrap a value for all rows as "
            "data.Shared(value)"
        )
    _check_finite(rows, name)


def _check_finite(x: Any, name: str, rows: int = 1024) -> None:
    """Raise at NaN or infinity. Checks parts, because x may be a memory-mapped file."""
    import jax.numpy as jnp

    for leaf in leaves(x):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        for at in range(0, len(leaf), rows):
            part = np.asarray(leaf[at : at + rows])
            fine = np.isfinite(part.reshape(len(part), -1)).all(1)
            if not fine.all():
                row = at + int(np.flatnonzero(~fine)[0])
                raise ValueError(
                    f"{name}: row {row} holds NaN or infinity, expected finite values; "
                    "leave such rows out, or fill in what they lack"
                )


def whole(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A setting as an int, also from a NumPy number; the ValueError names it."""
    value = value.item() if getattr(value, "ndim", None) == 0 else value
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and float(value).is_integer() and least <= float(value)):
        raise ValueError(
            f"got {name}={value!r}, expected a whole number of at least {least}"
        )
    if most is not None and float(value) > most:
        raise ValueError(f"got {name}={value!r}, expected at most {most}")
    return int(float(value)) if not isinstance(value, int) else value


def whole_seed(value: Any, name: str = "seed") -> int:
    """A seed as an int below 2^32: JAX keeps 32 bits, so 2^32 would mean seed 0."""
    return whole(name, value, most=2**32 - 1)


def checked_images(x: Any, name: str) -> Any:
    """x as uint8 [N h w C]: grey [N h w] gets its axis, floats in [0, 1] are rounded.

    NaN, infinity and floats outside [0, 1] raise ValueError with their places.
    """
    if isinstance(x, Images):
        _check_images(x, name)
        return x
    x = np.asarray(x)
    if np.issubdtype(x.dtype, np.floating):
        x = _rounded(x, name)
    x = x[..., None] if x.ndim == 3 else x
    _check_images(x, name)
    return x


def labels(y: Any, name: str) -> np.ndarray:
    """y as int [N]; [N 1] is flattened; other shapes or types raise ValueError."""
    y = np.asarray(y)
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise ValueError(
            f"{name}: labels of shape {y.shape}; expected [N] whole numbers (of "
            "one-hot rows take y.argmax(-1))"
        )
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: labels of type {y.dtype}; expected whole numbers: "
            "classes, y = np.unique(y, return_inverse=True)"
        )
    return y.astype(np.int64)


def _check_words(y: np.ndarray, name: str) -> None:
    if y.ndim != 2 or y.dtype.kind not in "iu" or y.min(initial=0) < -1:
        raise ValueError(
            f"{name}: got words of {y.dtype}{list(y.shape)} for a task whose answers "
            "are words, expected ids [N L], with -1 where none counts; say "
            'answers="class" if these are labels'
        )
    if empty := np.flatnonzero((y < 0).all(1)).tolist():
        raise ValueError(
            f"{name}: no word counts in {len(empty)} of {len(y)} rows (first "
            f"{empty[0]}), expected at least one in each; drop these rows"
        )


def class_names(classes: Sequence[str] | None, y: np.ndarray) -> tuple[str, ...]:
    """The names as plain strings; by default "0", "1", … up to the largest label."""
    if classes is not None:
        names = tuple(str(c) for c in classes)
        _check_classes(names)
        return names
    if y.size and y.max() >= y.size:
        raise ValueError(
            f"labels go up to {y.max()} with only {y.size} images, so some classes "
            "have none; number them by np.unique(y, return_inverse=True), or pass "
            "classes="
        )
    return tuple(str(i) for i in range(int(y.max(initial=0)) + 1))


def check_classes(y: np.ndarray, count: int, name: str) -> None:
    """Raise ValueError unless every label is in 0 … count − 1."""
    wrong = np.flatnonzero((y < 0) | (y >= count))
    if wrong.size:
        values = listed([str(v) for v in np.unique(y[wrong])])
        raise ValueError(
            f"{name}: {wrong.size} of {y.size} labels out of range ({values}; first "
            f"at row {wrong[0]}); expected 0 to {count - 1} for {count} classes"
        )


def listed(names: Sequence[str], most: int = 10) -> str:
    """The names with commas; those beyond `most` only as a count."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _rounded(x: np.ndarray, name: str) -> np.ndarray:
    if x.dtype == np.float16:
        x = x.astype(np.float32)  # float16 cannot hold all of 255 x
    for fault, bad in (
        ("NaN or infinite", ~np.isfinite(x)),
        ("outside [0, 1]", (x < 0) | (x > 1)),
    ):
        if bad.any():
            where = [int(i) for i in np.argwhere(bad)[0]]
            found = x[tuple(where)]
            raise ValueError(
                f"{name}: {bad.sum()} of {bad.size} pixel values are {fault} (first "
                f"x{where} = {found:.6g}); expected uint8, or floats in [0, 1]"
            )
    return np.round(x * 255).astype(np.uint8)


def _check_images(x: Any, name: str) -> None:
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name}: images of shape {x.shape}; expected [N h w C] with 1 or 3 "
            f"channels{_advice(x.shape)}"
        )
    if x.dtype != np.uint8:
        raise ValueError(
            f"{name}: images of type {x.dtype}; expected uint8, or floats in [0, 1] "
            "(whole numbers from 0 to 255: x.astype(np.uint8); from 0 to 65535: "
            "(x // 257).astype(np.uint8))"
        )


def _advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] in (1, 3):
        return "; channels come last: x.transpose(0, 2, 3, 1)"
    if len(shape) == 4 and shape[-1] == 4:
        return "; drop the alpha channel: x[..., :3]"
    return "; reshape flat rows: x.reshape(len(x), h, w, C)" if len(shape) == 2 else ""


def _check_classes(classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"{len(classes)} class ({listed(classes) or 'no name'}); expected at least "
            "two to tell apart"
        )
    twice = sorted({c for c in classes if classes.count(c) > 1})
    if twice:
        raise ValueError(f"class names twice: {listed(twice)}; expected each once")


def _check_one_shape(task: Task) -> None:
    splits = {name: getattr(task, name) for name in SPLITS}
    shapes = {name: shape_of(split.x) for name, split in splits.items()}
    if len(set(shapes.values())) > 1:
        resize = "[h w C]: resize them first"
        pad = "for all rows: pad them to one length"
        raise ValueError(
            f"{task.holds} differ in shape between splits: {shapes}; expected one "
            f"shape {resize if task.holds == 'images' else pad}"
        )
    import jax

    one = lambda leaf: f"{leaf.dtype}{[*leaf.shape]}"
    contexts = {n: jax.tree.map(one, spec(s.context, 1)) for n, s in splits.items()}
    if any(own != contexts["train"] for own in contexts.values()):
        raise ValueError(
            f"the contexts of {task.name} differ between splits: {contexts}, expected "
            "the same tree, shapes and types, and the same parts in data.Shared"
        )
    words = {name: split.y.shape[1:] for name, split in splits.items()}
    if len(set(words.values())) > 1:
        raise ValueError(
            f"words differ in length between splits: {words}; expected one length: "
            "fill with -1"
        )
