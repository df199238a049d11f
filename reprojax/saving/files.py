"""Files that are written whole or not at all, and read with care.

Before reading, a file is checked to be a regular one of a sane size, and JSON to have
the expected type.
"""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec

MOST_JSON = 64 << 20  # bytes; the largest tokenizer.json files have about 20 MB


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading, unless it is a pipe, device or socket.

    Raises:
        ValueError: it is not a regular file. (Opening a named pipe as usual would wait
            until somebody writes to it.)
        OSError: it cannot be opened at all.
    """
    size_of(path)
    return open(path, "rb")


def size_of(path: str | Path) -> int:
    """The size of a regular file in bytes. Raises as `open_regular` does."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(
            f"{path} is {_kind(found.st_mode)}, expected a regular file; remove it, or "
            "copy what it gives into a file"
        )
    return found.st_size


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "no regular file")


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file; raise ValueError if it has more than `most`."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} has more than {most} bytes, expected at most that")
    return data


def read_json(path: Path, kind: Any, most: int = MOST_JSON) -> Any:
    """A JSON file as a value of the given type; see `decode_json`."""
    return decode_json(read_file(path, most), kind, str(path))


def decode_json(data: bytes | str, kind: Any, name: str) -> Any:
    """JSON as a value of the given type.

    Args:
        kind: a type for msgspec: `dict[str, int]`, a TypedDict, a `msgspec.Struct`.
            Keys that a TypedDict or a Struct does not name are left out.
        name: what the error calls the JSON: a file, "the server's reply".

    Raises:
        ValueError: it is not JSON, or has another type; the error says where.
    """
    with _refusing(name):
        return msgspec.json.decode(data, type=kind)


def checked(value: Any, kind: Any, name: str) -> Any:
    """A value that is already parsed, as the given type; see `decode_json`."""
    with _refusing(name):
        return msgspec.convert(value, kind)


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    try:
        yield
    except RecursionError as error:
        raise ValueError(f"{name} is JSON nested too deep to be read") from error
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{name} is JSON of another type than expected: {error}"
        ) from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"{name} is not whole, valid JSON: {error}") from error


def printable(name: str | os.PathLike) -> str:
    """A file's name as text that can be printed: bytes that are not UTF-8 as \\x…."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def write_file(path: Path, data: bytes) -> None:
    """Write all of a file or nothing: a reader sees the old file or the new one.

    Makes missing parent folders.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, as `write_file` does."""
    write_file(path, json.dumps(value, indent=2).encode())


def plain(value: Any, name: str = "the run's identity", finite: bool = True) -> Any:
    """A value as JSON returns it: tuples become lists, NumPy's numbers plain ones.

    Args:
        finite: refuse NaN and infinite numbers, which only Python's json knows.

    Raises:
        ValueError: it is not JSON, or has a number that is refused.
    """
    try:
        return json.loads(json.dumps(value, default=_number, allow_nan=not finite))
    except (TypeError, ValueError, RecursionError) as error:
        numbers = "finite numbers" if finite else "numbers"
        raise ValueError(
            f"{name} is not JSON ({error}), expected text, {numbers}, lists and "
            "dicts; give a digest of anything else"
        ) from error


def _number(value: Any) -> Any:
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # NumPy's and JAX's
        return value.tolist()
    raise TypeError(f"got {type(value).__name__}")
