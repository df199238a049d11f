"""Splits of data sets: stratified draws, each a pure function of its seed.

One rule for every source: a data set's own splits are kept. What is missing is drawn
from its training images, the test split by `test_seed`, so that `seed` redraws
validation and training images without changing it. With a `test_seed`, the own splits
of a set are pooled, and all three are drawn anew.

Equal images in two splits, or under two labels, are found: see `divide`.
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from reprojax.data.checks import (
    check,
    check_classes,
    checked_images,
    class_names,
    labels,
    listed,
    whole_seed,
)
from reprojax.data.lazy import Images
from reprojax.data.rows import Shared, batch_labels, leaves, shape_of, taken
from reprojax.data.task import SPLITS, Answers, Split, Task

SHARE = 0.2  # of the training images, for a split neither given nor sized


def assemble(
    parts: Mapping[str, tuple],
    classes: Sequence[str] | None = None,
    *,
    name: str,
    sizes: Mapping[str, int | float | None],
    seed: int = 0,
    test_seed: int | None = None,
    duplicates: str = "warn",
    holds: str = "images",
    answers: Answers = "class",
) -> Task:
    """A checked task from (x, y), or (x, y, context), by split name; see `divide`."""
    x = [_checked(pair[0], part, holds) for part, pair in parts.items()]
    y = {
        part: _answers(pair[1], part, answers, own)
        for (part, pair), own in zip(parts.items(), x, strict=True)
    }
    contexts = [pair[2] if len(pair) > 2 else None for pair in parts.values()]
    what, one = ("images", "image") if holds == "images" else ("rows", "row")
    for part, own in zip(parts, x, strict=True):
        if {len(leaf) for leaf in leaves(own)} != {len(y[part])}:
            found = sorted({len(leaf) for leaf in leaves(own)})
            raise ValueError(
                f"{part}: {', '.join(map(str, found))} {what} and {len(y[part])} "
                f"labels; expected one label each {one}"
            )
        if shape_of(own) != shape_of(x[0]):
            fit = "[h w C]: resize them" if holds == "images" else "for all: pad them"
            raise ValueError(
                f"{part}: {what} of shape {shape_of(own)}, but those before have "
                f"{shape_of(x[0])}; expected one shape {fit} first"
            )
    # Other kinds of labels are drawn without strata.
    strata = {
        n: own if answers == "class" else np.zeros(len(own), int)
        for n, own in y.items()
    }
    names = _names(classes, y, answers)
    every_y = np.concatenate([batch_labels(own) for own in y.values()])
    every = Split(_joined(x), every_y, _joined_contexts(contexts))
    rows = divide(
        strata,
        len(names) if answers == "class" else 1,
        lambda: _contents(every.x),
        sizes=sizes,
        seed=seed,
        test_seed=test_seed,
        duplicates=duplicates,
    )
    train, validation, test = (_taken(every, r) for r in rows)
    return check(Task(name, train, validation, test, names, holds, answers))


def _checked(x: Any, part: str, holds: str) -> Any:
    import jax

    return checked_images(x, part) if holds == "images" else jax.tree.map(np.asarray, x)


def _answers(y: Any, part: str, answers: Answers, x: Any) -> np.ndarray:
    """y as the task stores it. NaN among several labels a row means a missing one."""
    if answers == "class":
        return labels(y, part)
    if answers == "none":
        return np.zeros(len(leaves(x)[0]), np.int32) if y is None else np.asarray(y)
    y = np.asarray(y)
    if answers == "numbers":
        return (y[:, None] if y.ndim == 1 else y).astype(np.float32)
    if answers == "labels" and np.issubdtype(y.dtype, np.floating):
        whole = np.where(np.isnan(y), -1, y)
        return whole.astype(np.int32) if (whole == whole.astype(np.int32)).all() else y
    return y.astype(np.int32) if y.dtype == bool else y


def _names(
    classes: Sequence[str] | None, y: Mapping[str, np.ndarray], answers: Answers
) -> tuple[str, ...]:
    every = np.concatenate(list(y.values()))
    if answers == "class":
        return class_names(classes, every)
    if classes is None and answers == "labels" and every.ndim == 2:
        return tuple(str(i) for i in range(every.shape[1]))
    return tuple(map(str, classes or ()))


def _joined(x: list) -> Any:
    if len(x) == 1:
        return x[0]
    lazy = [isinstance(own, Images) for own in x]
    if any(lazy) and not all(lazy):
        raise ValueError(
            "some splits are arrays and some lie in files; expected one kind for all"
        )
    return x[0].joined(*x[1:]) if lazy[0] else _stacked(x)


def _joined_contexts(contexts: list) -> Any:
    if len(contexts) > 1 and any(
        (c is None) != (contexts[0] is None) for c in contexts
    ):
        raise ValueError(
            "some splits have a context and some have none, expected one for "
            "each; give each as (x, y, context)"
        )
    return contexts[0] if len(contexts) == 1 else _stacked(contexts)


def _stacked(trees: list) -> Any:
    """Trees of rows, concatenated; `Shared` values are the first tree's."""
    import jax

    shared = lambda leaf: isinstance(leaf, Shared)
    one = lambda *own: own[0] if shared(own[0]) else np.concatenate(own)
    return jax.tree.map(one, *trees, is_leaf=shared)


def _taken(split: Split, rows: np.ndarray) -> Split:
    lazy = isinstance(split.x, Images)
    x = split.x.take(rows) if lazy else taken(split.x, rows)
    return Split(x, split.y[rows], taken(split.context, rows))


def _contents(x: Any) -> list[Any]:
    """A key for each row, equal for equal rows."""
    if isinstance(x, Images):
        return x.contents()
    arrays = leaves(x)
    digest = lambda row: hashlib.sha256(b"".join(a[row].tobytes() for a in arrays))
    return [digest(row).digest() for row in range(len(arrays[0]))]


def divide(
    y: Mapping[str, np.ndarray],
    count: int,
    contents: Callable[[], Sequence[Any]],
    *,
    sizes: Mapping[str, int | float | None],
    seed: int = 0,
    test_seed: int | None = None,
    duplicates: str = "warn",
) -> Sequence[np.ndarray]:
    """Rows as by `draw`, with a look for equal images.

    Args:
        contents: a key for each row, equal for equal images.
        duplicates: "warn" counts, in one warning, equal images in two of the drawn
            splits and under two labels. "drop" removes images before anything is drawn:
            validation images equal to one of the set's own test split, training images
            equal to one of either, and all but one of equal training images, or all of
            them if their labels differ. "keep" does not look.
    """
    if duplicates not in ("warn", "drop", "keep"):
        raise ValueError(
            f"duplicates={duplicates!r}, expected 'warn', 'drop' or 'keep'"
        )
    drawing: dict[str, Any] = {"sizes": sizes, "seed": seed, "test_seed": test_seed}
    if duplicates == "keep":
        return draw(y, count, **drawing)
    every, key = np.concatenate(list(y.values())), _numbered(contents())
    if duplicates == "warn":
        rows = draw(y, count, **drawing)
        _warn(dict(zip(SPLITS, rows, strict=True)), every, key)
        return rows
    if test_seed is not None:  # pool all, and draw splits of the old sizes
        own = {part: len(y[part]) for part in y if part != "train"}
        drawing["sizes"] = own | {k: n for k, n in sizes.items() if n is not None}
        y = {"train": every}
    kept = _distinct(y, every, key)
    ends = np.cumsum([len(own) for own in y.values()])[:-1]
    parts = zip(y, np.split(every, ends), np.split(kept, ends), strict=True)
    left = {part: own[stays] for part, own, stays in parts}
    return [np.flatnonzero(kept)[rows] for rows in draw(left, count, **drawing)]


def _numbered(keys: Sequence[Any]) -> np.ndarray:
    """Equal keys as equal numbers from 0."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)


def _two_labels(every: np.ndarray, key: np.ndarray) -> np.ndarray:
    """For each row, whether an equal row has another label."""
    low, high = np.full(key.max() + 1, every.max()), np.zeros(key.max() + 1, int)
    np.minimum.at(low, key, every)
    np.maximum.at(high, key, every)
    return (low < high)[key]


def _warn(rows: Mapping[str, np.ndarray], every: np.ndarray, key: np.ndarray) -> None:
    found, both = [], np.concatenate([rows["train"], rows["validation"]])
    for part, others, words in (
        ("validation", rows["train"], "training"),
        ("test", both, "training or validation"),
    ):
        seen = key[others]
        if equal := np.flatnonzero(np.isin(key[rows[part]], seen)).tolist():
            found.append(
                f"{len(equal)} of {len(rows[part])} {part} images (first row "
                f"{equal[0]}) are {words} images too"
            )
    drawn = np.concatenate(list(rows.values()))
    if mixed := int(_two_labels(every[drawn], key[drawn]).sum()):
        found.append(f"{mixed} images have an equal one under another label")
    if found:
        warnings.warn(
            f"equal images: {'; '.join(found)}. duplicates='drop' leaves them out, "
            "'keep' keeps them without this warning",
            stacklevel=5,
        )


def _distinct(
    pools: Mapping[str, np.ndarray], every: np.ndarray, key: np.ndarray
) -> np.ndarray:
    """bool [N]: the rows that "drop" of `divide` keeps."""
    ends = np.cumsum([len(own) for own in pools.values()])[:-1]
    rows = dict(zip(pools, np.split(np.arange(len(every)), ends), strict=True))
    seen, kept = np.zeros(len(every), bool), np.zeros(len(every), bool)
    for part in reversed(SPLITS):
        own = rows.get(part, np.arange(0))
        new = own[~seen[key[own]]]
        if part == "train":
            new = new[~_two_labels(every, key)[new]]
            new = new[np.unique(key[new], return_index=True)[1]]
        seen[key[own]] = kept[new] = True
    return kept


def draw(
    y: Mapping[str, np.ndarray],
    count: int,
    *,
    sizes: Mapping[str, int | float | None],
    seed: int = 0,
    test_seed: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of train, validation and test, sorted, with the same class shares in each.

    y: {split: labels in 0 … count − 1}, at least "train"; rows are numbered through the
    splits in y's order. A size is a number of images, or a share of the images from
    which the split is drawn. None means all of a given split, and a fifth of the
    training images for a missing one. Every class with an image keeps one for training.
    """
    for part, own in y.items():
        check_classes(own, count, part)
        if not own.size:
            raise ValueError(f"the {part} split is empty; expected at least one image")
    if "train" not in y:
        raise ValueError(
            f"no train split among {listed(list(y))}; expected one: others can be "
            "drawn from it"
        )
    seed = whole_seed(seed)
    test_seed = None if test_seed is None else whole_seed(test_seed, "test_seed")
    every = np.concatenate(list(y.values()))
    ends = np.cumsum([len(own) for own in y.values()])
    have = dict(zip(y, np.split(np.arange(len(every)), ends[:-1]), strict=True))
    if test_seed is not None and len(have) > 1:
        own = {part: len(have[part]) for part in have if part != "train"}
        sizes = own | {part: n for part, n in sizes.items() if n is not None}
        have = {"train": np.arange(len(every))}
    drawn, pool = {}, have["train"]
    for part, stream in (("test", test_seed or 0), ("validation", seed)):
        key, size = (stream, SPLITS.index(part)), sizes.get(part)
        if part in have:
            drawn[part] = _stratified(every, have[part], size, part, count, key)
            continue
        n = _number(SHARE if size is None else size, len(have["train"]), part)
        drawn[part] = _stratified(every, pool, n, part, count, key, keep=1)
        pool = np.setdiff1d(pool, drawn[part])
    if (size := sizes.get("train")) is not None:
        size = _number(size, len(have["train"]), "train")
    train = _stratified(every, pool, size, "train", count, (seed, 0), least=1)
    return train, drawn["validation"], drawn["test"]


def shots(task: Task, k: int, seed: int) -> Task:
    """The task with k training images a class, drawn by seed; k + 1 includes k's."""
    if k < 1:
        raise ValueError(f"{k} training images a class; expected at least 1")
    if task.answers != "class":
        raise ValueError(
            f"shots got {task.name}, which has {task.answers}, expected a class for "
            "each row; draw with train=... where the task is made"
        )
    counts = np.bincount(task.train.y, minlength=len(task.classes))
    few = [f"{task.classes[i]} ({counts[i]})" for i in np.flatnonzero(counts < k)]
    if few:
        raise ValueError(
            f"fewer than {k} training images for {listed(few)}; expected at least {k} "
            f"a class: ask for at most {counts.min()}"
        )
    each = np.full(len(task.classes), k)
    rows = _first(task.train.y, np.arange(len(task.train.y)), each, (seed, 3))
    train = _taken(task.train, rows)
    return check(task._replace(name=f"{task.name}-{k}-shot", train=train))


def _number(size: int | float, available: int, part: str) -> int:
    if isinstance(size, Integral) and not isinstance(size, bool) and size >= 1:
        return int(size)
    if isinstance(size, Real) and 0 < size < 1:
        return max(1, round(float(size) * available))
    raise ValueError(
        f"{part}={size!r}: expected a number of images from 1, or a share between 0 "
        "and 1"
    )


def _stratified(every, rows, size, part, count, key, *, keep=0, least=0) -> np.ndarray:
    """`size` of the rows, by class shares, leaving `keep` of each class."""
    if size is None:
        return rows
    n, counts = (
        _number(size, len(rows), part),
        np.bincount(every[rows], minlength=count),
    )
    low, high = np.minimum(counts, least), np.maximum(counts - keep, 0)
    if not low.sum() <= n <= high.sum():
        why = "; training needs one a class" if keep or least else ""
        few, most = max(low.sum(), 1), high.sum()
        if most < few:
            raise ValueError(
                f"got {len(rows)} images, of which none can be left for the {part} "
                f"split{why}; expected more images of each class"
            )
        raise ValueError(
            f"{part}={size!r} asks for {n} images; expected {few} to {most}, of the "
            f"{len(rows)} there are{why}"
        )
    return _first(every, rows, _shares(counts, n, low, high), key)


def _shares(counts, n, low, high) -> np.ndarray:
    """Integers near counts · n / sum(counts) that sum to n, within the bounds."""
    quota = counts * n / counts.sum()
    take = np.clip(np.floor(quota).astype(int), low, high)
    while short := n - take.sum():
        step = np.sign(short)
        free = take < high if step > 0 else take > low
        take[np.argmax(np.where(free, (quota - take) * step, -np.inf))] += step
    return take


def _first(every, rows, take, key) -> np.ndarray:
    """The first `take[c]` rows of each class c in an order shuffled by key, sorted."""
    rows = np.random.default_rng(key).permutation(rows)
    rows = rows[np.argsort(every[rows], kind="stable")]  # class after class
    counts = np.bincount(every[rows], minlength=len(take))
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(rows[rank < np.repeat(take, counts)])
