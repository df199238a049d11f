"""Files that are whole or not there, and folders that belong to one run at a time."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_file(path: Path, data: bytes) -> None:
    """All of it or nothing: a reader sees the old file or the new one.

    Folders on the way are made.
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
    """As `write_file`, indented."""
    write_file(path, json.dumps(value, indent=2).encode())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """ValueError if another process holds the folder.

    The system frees the lock when the process ends, however it ends.
    """
    import fcntl

    with open(folder / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another run is writing to {folder}, expected one at a time; wait for "
                "it to end, or choose another folder"
            ) from error
        yield


def claim(folder: Path, identity: Mapping[str, Any], resume: bool) -> None:
    """Refuse a folder of another run, or write down whose it is from now on."""
    path = folder / "identity.json"
    if not path.exists():
        write_json(path, identity)
        return
    try:
        there = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} came damaged ({error}), expected a run's identity; restore it "
            "from a copy, or choose another folder"
        ) from error
    if lines := differences(identity, there):
        raise ValueError(
            f"{folder} holds another run:{below(lines)}\nchoose another folder, or "
            "resume with the configuration of the run that is there"
        )
    if not resume:
        raise ValueError(
            f"{folder} already holds this run; resume it (resume=True, --resume), or "
            "choose another folder"
        )


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON, where tuples are lists."""
    try:
        return json.loads(json.dumps(dict(identity)))
    except TypeError as error:
        raise ValueError(
            f"the run's identity is not JSON ({error}), expected text, numbers, lists "
            "and dicts; give a digest of anything else"
        ) from error


def differences(came: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A line for each key that differs: what came, what was expected."""
    return [
        f"{key}: came {came.get(key, 'nothing')}, "
        f"expected {expected.get(key, 'nothing')}"
        for key in [*expected, *(key for key in came if key not in expected)]
        if key not in came or key not in expected or came[key] != expected[key]
    ]


def below(lines: Iterable[str]) -> str:
    """Lines of their own, below what an error says."""
    return "".join(f"\n  {line}" for line in lines)
