"""A task from a folder of images: class/… or train|validation|test/class/…."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from reprojax.data.checks import listed
from reprojax.data.lazy import Images
from reprojax.data.pixels import endings, opened, read_images, square
from reprojax.data.splits import assemble
from reprojax.data.task import SPELLINGS, Task
from reprojax.saving.files import printable

JUNK = ("thumbs.db", "desktop.ini")  # files that file managers leave behind


def from_folder(
    path: str | PathLike,
    *,
    size: int = 256,
    train: int | float | None = None,
    validation: int | float | None = None,
    test: int | float | None = None,
    seed: int = 0,
    test_seed: int | None = None,
    lazy: bool = False,
    duplicates: str = "warn",
) -> Task:
    """A task from class/…, or from train/class/… beside validation (val) and test.

    Every image becomes RGB [size size 3] as in `read_images`. All are held in memory,
    3·size² bytes each; with `lazy` each is read when its batch is. Class folders may be
    nested; files are found by `image_files`. Sizes, seeds and `duplicates` are as for
    `from_arrays`, but with `lazy` equal means equal bytes of files. Split folders are
    kept unless `test_seed` is given.

    Raises:
        ValueError: images lie beside class folders; a class has none; images of the
            folder, or later of a lazy batch, cannot be read (it names all of them).
    """
    path = Path(path)
    files = image_files(path)
    folders = _split_folders(path, files)
    classes = _names(folders["train"])
    found = {p: _labelled(folder, classes, files) for p, folder in folders.items()}
    own = {part: [f for _, f in pairs] for part, pairs in found.items()}
    y = [np.array([i for i, _ in pairs], int) for pairs in found.values()]
    if lazy:
        convert = lambda file: opened(file, lambda image: square(image, size))
        x = [Images(paths, convert) for paths in own.values()]
    else:
        ends = np.cumsum([len(labels) for labels in y])[:-1]
        x = np.split(read_images(sum(own.values(), []), size=size), ends)
    return assemble(
        dict(zip(found, zip(x, y, strict=True), strict=True)),
        [printable(name) for name in classes],
        name=printable(path.resolve().name),
        sizes={"train": train, "validation": validation, "test": test},
        seed=seed,
        test_seed=test_seed,
        duplicates=duplicates,
    )


def image_files(folder: str | PathLike) -> list[Path]:
    """The image files below a folder, sorted by name, without hidden ones.

    Links to folders are followed, except to a folder above the link. Files whose ending
    is not an image's are left out, and one warning counts them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; expected a folder of images")
    found, left = [], []
    for file in _files(folder):
        (found if file.suffix.lower() in endings() else left).append(file)
    if left:
        _tell(folder, left, len(found))
    return sorted(found, key=Path.as_posix)


def _files(folder: Path, above: tuple[os.stat_result, ...] = ()) -> Iterator[Path]:
    """All files, links followed. `above`: the folders on the way here."""
    here = folder.stat()
    if any(os.path.samestat(here, other) for other in above):
        return  # a cycle of links: these files are found already
    for entry in os.scandir(folder):
        if _hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _files(Path(entry.path), (*above, here))
        else:
            yield Path(entry.path)


def _tell(folder: Path, left: Sequence[Path], images: int) -> None:
    counts = Counter(f.suffix.lower() or "without ending" for f in left)
    kinds = [f"{count} {ending}" for ending, count in counts.most_common()]
    extra = {".heic", ".heif", ".hif"} & set(counts)
    advice = "; pip install 'reprojax[heif]' reads HEIC" if extra else ""
    warnings.warn(
        f"{len(left)} files below {folder} are left out, not known as images by their "
        f"endings: {printable(listed(kinds))}; {images} images are there{advice}",
        stacklevel=3,
    )


def _hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name.lower() in JUNK


def _inner(folder: Path) -> dict[str, Path]:
    inner = sorted(f for f in folder.iterdir() if f.is_dir() and not _hidden(f.name))
    return {f.name: f for f in inner}


def _no_loose(folder: Path, files: Sequence[Path]) -> None:
    if loose := [f.name for f in files if f.parent == folder]:
        raise ValueError(
            f"{len(loose)} images lie directly in {folder} ({listed(loose, 3)}); "
            "expected them in a folder for each class; move images without labels "
            "elsewhere"
        )


def _split_folders(path: Path, files: Sequence[Path]) -> dict[str, Path]:
    """{split: folder of class folders}; {"train": path} if there are no splits."""
    _no_loose(path, files)
    inner = _inner(path)
    splits = [name for name in inner if name.lower() in SPELLINGS]
    if len(splits) < 2 and [name.lower() for name in inner] != ["train"]:
        return {"train": path}
    found = {}
    for name in splits:
        part = SPELLINGS[name.lower()]
        if part in found:
            raise ValueError(
                f"{path} holds both {found[part].name} and {name}; expected one "
                f"{part} folder"
            )
        found[part] = inner[name]
    rest = [name for name in inner if name not in splits]
    if rest or "train" not in found:
        beside = f" beside {listed(rest)}" if rest else ""
        raise ValueError(
            f"{path} holds {listed(splits)}{beside}; expected either class folders, or "
            "train with validation and test folders of classes"
        )
    order = dict.fromkeys(SPELLINGS.values())
    return {part: found[part] for part in order if part in found}


def _names(folder: Path) -> list[str]:
    names = list(_inner(folder))
    if len(names) < 2:
        raise ValueError(
            f"{len(names)} class folders in {folder} ({listed(names) or 'none'}); "
            "expected at least two, each with the images of its class"
        )
    return names


def _labelled(
    folder: Path, classes: list[str], files: Sequence[Path]
) -> list[tuple[int, Path]]:
    """(label, file) of each file below the folder."""
    _no_loose(folder, files)
    found: dict[str, list[Path]] = {name: [] for name in _inner(folder)}
    if new := [name for name in found if name not in classes]:
        raise ValueError(
            f"{folder} holds classes without a training folder: {listed(new)}; "
            f"expected only {listed(classes)}"
        )
    depth = len(folder.parts)
    for file in files:
        if file.parts[:depth] == folder.parts:
            found[file.parts[depth]].append(file)
    if empty := [name for name in found if not found[name]]:
        raise ValueError(
            f"no image in {listed([str(folder / name) for name in empty])}; expected "
            f"files that end with {listed(endings())}"
        )
    return [(classes.index(name), f) for name in found for f in found[name]]
