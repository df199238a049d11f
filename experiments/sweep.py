"""What a folder of jobs holds: how many are done, which failed and why.

    python -m experiments.sweep --folder runs/map

The exit status is 1 if a job failed. It may be called while the sweep runs.

In Python, this module runs independent jobs and keeps each result as one file:

    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from experiments import sweep
    >>> def square(settings): return settings["n"] ** 2
    >>> jobs = {f"square/{n}": {"n": n} for n in range(3)}
    >>> with ThreadPoolExecutor(2) as pool:
    ...     for name, outcome in sweep.run(square, jobs, "runs/map", executor=pool):
    ...         assert outcome.error is None, name
    >>> table = sweep.finished("runs/map")      # at any time, from any process
    >>> {name: outcome.value for name, outcome in table.items()}
    {'square/0': 0, 'square/1': 1, 'square/2': 4}

A script ends with `sys.exit(sweep.failures(table))`. For training, take processes, each
with its share of the cores: `sweep.processes(2)`.

Start the same script again after a kill, or once more beside the first: both work on
the jobs that have no file yet, and end with the same table.

- A worker writes `results/NAME.json` in one step, so a file is whole or not there.
- A worker holds the lock `locks/NAME.lock` (flock) while it runs the job. The kernel
  frees the lock when the process ends, however it ends.
- One sweep hands out each job once, on any file system. Two sweeps on two machines need
  locks that both see. NFS keeps them at its server: if a machine dies, they are free
  after a lease, by default 90 s. Lustre has them if mounted with `flock`, and not with
  `localflock`; BeeGFS has them with `tuneUseGlobalFileLocks`. A job may run twice
  without them, and on NFS while a machine still caches that a result is missing
  (`acdirmax`, 60 s). Its file still counts once.
- Values are JSON as Python's json writes it. There NaN, Infinity and -Infinity are
  numbers, so floats are read back exactly. Strict JSON readers refuse these words.
"""

import copy
import errno
import functools
import json
import multiprocessing
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import jax
import msgspec
from tqdm import tqdm

from reprojax.core.trees import below, differences
from reprojax.saving.files import MOST_JSON, checked, plain, read_file, write_file
from reprojax.saving.folders import claim, locked, read_identity
from reprojax.training.steps import bar

FORMAT = "reprojax sweep 1"
OWN, OTHERS = 0.05, 1.0  # seconds between looks at our futures, at others' locks
PART = r"[\w=+,@-][\w.=+,@-]{0,199}"
FULL = errno.ENOSPC, errno.EDQUOT
NAME = re.compile(rf"{PART}(/{PART})*", re.ASCII)
CLASH = re.compile(r"\.(json|lock)/")  # a folder where another job has its file


class Executor(Protocol):
    """What concurrent.futures calls an Executor; its futures have done, result, cancel.

    submitit's have no more than these, so we ask each whether it is done.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of a job; a file of the folder."""

    name: str
    settings: dict[str, Any]
    value: Any
    """What the job returned, as it comes back from JSON; None if it raised."""
    error: str | None
    """The exception, in one text; None if it returned."""
    trace: list[str]
    """The last five places where the exception passed."""
    seconds: float


def run(
    work: Callable[[dict[str, Any]], Any],
    jobs: Mapping[str, Mapping[str, Any]] | Iterable[tuple[str, Mapping[str, Any]]],
    folder: str | Path,
    *,
    executor: Executor,
    identity: Mapping[str, Any] | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> Iterator[tuple[str, Outcome]]:
    """Run the jobs that have no result yet; (name, outcome) of each job, once.

    Those that the folder holds come first, then the others as they end. The checks are
    made in this call, before any job runs. If the caller leaves the loop, jobs that
    have not begun are cancelled.

    Args:
        work: called in a worker with a job's settings; it returns JSON. Process pools
            need a function at the top of a module.
        jobs: {name: settings}, or pairs. Names may have slashes; settings are JSON.
        folder: seen by all workers under this path.
        identity: what all jobs depend on besides their settings, as JSON: data,
            backbone, version of the protocol. The version of JAX is added.
        retry_failed: run the jobs again whose file holds an error.

    Raises:
        ValueError: names or settings that cannot be used; a folder of another identity;
            a job that is there with other settings; a damaged file.
        OSError: a result could not be written, or a job found the disk full. It comes
            after the running jobs have ended and were yielded; its notes hold as JSON
            the results that have no file.
        RuntimeError: the executor failed, such as by a worker that was killed.
    """
    given = _checked(jobs)
    folder = _claimed(folder, identity)
    found = ((name, _read(folder, name, given[name])) for name in given)
    there = {name: outcome for name, outcome in found if outcome is not None}
    again = {n: o for n, o in there.items() if retry_failed and o.error is not None}
    first = {name: outcome for name, outcome in there.items() if name not in again}

    def submit(name: str) -> Any:
        return executor.submit(_one, work, name, given[name], folder, again.get(name))

    line = bar(len(first), len(given), progress, "job")
    return _run(submit, given, first, folder, line)


def processes(
    workers: int, start: Callable[..., Any] | None = None, *given: Any
) -> ProcessPoolExecutor:
    """A pool of processes among which the cores of this machine are divided.

    XLA starts a thread for each core that a process may use. Two processes with a
    thread for each core wait for one another.

    Args:
        start: called with `given` at the beginning of each process.
    """
    context = get_context("spawn")  # JAX does not survive a fork
    taken = context.Value("i", 0)
    begin = taken, shares(workers), start, given
    # Without max_tasks_per_child, by which a pool of Python 3.11 may wait for ever.
    return ProcessPoolExecutor(workers, context, _begin, begin)


def shares(workers: int) -> list[list[int]]:
    """The cores of each worker; none where the system does not say or divide them."""
    if not hasattr(os, "sched_setaffinity"):
        return [[]] * workers
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // workers)
    return [cores[i * each % len(cores) :][:each] for i in range(workers)]


def _begin(
    taken: Any, cores: list[list[int]], start: Callable[..., Any] | None, given: Any
) -> None:
    with taken.get_lock():
        own = cores[taken.value % len(cores)]
        taken.value += 1
    if own:
        os.sched_setaffinity(0, own)
    if start is not None:
        start(*given)


def finished(folder: str | Path) -> dict[str, Outcome]:
    """{name: outcome} of all jobs that have a file now, failed ones too, by name.

    Raises:
        ValueError: the folder is no sweep's, or a file in it is damaged or foreign.
    """
    folder = Path(folder)
    if read_identity(folder) is None:
        raise ValueError(
            f"{folder} holds no sweep, expected a folder that sweep.run has made"
        )
    top = folder / "results"
    names = sorted(str(p.relative_to(top))[:-5] for p in top.rglob("*.json"))
    return {name: outcome for name in names if (outcome := _read(folder, name))}


def keep(
    outcomes: Mapping[str, Outcome],
    folder: str | Path,
    *,
    identity: Mapping[str, Any] | None = None,
) -> list[str]:
    """Write outcomes that were found elsewhere; names of those that got a file.

    A job that the folder holds already stays as it is.

    Raises:
        ValueError: as of `run`.
    """
    given = _checked({name: o.settings for name, o in outcomes.items()})
    folder, written = _claimed(folder, identity), []
    for name in given:
        lock = _lock(folder, name)
        lock.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock) as free:
            if free and _read(folder, name, given[name]) is None:
                data = json.dumps(msgspec.to_builtins(outcomes[name])).encode()
                write_file(_result(folder, name), data)
                written.append(name)
    return written


def _claimed(folder: str | Path, identity: Mapping[str, Any] | None) -> Path:
    """The folder, made if need be, of this identity."""
    folder = Path(folder).resolve()  # workers may have another working directory
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    ours = {"format": FORMAT, "jax": jax.__version__}
    ours |= plain(dict(identity or {}), "the sweep's identity")
    with locked(folder / "locks/.identity", wait=True):
        claim(folder, ours, resume=True)
    return folder


def failures(table: Mapping[str, Outcome]) -> str | None:
    """A line for each job that failed; None, which sys.exit takes for success."""
    lines = [f"{name}: {o.error}" for name, o in table.items() if o.error is not None]
    return f"{len(lines)} of {len(table)} jobs failed:{below(lines)}" if lines else None


def _checked(jobs: Any) -> dict[str, dict[str, Any]]:
    given: dict[str, dict[str, Any]] = {}
    lower = {}
    for name, settings in jobs.items() if isinstance(jobs, Mapping) else jobs:
        if not (isinstance(name, str) and NAME.fullmatch(name)) or CLASH.search(name):
            raise ValueError(
                f"got a job named {name!r}, expected letters, digits and _.=+,@- with "
                "slashes between parts of at most 200 characters; no part begins with "
                "a dot, and no folder ends with .json or .lock"
            )
        if other := lower.get(name.lower()):
            raise ValueError(
                f"got the jobs {other!r} and {name!r}, expected names that differ in "
                "more than case: each is a file; put what differs into the name"
            )
        if not isinstance(settings, Mapping):
            raise ValueError(
                f"the settings of job {name!r} are a {type(settings).__name__}, "
                "expected a dict of JSON"
            )
        lower[name.lower()] = name
        given[name] = plain(dict(settings), f"the settings of job {name!r}")
    return given


def _run(
    submit: Callable[[str], Any],
    jobs: Iterable[str],
    there: dict[str, Outcome],
    folder: Path,
    line: tqdm,
) -> Iterator[tuple[str, Outcome]]:
    futures: dict[Any, str] = {}
    elsewhere: list[str] = []  # jobs that another process is running
    unsaved: list[Outcome] = []
    stop: OSError | None = None
    failed, name = sum(o.error is not None for o in there.values()), ""
    try:
        for name in jobs:
            if name not in there:
                futures[submit(name)] = name
        yield from there.items()
        while futures or (elsewhere and stop is None):
            ready = [future for future in futures if future.done()]
            time.sleep(0 if ready else OWN if futures else OTHERS)
            for future in ready:
                name = futures.pop(future)
                if stop is not None and future.cancelled():
                    continue
                outcome = error = None
                try:
                    outcome, error = future.result()
                except OSError as raised:
                    error = raised
                if error is not None:
                    stop = stop or error
                    for other in futures:
                        other.cancel()
                elif outcome is None:
                    elsewhere.append(name)
                if outcome is not None:
                    unsaved += [outcome] if error else []
                    failed += outcome.error is not None
                    line.set_postfix({"failed": failed} if failed else {})
                    line.update()
                    yield name, outcome
            for name in list(elsewhere if not futures and stop is None else ()):
                with locked(_lock(folder, name)) as free:
                    pass
                if free:  # done, or its process has died: a worker finds out
                    elsewhere.remove(name)
                    futures[submit(name)] = name
    except (ValueError, OSError):
        raise
    except Exception as error:
        raise RuntimeError(
            f"the executor failed while it had job {name!r} ({type(error).__name__}: "
            f"{error}); finished jobs are kept in {folder}; run the same again with a "
            "new executor, and with fewer workers if memory was short"
        ) from error
    finally:
        line.close()
        for future in futures:
            future.cancel()
    if stop is not None:
        text = (
            f"the sweep stopped because a file could not be written ({stop}); "
            f"{len(unsaved)} results have no file; those in {folder} are whole; free "
            "space or mend the folder, and run the same again"
        )
        full = OSError(stop.errno, text) if stop.errno else OSError(text)
        for outcome in unsaved:
            full.add_note(json.dumps(msgspec.to_builtins(outcome)))
        raise full from stop


def _one(
    work: Callable[[dict[str, Any]], Any],
    name: str,
    settings: dict[str, Any],
    folder: Path,
    old: Outcome | None,
) -> tuple[Outcome | None, OSError | None]:
    """In a worker: the job's outcome (None if others run it), and why it has no file.

    Args:
        old: the outcome to replace. A newer one stays: another process retried the job.
    """
    _end_with_parent()
    if not (folder / "identity.json").exists():
        raise FileNotFoundError(
            f"the worker on {os.uname().nodename} sees no {folder}, expected a folder "
            "that all workers share"
        )
    lock = _lock(folder, name)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with locked(lock) as free:
        if not free:
            return None, None
        there = _read(folder, name, settings)
        if there is not None and there != old:
            return there, None
        outcome, data = _tried(work, name, settings)
        try:
            write_file(_result(folder, name), data)
        except OSError as error:
            return outcome, error
        return outcome, None


def _tried(work: Callable[..., Any], name: str, settings: Any) -> tuple[Outcome, bytes]:
    value, error, trace, start = None, None, [], time.perf_counter()
    try:
        value = work(copy.deepcopy(settings))
        value = plain(value, f"the result of job {name!r}", finite=False)
        if (size := len(json.dumps(value))) > MOST_JSON // 2:
            raise ValueError(
                f"the result has {size} bytes as JSON, expected at most "
                f"{MOST_JSON // 2}; save large results and return their file's name"
            )
    except Exception as raised:
        if isinstance(raised, OSError) and raised.errno in FULL:
            raise  # no fault of the job, and the next one would fail as well
        value, error = None, f"{type(raised).__name__}: {raised}"[:2000]
        trace = traceback.format_tb(raised.__traceback__)[1:][-5:]
    seconds = time.perf_counter() - start
    outcome = Outcome(name, settings, value, error, trace, seconds)
    return outcome, json.dumps(msgspec.to_builtins(outcome)).encode()


def _result(folder: Path, name: str) -> Path:
    return folder / "results" / f"{name}.json"


def _lock(folder: Path, name: str) -> Path:
    return folder / "locks" / f"{name}.lock"


def _read(folder: Path, name: str, settings: Any = None) -> Outcome | None:
    """A job's file; ValueError if it is damaged, another's, or of other settings."""
    path = _result(folder, name)
    try:
        there = checked(json.loads(read_file(path, MOST_JSON)), Outcome, str(path))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged, or no job's result ({error}); remove it, and the job "
            "runs again"
        ) from error
    if there.name != name:
        raise ValueError(
            f"{path} holds the result of job {there.name!r}, expected that of "
            f"{name!r}; move it back"
        )
    if settings is not None and (lines := differences(settings, there.settings)):
        raise ValueError(
            f"job {name!r} is in {folder} with other settings:{below(lines)}\ngive the "
            "job another name, choose another folder, or remove its file"
        )
    return there


@functools.cache
def _end_with_parent() -> None:
    """In a pool's process: end it when the process that started the pool has died.

    concurrent.futures leaves it waiting for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        watch = lambda: (parent.join(), os._exit(1))
        threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class Config:
    """A sweep's folder."""

    folder: Path
    """Where the sweep keeps its results."""


def main(config: Config) -> None:
    """Print the number of results, and the failures; they set the exit status."""
    table = finished(config.folder)
    seconds = sum(outcome.seconds for outcome in table.values())
    print(f"{len(table)} jobs have a result, after {seconds:.0f} seconds of work")
    sys.exit(failures(table))


if __name__ == "__main__":
    from reprojax.commands.outputs import command

    command(main, Config)
