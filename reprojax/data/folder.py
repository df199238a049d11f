"""A task from a folder of images: class/… or train|validation|test/class/…."""

import io
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from reprojax.data.lazy import Images, refuse
from reprojax.data.splits import assemble
from reprojax.data.task import SPELLINGS, Task, listed

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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
) -> Task:
    """A task from class/…, or from train/class/… with validation (val) and test beside.

    Every image becomes RGB [size size 3] as in `read_images`; all are held in memory,
    3·size² bytes each, or with `lazy` each is read when its batch is. Class folders may
    be nested; hidden files and files that are no images are ignored. Sizes and seeds as
    for `from_arrays`; split folders are kept unless `test_seed` is given. Unreadable
    images raise one ValueError that names all: of the folder, or of a lazy batch.
    """
    path = Path(path)
    folders = _split_folders(path)
    classes = _names(folders["train"])
    found = {part: _labelled(folder, classes) for part, folder in folders.items()}
    files = {part: [f for _, f in own] for part, own in found.items()}
    y = {part: np.array([i for i, _ in own], int) for part, own in found.items()}
    if lazy:
        convert = lambda file: opened(file, lambda image: square(image, size))
        x = [Images(own, convert) for own in files.values()]
    else:
        ends = np.cumsum([len(own) for own in y.values()])[:-1]
        x = np.split(read_images(sum(files.values(), []), size=size), ends)
    return assemble(
        dict(zip(y, zip(x, y.values(), strict=True), strict=True)),
        classes,
        name=path.resolve().name,
        sizes={"train": train, "validation": validation, "test": test},
        seed=seed,
        test_seed=test_seed,
    )


def image_files(folder: str | PathLike) -> list[Path]:
    """The PNG, JPEG, WebP and BMP files below a folder, sorted, without hidden ones."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; expected a folder of images")
    found = [f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES]
    inside = {f.relative_to(folder).as_posix(): f for f in found if not f.is_dir()}
    return [inside[name] for name in sorted(inside) if not _hidden(name)]


def read_images(files: Sequence[str | PathLike], *, size: int = 256) -> np.ndarray:
    """Image files as uint8 [N size size 3].

    Each is turned as its EXIF says, laid on white where transparent, and its centre
    square resized (bicubic, antialiased): the same as resizing the short side to `size`
    and cropping the centre. Files that cannot be read raise one ValueError naming all.
    """
    return decode([str(f) for f in files], files, lambda image: square(image, size))


def decode(
    names: Sequence[str],
    sources: Sequence[str | PathLike | bytes],
    convert: Callable[[Any], np.ndarray],
) -> np.ndarray:
    """convert(PIL image) of every file or encoded bytes, read in threads, stacked."""
    if not sources:
        raise ValueError(
            f"no images to read; expected files that end with {listed(SUFFIXES)}"
        )

    def read(source):
        try:
            return opened(source, convert)
        except Exception as error:  # whatever a broken file may raise: collected below
            return error

    stacked, bad = np.empty(0), []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for i, result in enumerate(pool.map(read, sources)):
            _progress(i + 1, len(sources))
            if isinstance(result, Exception):
                bad.append((names[i], result))
                continue
            if not i:
                stacked = np.empty((len(sources), *result.shape), np.uint8)
            if not bad:
                stacked[i] = result
    refuse(bad, len(sources))
    return stacked


def opened(source: str | PathLike | bytes, convert: Callable[[Any], np.ndarray]) -> Any:
    """convert(PIL image) of one file, or of encoded bytes."""
    from PIL import Image

    raw = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(raw) as image:
        return convert(image)


def square(image: Any, size: int) -> np.ndarray:
    """A PIL image as uint8 [size size 3], as `read_images` says."""
    from PIL import Image, ImageOps

    image = rgb(ImageOps.exif_transpose(image))
    side = min(image.size)
    left, top = ((n - side) / 2 for n in image.size)
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)


def rgb(image: Any) -> Any:
    """A PIL image in RGB: 16-bit grey scaled, transparency laid on white."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # convert() would clip at 255, not scale
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def _inner(folder: Path) -> dict[str, Path]:
    inner = sorted(f for f in folder.iterdir() if f.is_dir() and not _hidden(f.name))
    return {f.name: f for f in inner}


def _split_folders(path: Path) -> dict[str, Path]:
    """{split: folder of class folders}; {"train": path} where there are no splits."""
    loose = [f.name for f in image_files(path) if f.parent == path]
    if loose:
        raise ValueError(
            f"{len(loose)} images lie directly in {path} ({listed(loose, 3)}); "
            "expected them in a folder for each class"
        )
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


def _labelled(folder: Path, classes: list[str]) -> list[tuple[int, Path]]:
    inner = _inner(folder)
    if new := [name for name in inner if name not in classes]:
        raise ValueError(
            f"{folder} holds classes without a training folder: {listed(new)}; "
            f"expected only {listed(classes)}"
        )
    found = {name: image_files(inner[name]) for name in inner}
    if empty := [name for name in found if not found[name]]:
        raise ValueError(
            f"no image in {listed([str(folder / name) for name in empty])}; expected "
            f"files that end with {listed(SUFFIXES)}"
        )
    return [(classes.index(name), f) for name in found for f in found[name]]


def _progress(done: int, total: int) -> None:
    if total > 500 and (done == total or not done % 50):
        end = "\n" if done == total else ""
        print(f"\rread {done} of {total} images", end=end, file=sys.stderr, flush=True)
