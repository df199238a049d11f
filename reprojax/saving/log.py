"""An append-only log of paid answers that survives a kill.

    magic, length, crc32 | payload
    magic, length, crc32 | payload ...

The first payload is the run's identity as JSON; each other one is a request: numbers
(`open`, `append`), or bytes encoded by the caller (`read`, `write`). A record is on
disk before its answers are used. The file's lock admits one writer at a time.
"""

import fcntl
import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reprojax.saving.files import decode_json, open_regular

MAGIC = b"rjq1"
HEAD = struct.Struct("<4sII")  # magic, length and crc32 of the payload
SIZE = 16  # bytes of a digest


class Logged(NamedTuple):
    """A record of the log, of n queries."""

    numbers: np.ndarray  # [n], counted through the run
    digests: np.ndarray  # uint8 [n SIZE], of the images
    fine: np.ndarray  # bool [n]: usable; unusable answers are paid, too
    answers: np.ndarray  # float32 [n w]


class Log:
    """The log file of one run."""

    def __init__(self, path: Path) -> None:
        self.path, self.fd = path, -1

    def open(self, identity: Mapping[str, Any]) -> list[Logged]:
        """Lock the file and return its requests."""
        return [_parsed(payload) for payload in self.read(identity)]

    def read(self, identity: Mapping[str, Any]) -> list[bytes]:
        """Lock the file and return its payloads; a torn tail goes to another file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            open_regular(self.path).close()  # raises for a pipe, which would block
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            return self._payloads(identity)
        except (OSError, ValueError):
            self.close()
            raise

    def close(self) -> None:
        """Close the file, which frees the lock."""
        os.close(self.fd)

    def append(self, request: Logged) -> None:
        """Append a request; it is on disk when this returns."""
        n, w = request.answers.shape
        shape = struct.pack("<II", n, w)
        parts = [request.numbers.astype("<u8"), request.digests, request.fine]
        parts.append(request.answers.astype("<f4"))
        self.write(shape + b"".join(part.tobytes() for part in parts))

    def _payloads(self, identity: Mapping[str, Any]) -> list[bytes]:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{self.path} is in use by another run, expected one run a log; wait "
                "for it, or give another log"
            ) from None
        records = self._records(self.path.read_bytes())
        if not records:
            self.write(json.dumps(identity).encode())
            return []
        found = decode_json(records[0], dict[str, Any], f"the head of {self.path}")
        if found != identity:
            names = [
                k for k in {**found, **identity} if found.get(k) != identity.get(k)
            ]
            raise ValueError(
                f"{self.path} is of another run: {', '.join(sorted(names))} differ "
                f"({ {k: found.get(k) for k in names} } there, "
                f"{ {k: identity.get(k) for k in names} } here); repeat that run "
                "unchanged, with its versions of reprojax and JAX, or give "
                "another log"
            )
        return records[1:]

    def _records(self, data: bytes) -> list[bytes]:
        if data and data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise ValueError(
                f"{self.path} is not a log of queries; nothing was changed; give "
                "another path"
            )
        found, at = [], 0
        while len(data) >= (start := at + HEAD.size):
            magic, length, crc = HEAD.unpack_from(data, at)
            payload, end = data[start : start + length], start + length
            if magic != MAGIC or len(payload) < length or zlib.crc32(payload) != crc:
                if MAGIC in data[at + 1 :]:
                    raise ValueError(
                        f"{self.path} is damaged at byte {at}, and records follow; "
                        "nothing was changed; take a copy of the log"
                    )
                break
            found.append(payload)
            at = end
        if data[at:]:
            self.path.with_name(self.path.name + ".torn").write_bytes(data[at:])
            os.ftruncate(self.fd, at)
        return found

    def write(self, payload: bytes) -> None:
        """Append a payload; it is on disk when this returns."""
        record = HEAD.pack(MAGIC, len(payload), zlib.crc32(payload)) + payload
        end = os.fstat(self.fd).st_size
        try:
            if os.write(self.fd, record) < len(record):
                raise OSError(f"the disk of {self.path} is full")
            os.fsync(self.fd)
        except OSError:
            os.ftruncate(self.fd, end)  # no later record may follow half of this one
            raise


def _parsed(payload: bytes) -> Logged:
    n, w = struct.unpack_from("<II", payload)
    sizes = [8 * n, SIZE * n, n, 4 * n * w]
    ends = np.cumsum([8, *sizes])
    parts = [payload[a:b] for a, b in zip(ends, ends[1:], strict=False)]
    numbers, digests, fine, answers = (
        np.frombuffer(part, kind)
        for part, kind in zip(parts, ("<u8", "u1", "?", "<f4"), strict=True)
    )
    return Logged(
        numbers, digests.reshape(n, SIZE), fine, answers.reshape(n, w).astype("f4")
    )
