"""Images that stay in their files until their rows are read."""

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reprojax.saving.files import open_regular, size_of

MARK = 1024  # bytes at a file's end: the end of the compressed data, PNG's checksum


class Records(NamedTuple):
    """A source of images."""

    items: Any
    """A sequence, read by items[i]: paths, encoded bytes, a grain or TFDS source."""
    read: Callable[[Any], np.ndarray]
    """An item -> uint8 [h w C], called in several threads at once."""
    name: Callable[[int], str]
    """The name of item i in errors."""
    mark: Callable[[int], str]
    """A cheap text that identifies item i for `digest`."""


class Images:
    """An array-like uint8 [N h w C] whose x[rows] decodes only those rows, in threads.

    It takes an array's place in a `Split`. All images must have the shape of the first,
    which is decoded at construction.

    Args:
        items, read: as in `Records`.
        name: for errors; by default an item's path, or its index.
        mark: by default, for a path its last folder, its name, its size and the
            checksum of its last KiB; for bytes their length and checksum.
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self,
        items: Any,
        read: Callable[[Any], np.ndarray],
        *,
        name: Callable[[int], str] | None = None,
        mark: Callable[[int], str] | None = None,
    ) -> None:
        def named(i: int) -> str:
            item = items[i]
            return str(item) if isinstance(item, str | Path) else f"image {i}"

        if not len(items):
            raise ValueError("no images to read; expected at least one")
        check_grain()
        records = Records(
            items, read, name or named, mark or (lambda i: _mark(items[i]))
        )
        where = np.stack([np.zeros(len(items), int), np.arange(len(items))], 1)
        self._set((records,), where, ())
        self.shape = (len(items), *self._stack(where[:1]).shape[1:])

    def _set(self, sources: Any, where: np.ndarray, shape: tuple[int, ...]) -> "Images":
        self._sources: tuple[Records, ...] = sources
        self._where, self.shape = where, (len(where), *shape)
        return self

    def take(self, rows: np.ndarray) -> "Images":
        """Those rows, still undecoded."""
        new = object.__new__(Images)
        return new._set(self._sources, self._where[rows], self.shape[1:])

    def joined(self, *others: "Images") -> "Images":
        """These images, then the others'."""
        sources, where = self._sources, [self._where]
        for other in others:
            where.append(other._where + [len(sources), 0])
            sources += other._sources
        new = object.__new__(Images)
        return new._set(sources, np.concatenate(where), self.shape[1:])

    def marks(self) -> Iterator[str]:
        """The mark of each row's image, in order, without decoding any."""
        marks = [source.mark for source in self._sources]
        mark = lambda place: marks[place[0]](int(place[1]))
        for start in range(0, len(self), 1024):  # limits how many tasks are queued
            yield from _pool().map(mark, self._where[start : start + 1024])

    def contents(self) -> list[Any]:
        """A key for each row, equal for rows whose images have equal bytes.

        Files are compared by `by_bytes`, lists of bytes by their sha256. Rows of other
        items all get different keys: reading them could take as long as an epoch.
        """
        keys: list[Any] = [tuple(place) for place in self._where.tolist()]
        items = {}
        for row, (source, i) in enumerate(keys):
            if isinstance(own := self._sources[source].items, list | tuple):
                items[row] = own[i]
        rows = [r for r, item in items.items() if isinstance(item, str | Path)]
        for row, key in zip(rows, by_bytes([items[r] for r in rows]), strict=True):
            keys[row] = key
        for row, item in items.items():
            if isinstance(item, bytes):
                keys[row] = hashlib.sha256(item).digest()
        return keys

    def __len__(self) -> int:
        return len(self._where)

    def __getitem__(self, rows: Any) -> np.ndarray:
        where = self._where[rows]
        return self._stack(where[None])[0] if where.ndim == 1 else self._stack(where)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise ValueError(
            f"{len(self)} images of {self.shape[1:]} lie in their files, but something "
            "asks for all in memory; take some, x[rows], or load without lazy=True"
        )

    def _read(self, place: np.ndarray) -> np.ndarray:
        source = self._sources[place[0]]
        return _checked(source.read(source.items[int(place[1])]), self.shape[1:])

    def _name(self, place: np.ndarray) -> str:
        return self._sources[place[0]].name(int(place[1]))

    def _stack(self, where: np.ndarray) -> np.ndarray:
        out = _each(self._read, where, self._name)
        empty = np.empty((0, *self.shape[1:]), np.uint8)
        return np.stack(out) if out else empty


def check_grain() -> None:
    """Raise ValueError now if grain, which reads files ahead, is not installed."""
    try:
        import grain  # noqa: F401
    except ImportError:
        raise ValueError(
            "images in files are read ahead by grain, which is not installed; "
            "pip install 'reprojax[data]', or load without lazy=True"
        ) from None


def by_bytes(files: Sequence[str | Path]) -> list[Any]:
    """A key for each file, equal for files with equal bytes.

    Files are compared by size, then by the checksum of the last KiB; only those equal
    in both are read whole.
    """
    keys: list[Any] = [()] * len(files)
    for look in (size_of, _tail, _sha256):
        counts = Counter(keys)
        rows = [row for row, key in enumerate(keys) if counts[key] > 1]
        found = _each(look, [files[row] for row in rows], str)
        for row, key in zip(rows, found, strict=True):
            keys[row] = (*keys[row], key)
    return keys


def _each(call: Callable, items: Any, name: Callable[[Any], str]) -> list[Any]:
    """call(item) of each, in threads; one ValueError names all items that failed."""

    def tried(item: Any) -> Any:
        try:
            return call(item)
        except Exception as error:  # a broken file may raise anything; collected below
            return error

    out = list(_pool().map(tried, items))
    pairs = zip(items, out, strict=True)
    bad = [(name(item), e) for item, e in pairs if isinstance(e, Exception)]
    refuse(bad, len(out))
    return out


def refuse(bad: Sequence[tuple[str, Exception]], count: int) -> None:
    """Raise one ValueError that names every image that could not be read, if any."""
    if bad:
        raise ValueError(
            f"{len(bad)} of {count} images cannot be read; replace or remove them:\n"
            f"  {faults(bad)}"
        )


def faults(bad: Sequence[tuple[str, Exception]]) -> str:
    """A line for each image that could not be read: its name, and why."""
    return "\n  ".join(f"{name} ({_why(error)})" for name, error in bad)


def _why(error: Exception) -> str:
    """The message of the library's own ValueErrors; of others with the type."""
    own = type(error) is ValueError
    return str(error) if own else f"{type(error).__name__}: {error}".rstrip(": ")


def _checked(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim != 3 or image.dtype != np.uint8 or (shape and image.shape != shape):
        raise ValueError(
            f"it is {image.dtype} {list(image.shape)}, expected uint8 "
            f"{list(shape) or '[h w C]'} like the first"
        )
    return image


def _mark(item: Any) -> str:
    if isinstance(item, bytes):
        return f"{len(item)} {zlib.crc32(item)}"
    path = Path(item)
    size, tail = _tail(path)
    return f"{path.parent.name}/{path.name} {size} {tail}"


def _tail(path: str | Path) -> tuple[int, int]:
    """A file's size in bytes, and the checksum of its last KiB."""
    with open_regular(Path(path)) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MARK))
        return size, zlib.crc32(file.read())


def _sha256(path: str | Path) -> bytes:
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").digest()


@cache
def _pool() -> ThreadPoolExecutor:
    """One pool for all, so that many batches read ahead do not mean many threads."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "reprojax-images")
