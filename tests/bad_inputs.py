"""Bad inputs for every reader, made by rule: is each refused, at once and in words?

    python tests/bad_inputs.py                  all of them, a table at the end
    python tests/bad_inputs.py program GGUF     those of readers with one of these words

A reader reads a good input. Then, one at a time, each JSON field gets each other type,
each file is cut, emptied, swapped for another and made a pipe, and each array gets a
NaN. What comes of it is one of

    refused     a ValueError of ours, in words
    unchanged   read as the good input was: what was spoilt is not used
    warned      read as something else, with a warning that says so
    SILENT      read as something else, without a word
    BARE        an error that is not ours
    SLOW        not done after 5 seconds

The exit status is 1 if anything is in capitals. docs/reliability.md holds the table.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
SECONDS = 5.0
OTHERS = (None, True, "text", "", [], [None], {}, {"a": 1}, 1.5, -1, 2**70)
"""What a JSON field becomes, where that is of another type than what stands there."""
OUTCOMES = ("refused", "unchanged", "warned", "SILENT", "BARE", "SLOW")

Spoil = Callable[[Path], None]
Case = tuple[str, Spoil]


class Reader(NamedTuple):
    """Something of ours that reads what others wrote."""

    name: str
    make: Callable[[Path], Any]
    """Writes a good input into a folder."""
    read: Callable[[Path], Any]
    """Reads it: arrays, texts, numbers, in any tree."""
    cases: Callable[[Path], Iterator[Case]]
    """The ways to spoil what lies in a folder."""


# -- ways to spoil


def json_fields(
    file: str,
    most: int = 400,
    free: tuple[str, ...] = (),
    but: tuple[str, ...] = (),
    others: tuple[Any, ...] = OTHERS,
) -> Callable[[Path], Iterator[Case]]:
    """Each field of a JSON file by each other type; at most so many cases, spread.

    Args:
        free: fields in which anything may stand: they say nothing to us.
        but: cases, "a.b = null", that are no fault.
    """

    def cases(folder: Path) -> Iterator[Case]:
        document = json.loads((folder / file).read_text("utf8"))
        found = [
            (
                f"{file} {'.'.join(map(str, path))} = {json.dumps(other)[:20]}",
                path,
                other,
            )
            for path, value in _fields(document)
            for other in others
            if path[0] not in free and not _same_type(value, other)
        ]
        found = [one for one in found if one[0].removeprefix(f"{file} ") not in but]
        for name, path, other in found[:: -(-len(found) // most)]:
            yield name, _setting(file, path, other)

    return cases


def _fields(value: Any, depth: int = 3) -> Iterator[tuple[tuple, Any]]:
    """(path, value) of fields; of a list, its first."""
    if depth and isinstance(value, dict):
        for key, inner in value.items():
            yield (key,), inner
            yield from (((key, *p), v) for p, v in _fields(inner, depth - 1))
    elif depth and isinstance(value, list) and value:
        yield (0,), value[0]
        yield from (((0, *p), v) for p, v in _fields(value[0], depth - 1))


def _same_type(value: Any, other: Any) -> bool:
    if isinstance(value, float) and type(other) in (int, float):
        return True
    return type(value) is type(other) and other not in ("", [], {}, 2**70)


def _setting(file: str, path: tuple, other: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / file).read_text("utf8"))
        place = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = other
        (folder / file).write_text(json.dumps(document), "utf8")

    return spoil


def whole_file(file: str, but: str = "") -> Callable[[Path], Iterator[Case]]:
    """The file cut, emptied, swapped, a pipe, a folder; its first bytes wrong.

    Args:
        but: a case that says nothing here.
    """

    def put(data: Callable[[bytes], bytes]) -> Spoil:
        return lambda folder: (
            (folder / file).write_bytes(data((folder / file).read_bytes())) and None
        )

    def pipe(folder: Path) -> None:
        (folder / file).unlink()
        os.mkfifo(folder / file)

    def nested(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).mkdir()

    def cases(folder: Path) -> Iterator[Case]:
        size = (folder / file).stat().st_size
        for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
            yield f"{file} cut at {share}", put(lambda b, n=int(share * size): b[:n])
        yield f"{file} less its last byte", put(lambda b: b[:-1])
        yield f"{file} empty", put(lambda b: b"")
        yield f"{file} of zeros", put(lambda b: bytes(len(b)))
        yield f"{file} begins with 2^63", put(lambda b: b"\xff" * 7 + b"\x7f" + b[8:])
        yield f"{file} holds a PNG", put(lambda b: b"\x89PNG\r\n\x1a\n" + b[8:])
        yield f"{file} is a list", put(lambda b: b"[1, 2]")
        yield f"{file} is null", put(lambda b: b"null")
        yield f"{file} is deep", put(lambda b: b"[" * 200_000)
        yield f"{file} is a pickle", put(lambda b: b"\x80\x04K\x01.")
        yield f"{file} is a named pipe", pipe
        if but != "is a folder":
            yield f"{file} is a folder", nested

    return cases


def tensors(file: str, most: int = 30) -> Callable[[Path], Iterator[Case]]:
    """NaN and infinity in each tensor; some missing, of another shape or type."""

    def cases(folder: Path) -> Iterator[Case]:
        from safetensors.numpy import load_file

        held = load_file(folder / file)
        names = sorted(n for n, v in held.items() if v.dtype.kind == "f" and v.size)
        for name in names[:: -(-len(names) // most)]:
            for what, change in {
                "NaN": lambda v: _with(v, np.nan),
                "infinity": lambda v: _with(v, np.inf),
                "missing": None,
                "one axis more": lambda v: v[None],
                "whole numbers": lambda v: np.ones(v.shape, np.int32),
            }.items():
                yield f"{file} {name}: {what}", _changing(file, name, change)

    return cases


def _with(value: np.ndarray, number: float) -> np.ndarray:
    value = np.array(value)
    value.flat[value.size // 2] = number
    return value


def _changing(file: str, name: str, change: Callable | None) -> Spoil:
    def spoil(folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        with safe_open(folder / file, framework="np") as opened:
            metadata = opened.metadata()
        held = load_file(folder / file)
        value = held.pop(name)
        if change is not None:
            held[name] = np.ascontiguousarray(change(value))
        save_file(held, folder / file, metadata)

    return spoil


def arrays(file: str) -> Callable[[Path], Iterator[Case]]:
    """The arrays of an npz file: gone, of objects, of another shape or type, NaN."""
    changes: dict[str, Callable | None] = {
        "missing": None,
        "objects": lambda v: v.astype(object),
        "texts": lambda v: v.astype(str),
        "complex": lambda v: v.astype(complex),
        "halves": lambda v: v + 0.5,
        "NaN": lambda v: np.full(v.shape, np.nan),
        "infinity": lambda v: np.full(v.shape, np.inf),
        "negative": lambda v: v.astype(int) - 1000,
        "large": lambda v: v.astype(np.int64) + 2**40,
        "one row less": lambda v: v[:-1],
        "no rows": lambda v: v[:0],
        "flat": lambda v: v.reshape(-1),
        "an axis more": lambda v: v[..., None],
        "one number": lambda v: v.reshape(-1)[0],
    }

    def spoiling(name: str, change: Callable | None) -> Spoil:
        def spoil(folder: Path) -> None:
            held = dict(np.load(folder / file))
            value = held.pop(name)
            if change is not None:
                held[name] = change(value)
            np.savez(folder / file, **held)

        return spoil

    def cases(folder: Path) -> Iterator[Case]:
        for name in np.load(folder / file).files:
            for what, change in changes.items():
                if name != "classes" or what in ("one row less", "no rows"):
                    yield f"{file} {name}: {what}", spoiling(name, change)

    return cases


def both(*parts: Callable[[Path], Iterator[Case]]) -> Callable[[Path], Iterator[Case]]:
    """The cases of all."""

    def cases(folder: Path) -> Iterator[Case]:
        for part in parts:
            yield from part(folder)

    return cases


# -- readers


def readers() -> list[Reader]:
    """All of them; imported here, so that --help needs nothing."""
    import bad_readers

    return bad_readers.READERS


# -- what comes of it


def digest(value: Any) -> str:
    """Of a tree of arrays, texts and numbers."""
    import jax

    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(value)[0]:
        total.update(jax.tree_util.keystr(path).encode())
        if isinstance(leaf, str | bytes):
            total.update(
                leaf.encode("utf8", "replace") if isinstance(leaf, str) else leaf
            )
        else:
            array = np.asarray(leaf)
            total.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def outcome(reader: Reader, folder: Path, good: str) -> tuple[str, str]:
    """(one of OUTCOMES, what was said)."""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = digest(reader.read(folder))
    except BaseException as error:  # a panic of Rust code is no Exception
        own = type(error) is ValueError or type(error).__module__.startswith("reprojax")
        words = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        return ("refused" if own and str(error) else "BARE"), words
    if found == good:
        return "unchanged", ""
    return ("warned", str(told[0].message)) if told else ("SILENT", "")


class Bad(NamedTuple):
    """Spoilt inputs of one reader, in a place of their own."""

    names: list[str]
    folders: list[Path]


def spoilt(reader: Reader, place: Path) -> Bad:
    """A good input in place/good, and a copy spoilt for each case."""
    good = place / "good"
    good.mkdir()
    reader.make(good)
    names, folders = [], []
    for name, spoil in reader.cases(good):
        folders.append(place / f"bad-{len(folders)}")
        names.append(name)
        shutil.copytree(good, folders[-1])
        spoil(folders[-1])
    return Bad(names, folders)


def work(number: int, place: Path, folders: list[Path], out: Any) -> None:
    """In a process of its own: the outcomes of the folders, one after the other."""
    reader = readers()[number]
    good = digest(reader.read(place / "good"))
    if digest(reader.read(place / "good")) != good:
        raise RuntimeError(f"{reader.name} reads a good input in two ways")
    out.send(("ready", ""))
    for folder in folders:
        out.send(outcome(reader, folder, good))


def tried(number: int, reader: Reader) -> Iterator[tuple[str, str, str]]:
    """(case, outcome, what was said) of every case of a reader.

    A process does it that can be killed: a library that waits in C hears no signal.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        names, folders = spoilt(reader, Path(place))
        done = 0
        while done < len(folders):
            ours, theirs = context.Pipe(duplex=False)
            rest = folders[done:]
            worker = context.Process(
                target=work, args=(number, Path(place), rest, theirs), daemon=True
            )
            worker.start()
            theirs.close()  # so that its death ends our wait
            assert ours.recv()[0] == "ready"
            while done < len(folders) and worker.is_alive():
                late = not ours.poll(SECONDS)
                what = ("SLOW", "") if late else ours.recv()
                yield names[done], *what
                done += 1
                if late:
                    worker.kill()
                    break
            worker.join()


def table(counts: dict[str, Counter]) -> str:
    """Markdown."""
    lines = ["| reader | inputs | " + " | ".join(OUTCOMES) + " |"]
    lines += ["|---" * (len(OUTCOMES) + 2) + "|"]
    total: Counter = sum(counts.values(), Counter())
    for name, found in {**counts, "all": total}.items():
        numbers = " | ".join(str(found[one]) for one in OUTCOMES)
        lines.append(f"| {name} | {found.total()} | {numbers} |")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Print what is in capitals, then the table."""
    counts: dict[str, Counter] = {}
    started = time.monotonic()
    verbose = "-v" in words
    words = [word for word in words if word != "-v"]
    for number, reader in enumerate(readers()):
        if words and not any(word in reader.name for word in words):
            continue
        found = counts[reader.name] = Counter()
        for case, what, said in tried(number, reader):
            found[what] += 1
            if what.isupper() or verbose:
                print(f"{what}  {reader.name}: {case}  {said[:150]}", flush=True)
    print(f"\n{table(counts)}\n\n{time.monotonic() - started:.0f} s", file=sys.stderr)
    return int(
        any(
            found[one] for found in counts.values() for one in OUTCOMES if one.isupper()
        )
    )


PARTS = ("", "models", "models/language", "text")
sys.path[:0] = [str(HERE / part) for part in PARTS]
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
