"""Run folders: one writer at a time, and an identity."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reprojax.core.trees import below, differences
from reprojax.saving.files import read_json, write_json


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a folder; raise ValueError if another process has it locked."""
    with locked(folder / "lock") as free:
        if not free:
            raise ValueError(
                f"another run is writing to {folder}, expected one at a time; wait for "
                "it to end, or choose another folder"
            )
        yield


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock on a file. False if it is held already, in any process or thread.

    The system frees the lock when the process ends, however it ends.

    Args:
        wait: until it is free.
    """
    import fcntl

    free = True
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            free = False
        except OSError as error:
            raise OSError(
                error.errno,
                f"{path} cannot be locked ({error.strerror}), expected a file system "
                "with flock; mount it with locks, or choose a folder on another one",
            ) from error
        yield free


def claim(
    folder: Path, identity: Mapping[str, Any], resume: bool, grows: str = ""
) -> None:
    """Write the run's identity to a folder; raise if it holds another run's.

    Args:
        grows: a key whose number may be larger when the run is resumed.
    """
    there = read_identity(folder)
    if there is None:
        write_json(folder / "identity.json", identity)
        return
    more = resume and _is_more(identity.get(grows), there.get(grows))
    if lines := differences(identity, there):
        if more and len(lines) == 1:
            write_json(folder / "identity.json", identity)
            return
        raise ValueError(
            f"{folder} holds another run:{below(lines)}\n{_why(identity, there)}"
            f"{_why_not_more(grows) if more else ''}choose another folder, or "
            "resume with the configuration of the run that is there"
        )
    if not resume:
        raise ValueError(
            f"{folder} already holds this run; resume it (resume=True, --resume), or "
            "choose another folder"
        )


def read_identity(folder: Path) -> dict[str, Any] | None:
    """The identity that `claim` wrote; None if no run has claimed the folder."""
    path = folder / "identity.json"
    try:
        return read_json(path, dict[str, Any]) if path.exists() else None
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}), expected a run's identity; restore it "
            "from a copy, or choose another folder"
        ) from error


def _is_more(came: Any, there: Any) -> bool:
    return type(came) is int and type(there) is int and came > there


def _why(identity: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    if identity.get("format") != there.get("format"):
        return (
            "another version of reprojax made it, whose list of what a run depends on "
            "differs; "
        )
    if identity.get("jax") != there.get("jax"):
        return (
            "another version of JAX may write the same function differently, so "
            "resume with that version first; "
        )
    return ""


def _why_not_more(grows: str) -> str:
    return (
        f"more {grows} alone are allowed, but other things differ, too: an optimiser "
        "does if its schedule depends on the total; "
    )
