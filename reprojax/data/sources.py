"""Tasks from arrays, npz files and by name."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

from reprojax.data.checks import listed
from reprojax.data.folder import from_folder
from reprojax.data.letters import letters_behind_glass
from reprojax.data.splits import assemble
from reprojax.data.task import SPELLINGS, SPLITS, Answers, Task
from reprojax.data.tfds import from_tfds
from reprojax.saving.files import open_regular

DEFLATE = 1040  # the most bytes that one compressed byte can expand to
Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def from_arrays(
    x: Any,
    y: Any,
    classes: Sequence[str] | None = None,
    *,
    train: int | float | None = None,
    validation: int | float | tuple | None = None,
    test: int | float | tuple | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    duplicates: str = "warn",
    name: str = "arrays",
    holds: str = "images",
    answers: Answers | None = None,
    context: Any = None,
) -> Task:
    """A task from images x, uint8 or floats in [0, 1], and whole-number labels y.

    x: [N h w], [N h w 1] or [N h w 3]; with another `holds` ("series", "graphs") any
    tree of arrays [N ...], unchanged. y has the form of `Task.answers`, but numbers may
    be [N], and NaN marks a missing one of several labels; None: no labels. `context` is
    that of `Split`.

    `validation` and `test` are tuples (x, y) or (x, y, context), or a number or share
    to draw with equal class shares (by default a fifth): validation by `seed`, test by
    `test_seed` (by default 0), so that all seeds have the same test images. `train`
    limits the training images.

    Equal images (by their pixels) in two splits, or under two labels, are counted in
    one warning. duplicates="drop" leaves them out before anything is drawn (see
    `splits.divide`); "keep" does not look.
    """
    answers = answers or ("none" if y is None else "class")
    parts, sizes = {"train": (x, y, context)}, {"train": train}
    for part, given in (("validation", validation), ("test", test)):
        if isinstance(given, tuple):
            parts[part] = given
        else:
            sizes[part] = given
    return assemble(
        parts,
        classes,
        name=name,
        sizes=sizes,
        seed=seed,
        test_seed=test_seed,
        duplicates=duplicates,
        holds=holds,
        answers=answers,
    )


def from_npz(
    path: str | PathLike,
    *,
    train: int | float | None = None,
    validation: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    duplicates: str = "warn",
) -> Task:
    """A task from an npz file: x, y or x_train, y_train, x_val, …; classes if there.

    train_images, train_labels, … (MedMNIST's keys) will do too. Sizes and seeds as for
    `from_arrays`, and `duplicates`; splits in the file are kept unless `test_seed` is
    given.
    """
    parts, classes = _read_npz(Path(path))
    sizes = {"train": train, "validation": validation, "test": test}
    seeds = {"seed": seed, "test_seed": test_seed, "duplicates": duplicates}
    try:
        return assemble(parts, classes, name=Path(path).stem, sizes=sizes, **seeds)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load(
    name: str | PathLike,
    *,
    train: int | float | None = None,
    validation: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    size: int = 256,
    lazy: bool = False,
    duplicates: str = "warn",
) -> Task:
    """A task by name, or from an npz file, a folder of images, or "tfds:NAME".

    The names are "digits" (scikit-learn's) and "letters-behind-glass" (drawn, as
    `reprojax/data/letters.py` says). `seed` redraws training and validation images but
    not the test images: load("digits", seed=s, train=600, validation=200, test=500) has
    one test split for all s. `test_seed` redraws all, also the set's own splits. `size`
    is the side of folder images; `lazy` leaves images of a folder or of TFDS in their
    files until a batch needs them; `duplicates` is as for `from_arrays`.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    seeds = {"seed": seed, "test_seed": test_seed, "duplicates": duplicates}
    files = {"size": size, "lazy": lazy}
    if (key := str(name)) in NAMED:
        parts, classes = NAMED[key]()
        return assemble(parts, classes, name=key, sizes=sizes, **seeds)
    if key.startswith("tfds:"):
        return from_tfds(key.removeprefix("tfds:"), **files, **sizes, **seeds)
    path = Path(name)
    if path.is_dir():
        read = from_tfds if (path / "dataset_info.json").exists() else from_folder
        return read(path, **files, **sizes, **seeds)
    if path.is_file() and path.suffix == ".npz":
        return from_npz(path, **sizes, **seeds)
    raise ValueError(_unknown(key))


def _unknown(key: str) -> str:
    if Path(key).is_file():
        return f"{key!r} is a file, but not .npz; expected an npz file or a folder"
    return (
        f"no data set or file {key!r}; expected {' or '.join(map(repr, NAMED))}, an "
        ".npz file, a folder of images, or 'tfds:NAME'"
    )


def _read_npz(path: Path) -> tuple[Parts, list[str] | None]:
    try:
        with open_regular(path) as handle:
            _check_sizes(handle)
            file = np.load(handle, allow_pickle=False)
            found = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise ValueError(f"no file {path}; expected an npz file") from None
    except Exception as error:  # zip, zlib and NumPy raise all kinds on damaged files
        raise ValueError(
            f"cannot read {path} as an npz file ({error or type(error).__name__}); "
            "expected one written by np.savez with plain arrays, no objects"
        ) from error
    classes = found.get("classes")
    if classes is not None and (classes.ndim != 1 or classes.dtype.kind not in "USiu"):
        raise ValueError(
            f"{path} has classes of {classes.dtype}{list(classes.shape)}; expected "
            "their names [T], as text"
        )
    return _parts(found, path), None if classes is None else [str(c) for c in classes]


def _check_sizes(handle: IO[bytes]) -> None:
    """Raise at an array larger than the file can hold.

    NumPy would allocate its announced size before reading it.
    """
    from numpy.lib import format as npy

    with zipfile.ZipFile(handle) as archive:
        for member in archive.infolist():
            with archive.open(member) as array:
                major = npy.read_magic(array)[0]
                read = npy.read_array_header_1_0 if major == 1 else _header_2
                shape, _, dtype = read(array)
            size = math.prod(shape) * dtype.itemsize
            if size > member.file_size or member.file_size > DEFLATE * (
                member.compress_size + 1
            ):
                raise ValueError(
                    f"{member.filename} announces {dtype}{list(shape)} and holds "
                    f"{member.compress_size} bytes"
                )
    handle.seek(0)


def _header_2(array: IO[bytes]) -> Any:
    from numpy.lib import format as npy

    return npy.read_array_header_2_0(array)


def _parts(found: Mapping[str, np.ndarray], path: Path) -> Parts:
    parts = {}
    for part in SPLITS:
        spellings = [s for s, meant in SPELLINGS.items() if meant == part]
        pairs = [(f"x_{s}", f"y_{s}") for s in spellings]
        pairs += [(f"{s}_images", f"{s}_labels") for s in spellings]
        pairs += [("x", "y"), ("images", "labels")] if part == "train" else []
        here = [pair for pair in pairs if found.keys() & set(pair)]
        for pair in here:
            if missing := set(pair) - found.keys():
                raise ValueError(f"{path} has no {missing.pop()!r} to go with {pair}")
        if len(here) > 1:
            raise ValueError(f"{path} has the {part} images twice: {here}")
        if here:
            parts[part] = (found[here[0][0]], found[here[0][1]])
    if "train" not in parts:
        raise ValueError(
            f"{path} holds {listed(list(found)) or 'nothing'}; expected x and y, or "
            "x_train, y_train and, if there, x_val, y_val, x_test, y_test; classes for "
            "the names"
        )
    return parts


def _digits() -> tuple[Parts, list[str]]:
    """1,797 handwritten digits of 8 x 8 grey pixels, from scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            "'digits' comes with scikit-learn, which is not installed: "
            "pip install scikit-learn"
        ) from None
    x, y = load_digits(return_X_y=True)
    x = np.asarray(x).reshape(-1, 8, 8, 1) / 16  # ink from 0 to 16
    return {"train": (x, np.asarray(y))}, [str(i) for i in range(10)]


def _letters() -> tuple[Parts, list[str]]:
    """Ten drawn letters behind a window that reflects neon tubes, 2,000 images."""
    x, y, classes = letters_behind_glass()
    return {"train": (x, y)}, classes


# by name; their docstrings are what `reprojax list` says of them
NAMED = {"digits": _digits, "letters-behind-glass": _letters}
