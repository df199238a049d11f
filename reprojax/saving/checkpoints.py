"""Checkpoints around orbax: a run folder from which a run resumes to the same bits.

>>> identity = {"method": "watermark", "seed": 0}
>>> with Checkpoints("runs/digits", identity, resume=False) as kept:
...     state = kept.latest(begin) or begin()
...     for step in range(int(state.step), 3):
...         state = train_step(state, step)
...         if kept.due(step + 1) or step + 1 == 3:
...             kept.save(step + 1, state)
...             if kept.stopping:  # got SIGTERM; the state is saved
...                 break

The folder holds `identity.json` (what defines the run), `lock` (one writer at a time),
`checkpoints/<step>` (the newest ones) and `damaged/` (those that could not be read).
Orbax notices neither a flipped bit nor a changed dtype, so each checkpoint carries the
spec and the crc32 of every leaf. One rename commits all of a checkpoint.

A state is any pytree of jax and numpy arrays, typed keys included. Several processes
share the folder and hold the same state: each calls everything here at the same steps;
process 0 alone locks and renames, and orbax writes once. A SIGTERM to one of them makes
all save at one step. They are never `due` by the clock, because clocks differ.
"""

import errno
import json
import shutil
import signal
import tempfile
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, SingleDeviceSharding

from reprojax.core import PyTree
from reprojax.core.trees import below, differences
from reprojax.saving.files import plain
from reprojax.saving.folders import claim, only_writer

FULL = ("No space left", "quota exceeded", "File too large")  # the system's messages


class Checkpoints:
    """Saves, guards and resumes one run, inside a `with`. Without a folder, no-op.

    Args:
        folder: the run's own; `identity`, as JSON, says which run it is.
        resume: continue the run in the folder; an empty folder starts one.
        keep: how many of the newest checkpoints to keep; with 2, if one is damaged the
            other remains.
        minutes: time after the last save at which the next one is `due`.
        grows: a key of `identity` whose number may be larger when the run is resumed.

    Entering raises ValueError for another run's folder, for this run's folder without
    `resume`, and for a folder in use.
    """

    stopping = False
    """Whether SIGTERM arrived. Ask after a save; otherwise the last steps are lost."""

    def __init__(
        self,
        folder: str | Path | None,
        identity: Mapping[str, Any],
        resume: bool = False,
        keep: int = 2,
        minutes: float = 10.0,
        grows: str = "",
    ) -> None:
        if keep < 1:
            raise ValueError(f"got keep={keep}, expected at least 1 checkpoint")
        self.folder = None if folder is None else Path(folder).absolute()
        self._identity, self._resume = plain(dict(identity)), resume
        self._grows = grows
        self._keep, self._seconds = keep, 60 * minutes
        self._orbax: Any = None
        self._pending: Any = None
        self._newest: tuple[int, dict[str, str]] | None = None
        self._saved_at = time.monotonic()

    def __enter__(self) -> "Checkpoints":
        with ExitStack() as stack:
            stack.enter_context(self._listening())
            if self.folder is not None:
                with _first("opening", self.folder) as here:
                    if here:
                        self.folder.mkdir(parents=True, exist_ok=True)
                        stack.enter_context(only_writer(self.folder))
                        _check_owned(self.folder)
                        claim(self.folder, self._identity, self._resume, self._grows)
                        _tidy(self.folder)
                self._orbax = self._opened()
            self._leave = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        with self._leave:
            try:
                self.wait()
            except OSError as late:
                # None, SystemExit or KeyboardInterrupt: nothing else reports `late`.
                if not isinstance(error, Exception):
                    raise
                error.add_note(str(late))
            finally:
                if self._orbax is not None:
                    self._orbax.close()

    @property
    def steps(self) -> list[int]:
        """The steps whose checkpoints are complete on disk, oldest first."""
        return [] if self.folder is None else _steps(self.folder)

    def due(self, step: int) -> bool:
        """Whether to save now: SIGTERM arrived, or the last save was long ago.

        Ask after every step: by this call several processes agree on one step.
        """
        if jax.process_count() > 1:
            self.stopping = multihost_utils.reached_preemption_sync_point(step)
            return self.stopping
        return self.stopping or time.monotonic() - self._saved_at > self._seconds

    def leave_if_told(self, step: int) -> None:
        """Raise SystemExit if SIGTERM arrived; call it after a save."""
        if self.stopping:
            where = (
                f"saved in {self.folder}" if self.folder else "nothing saved (no out=)"
            )
            raise SystemExit(f"stopped at step {step}; {where}")

    def latest(
        self,
        like: PyTree | Callable[[], PyTree],
        held: NamedSharding | None = None,
        growing: str = "",
    ) -> PyTree | None:
        """The newest state whose checksums are right; None if nothing was saved.

        `like` is a function that makes an initial state, its `jax.eval_shape`, or an
        example, whose shardings are then used. Leaves that `like` commits to no device
        come back uncommitted, like new arrays; with `held` all get that sharding.
        Leaves whose name ends with `growing` may have fewer rows on disk than in
        `like`, and come back with the rows on disk.

        Damaged checkpoints are moved to `damaged/`, with a warning, if an older one is
        whole. Raises ValueError if none is, or if the state is another program's.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self.steps):
            like = jax.eval_shape(like) if callable(like) else like
            if held is not None:
                like = jax.tree.map(partial(_held, held), like)
            try:
                state = self._read(step, like, growing)
            except _Damaged as reason:
                damaged[step] = f"step {step}: {str(reason)[:300]}"
                continue
            if damaged:
                self._orbax.close()
                self._orbax = self._set_aside(damaged, step)
            self._newest = step, _checksums(state)
            return state
        if damaged:
            assert self.folder is not None
            raise _none_whole(self.folder, damaged.values())
        return None

    def save(self, step: int, state: PyTree) -> None:
        """Write a state in the background, after the previous save has ended.

        Raises OSError (ENOSPC for a full disk) here, at the next save or on leaving the
        `with`; earlier checkpoints stay whole.
        """
        self._saved_at = time.monotonic()
        if self.folder is None:
            return
        self.wait()
        _check_leaves(state)
        sums = _checksums(state)
        if self._newest == (step, sums):
            return  # a signal at the end of an epoch saves the same state twice
        if step <= (newest := max(self.steps, default=-1)):
            raise ValueError(
                f"got step {step} to save, but {self.folder} has step {newest}; "
                "expected a later one; begin with latest() to continue from there"
            )
        options = {
            "force": True,
            "custom_metadata": {"leaves": sums, "seal": _seal(sums)},
        }
        try:
            response = self._orbax.save_async(step, state, **options)
        except Exception as error:  # any error: say which checkpoint is left
            raise self._failed(step, error) from error
        self._pending, self._newest = (step, response), (step, sums)

    def wait(self) -> None:
        """Wait until the current save is complete on disk; raise if it failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        step, response = pending
        try:
            response.result()
        except Exception as error:
            raise self._failed(step, error) from error

    def _failed(self, step: int, error: Exception) -> OSError:
        """The error to raise. Orbax's object is unusable after one: make a new one."""
        try:
            self._orbax.close()
        except Exception as again:
            if str(again) != str(error):
                error.add_note(f"closing orbax failed as well: {again}")
        assert self.folder is not None
        if jax.process_index() == 0:
            _tidy(self.folder)
        self._orbax, self._newest = self._opened(), None
        newest = f"step {max(self.steps)}" if self.steps else "nothing else"
        where = f"{newest} is whole in {self.folder}"
        if any(words in str(error) for words in FULL):
            text = f"disk full while saving step {step}; {where}; free space and resume"
            return OSError(errno.ENOSPC, text)
        return OSError(errno.EIO, f"saving step {step} failed; {where}; {error}")

    def _read(self, step: int, like: PyTree, growing: str = "") -> PyTree:
        try:
            stored = self._orbax.metadata(step).custom_metadata
            sums, seal = stored["leaves"], stored["seal"]
        except Exception as error:  # damaged files raise anything
            raise _Damaged(repr(error)) from error
        if _seal(sums) != seal:
            raise _Damaged("its checksums were changed")
        specs = {name: line.rpartition(" ")[0] for name, line in sums.items()}
        like = _shortened(like, specs, growing) if growing else like
        expected = {name: _spec(leaf) for name, leaf in _named(like).items()}
        if lines := differences(specs, expected):
            raise ValueError(
                f"the checkpoint of step {step} in {self.folder} is of another state:"
                f"{below(lines)}\nbuild the program and the optimiser as the run in "
                "the folder did, or choose another folder"
            )
        try:
            state = self._orbax.load(step, jax.tree.map(_abstract, like))
        except Exception as error:  # the specs agree, so the files are damaged
            raise _Damaged(repr(error)) from error
        if wrong := [name for name, s in _checksums(state).items() if s != sums[name]]:
            raise _Damaged(f"other numbers than were saved in {', '.join(wrong[:8])}")
        return jax.tree.map(lambda a, b: _loose(a) if _free(b) else a, state, like)

    def _opened(self) -> Any:
        """Orbax on the folder. It reads the metadata of every step before anything
        else, and raises on one that is damaged, so such steps are set aside first."""
        assert self.folder is not None
        try:
            return _manager(self.folder / "checkpoints", self._keep)
        except Exception as error:  # damaged files raise anything
            damaged = _unreadable(self.folder, self._keep)
            if not damaged:
                raise
            if whole := sorted(set(self.steps) - set(damaged)):
                return self._set_aside(damaged, whole[-1])
            raise _none_whole(self.folder, damaged.values()) from error

    def _set_aside(self, damaged: Mapping[int, str], used: int) -> Any:
        """Orbax on the folder without these steps."""
        assert self.folder is not None
        aside = self.folder / "damaged"
        with _first("setting damaged checkpoints aside in", self.folder) as here:
            aside.mkdir(exist_ok=True)
            for step in damaged if here else ():
                place = aside / f"{step}-{time.time_ns()}"
                (self.folder / "checkpoints" / f"{step}").rename(place)
        warnings.warn(
            f"resuming from step {used}: other checkpoints are damaged, and are now in "
            f"{aside}:{below(damaged.values())}",
            stacklevel=3,
        )
        return _manager(self.folder / "checkpoints", self._keep)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """SIGTERM sets `stopping`; in Python only the main thread receives signals."""
        alone = jax.process_count() == 1  # with several, jax handles the signal
        if not alone or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: Any) -> None:
            self.stopping = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def _first(doing: str, folder: Path) -> Iterator[bool]:
    """Run the block in process 0; the others wait, and all raise if it failed."""
    here, error = jax.process_index() == 0, None
    try:
        yield here
    except Exception as caught:
        error = caught
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
        if failed and not here:
            raise ValueError(f"{doing} {folder} failed in process 0, which says why")
    if error is not None:
        raise error


class _Damaged(Exception):
    """A checkpoint that cannot be read, or differs from what was saved."""


def _check_owned(folder: Path) -> None:
    if not (folder / "identity.json").exists() and (steps := _steps(folder)):
        raise ValueError(
            f"{folder} holds checkpoints (steps {steps}) but no identity.json, so "
            "they may belong to another run; choose another folder"
        )


def _tidy(folder: Path) -> None:
    """Remove the remains of a killed save."""
    for torn in (folder / "checkpoints").glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(torn)


def _none_whole(folder: Path, damaged: Iterable[str]) -> ValueError:
    return ValueError(
        f"no checkpoint in {folder} is whole:{below(damaged)}\n"
        "nothing was removed; restore one from a copy, or use another folder"
    )


def _manager(home: Any, keep: int) -> Any:
    from orbax.checkpoint import v1 as ocp

    policy: Any = ocp.training.preservation_policies.LatestN(keep)
    return ocp.training.Checkpointer(home, preservation_policy=policy)


def _unreadable(folder: Path, keep: int) -> dict[int, str]:
    """{step: why} of the steps that orbax cannot open. Its error names no step, so each
    is opened alone, as a link in an empty folder."""
    found = {}
    for step in _steps(folder):
        with tempfile.TemporaryDirectory(dir=folder) as alone:
            (Path(alone) / f"{step}").symlink_to(folder / "checkpoints" / f"{step}")
            try:
                _manager(Path(alone), keep).close()
            except Exception as error:
                found[step] = f"step {step}: {repr(error)[:300]}"
    return found


def _steps(folder: Path) -> list[int]:
    names = [path.name for path in (folder / "checkpoints").glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def _named(state: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _spec(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _shortened(like: PyTree, specs: Mapping[str, str], growing: str) -> PyTree:
    """`like` with as few rows in the growing leaves as were saved."""

    def one(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        if not name.endswith(growing):
            return leaf
        for rows in range(1, leaf.shape[0]):
            short = jax.ShapeDtypeStruct(
                (rows, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding
            )
            if _spec(short) == specs.get(name):
                return short
        return leaf

    return jax.tree_util.tree_map_with_path(one, like)


def _check_leaves(state: PyTree) -> None:
    lines = [
        f"{name}: {_spec(leaf) if hasattr(leaf, 'shape') else repr(leaf)}"
        for name, leaf in _named(state).items()
        if not isinstance(leaf, (jax.Array, np.ndarray)) or leaf.size == 0
    ]
    if lines:
        raise ValueError(
            f"got leaves that orbax cannot save:{below(lines)}\nexpected arrays of "
            "at least one element; call jnp.asarray on numbers, leave out empty arrays"
        )


def _host(leaf: Any) -> np.ndarray:
    keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if keys else leaf)


def _checksums(state: PyTree) -> dict[str, str]:
    """{name: "float32[3, 4] 0a1b2c3d"}"""
    return {
        name: f"{_spec(leaf)} {zlib.crc32(_host(leaf).tobytes()):08x}"
        for name, leaf in _named(state).items()
    }


def _seal(sums: Mapping[str, str]) -> int:
    """The checksum of the checksums, in which a bit may flip, too."""
    return zlib.crc32(json.dumps(sums, sort_keys=True).encode())


def _free(leaf: Any) -> bool:
    """Whether a leaf is committed to no device, so that jit may place it."""
    if isinstance(leaf, jax.Array):
        return not leaf.committed
    return not isinstance(leaf, np.ndarray) and leaf.sharding is None


def _held(held: NamedSharding, leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=held)


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return np.empty_like(leaf)  # orbax returns the kind of array that it is given
    sharding = SingleDeviceSharding(jax.devices()[0]) if _free(leaf) else leaf.sharding
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _loose(leaf: jax.Array) -> jax.Array:
    data = jnp.asarray(_host(leaf))
    same = data.dtype == leaf.dtype  # not true for typed keys
    return data if same else jax.random.wrap_key_data(data, impl=leaf.dtype)
