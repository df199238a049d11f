"""Train on the values below the lowest edited site, computed once.

>>> values = cached(program, frozen, task, folder="runs/values")
>>> fitted = fit(*values, optimizer=optax.adam(.01), epochs=2, batch=4)

The params fit the program without a cache, too.

If a program learns only above the input, the values below its lowest edit are the same
in every epoch. Here they are computed once and take the place of x: an array for
images, Tokens for a language model. XLA removes the layers below from the compiled
step, with their weights; a head or a label map trains without the model. Fixed edits
below (a resize at "input") are part of the values.

The following raise ValueError with the site's name: augmented images, a manipulation
that reads the task's own input, a site inside remat, and a lowest edit at the input.
"""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core import Edit, Params, Program, PyTree, passthrough, record
from reprojax.core.guards import check_sites
from reprojax.core.trees import below, differences, fingerprint
from reprojax.data import Split, Task, digest, in_order, steps
from reprojax.data.rows import spec, taken, unshared
from reprojax.data.task import SPLITS
from reprojax.saving.files import read_json, write_json
from reprojax.saving.folders import only_writer
from reprojax.training.checks import check_arguments
from reprojax.training.dependence import cache_site
from reprojax.training.steps import bar

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))


def cached(
    program: Program,
    frozen: PyTree,
    task: Task,
    *,
    batch: int = 64,
    folder: str | Path | None = None,
    progress: bool = True,
) -> tuple[Program, PyTree, Task]:
    """The arguments of `fit`, with the values at `cache_site` in place of the inputs.

    Args:
        batch: rows at once, while the values are computed.
        folder: where to keep the values, one memory-mapped file a split and array, and
            to find them again; by default they are kept in memory. A folder of another
            model, other data, another site, or other preprocessing raises ValueError.
            With several processes, one process has to fill the folder beforehand.

    Outer edits of the new program (`record`, an auxiliary loss) see that site and those
    after it. Recording a site below raises, because those layers are not run.
    """
    check_arguments("cached", program, frozen, task, "folder=...")
    _check_filled(folder)
    size = min(batch, len(task.train.y))
    rows = spec(task.train.x, size)
    context = unshared(spec(task.train.context, size))
    site = cache_site(program, frozen, rows, context)
    params = program.init(jax.random.key(0), frozen, rows, context)
    values = partial(_values, program, site, params, jax.device_put(frozen))
    kept, form = jax.tree.flatten(jax.eval_shape(values, rows, context))
    plan = _Plan(site, tuple(map(_Row.of, kept)), size, values, progress)
    if folder is None:
        _check_room(plan, task, None)
        arrays = {
            name: [np.empty((len(split.y), *row.shape), row.dtype) for row in plan.rows]
            for name, split in _splits(task).items()
        }
        _fill(plan, task, arrays)
    else:
        arrays = _kept(plan, frozen, task, Path(folder))
    splits = {
        n: s._replace(x=jax.tree.unflatten(form, arrays[n]))
        for n, s in _splits(task).items()
    }
    leaves, tree = jax.tree.flatten(rows)
    put = _above(program, site, tree, tuple(map(_Row.of, leaves)))
    return put, frozen, task._replace(**splits, holds=site)


def _check_filled(folder: str | Path | None) -> None:
    count = jax.process_count()
    if count > 1 and (folder is None or not (Path(folder) / "cache.json").exists()):
        raise ValueError(
            f"cached got folder={folder!r} in {count} processes, expected a folder "
            "that one process has filled alone; first call cached(program, frozen, "
            "task, folder=...) in one process"
        )


# -- the program above it


class _Row(NamedTuple):
    """An array's shape and type, without its first axis."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(cls, array: Any) -> "_Row":
        return cls(tuple(array.shape[1:]), np.dtype(array.dtype))


@lru_cache(maxsize=64)  # one program for all seeds, so that they share what is compiled
def _above(program: Program, site: str, tree: Any, inputs: tuple[_Row, ...]) -> Program:
    """The program with x in place of the value at a site."""

    def blank(x: Any, make: Callable[..., Any]) -> Any:
        """The program's own input with as many rows as x."""
        count = jax.tree.leaves(x)[0].shape[0]
        own = [make((count, *row.shape), row.dtype) for row in inputs]
        return jax.tree.unflatten(tree, own)

    def init(key: Any, frozen: PyTree, x: Any, context: PyTree = None) -> Params:
        return program.init(key, frozen, blank(x, jax.ShapeDtypeStruct), context)

    def apply(
        params: Params,
        frozen: PyTree,
        x: Any,
        context: PyTree = None,
        *,
        key: Any = None,
        edit: Edit = passthrough,
    ) -> PyTree:
        shown = False

        # Like `given`, but outer edits see the cached value, and no site below it.
        def put(name: str, value: PyTree) -> PyTree:
            nonlocal shown
            shown = shown or name == site
            return edit(name, x if name == site else value) if shown else value

        zeros = blank(x, jnp.zeros)  # XLA removes all but their shapes
        y = program.apply(params, frozen, zeros, context, key=key, edit=put)
        check_sites([site], [site] if shown else [])
        return y

    return program._replace(init=init, apply=apply)


# -- the values


class _Plan(NamedTuple):
    """What to compute for every row."""

    site: str
    rows: tuple[_Row, ...]
    """Of each array of the value, in the order of its tree."""
    batch: int
    values: Callable[[PyTree, PyTree], PyTree]
    progress: bool

    def bytes(self, task: Task) -> int:
        count = sum(len(split.y) for split in _splits(task).values())
        return count * sum(prod(row.shape) * row.dtype.itemsize for row in self.rows)


@partial(jax.jit, static_argnums=(0, 1))
def _values(
    program: Program, site: str, params: Params, frozen: PyTree, x: Any, context: PyTree
) -> PyTree:
    return record(program.apply, [site])(params, frozen, x, context)[1][site]


def _splits(task: Task) -> dict[str, Split]:
    return {name: getattr(task, name) for name in SPLITS}


def _fill(plan: _Plan, task: Task, arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
    splits = _splits(task)
    total = sum(steps(split, plan.batch) for split in splits.values())
    with bar(0, total, plan.progress) as line:
        line.set_description(f"caching {plan.site}, {_size(plan.bytes(task))}")
        for name, split in splits.items():
            for i, (x, _, context) in enumerate(in_order(split, plan.batch)):
                values = jax.tree.leaves(plan.values(x, unshared(context)))
                for array, value in zip(arrays[name], values, strict=True):
                    rows = array[i * plan.batch : (i + 1) * plan.batch]
                    found = np.asarray(value)[: len(rows)]
                    _check_finite(plan.site, name, found)
                    rows[...] = found.view(rows.dtype)
                line.update()


def _check_finite(site: str, split: str, values: np.ndarray) -> None:
    floats = jnp.issubdtype(values.dtype, jnp.floating)
    if floats and not np.isfinite(values.astype(np.float32)).all():
        raise ValueError(
            f"the model gives NaN or infinity at {site!r} for {split} rows, expected "
            "finite values to cache; check the weights and these rows"
        )


def _check_room(plan: _Plan, task: Task, folder: Path | None) -> None:
    """Raise, before anything is computed, if the values do not fit."""
    needed = plan.bytes(task)
    free = _memory() if folder is None else shutil.disk_usage(folder).free
    if needed > free:
        where = f"{folder} has" if folder else "memory has"
        instead = "another folder" if folder else "folder=... to keep them on disk"
        raise ValueError(
            f"the values at {plan.site!r} of {task.name} take {_size(needed)}, and "
            f"{where} {_size(free)} left; expected room for all; give {instead}, or a "
            "program whose lowest edit is higher"
        )


def _memory() -> int:
    """Bytes of memory available."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable"))
        return int(free.split()[1]) * 1024
    except (OSError, StopIteration):  # not Linux: take the machine's total
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(count: float) -> str:
    unit, name = next((u for u in UNITS if count >= u[0]), UNITS[-1])
    return f"{count / unit:.3g} {name}"


# -- the values on disk: complete once cache.json is there


def _kept(
    plan: _Plan, frozen: PyTree, task: Task, folder: Path
) -> dict[str, list[np.ndarray]]:
    """The folder's values, computed first if they are not there."""
    identity = {
        "format": 2,
        "backbone": fingerprint(frozen),
        "data": digest(task),
        "site": plan.site,
        "values": [f"{row.dtype}{list(row.shape)}" for row in plan.rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "cache.json").exists():
        with only_writer(folder):
            if not (folder / "cache.json").exists():  # another may have filled it
                _write(plan, task, folder, identity)
    arrays = _read(plan, task, folder, identity)
    for name, split in _splits(task).items():
        _check_rows(plan, split, arrays[name], folder)
    return arrays


def _write(plan: _Plan, task: Task, folder: Path, identity: Mapping[str, Any]) -> None:
    """Rename each file when complete, cache.json last, so a kill leaves no cache."""
    for torn in folder.glob("*.npy*"):
        torn.unlink()
    _check_room(plan, task, folder)
    splits = _splits(task)
    paths = {name: _paths(plan, folder, name) for name in splits}
    part = lambda path: path.with_name(f"{path.name}.part")
    arrays = {
        name: [
            np.lib.format.open_memmap(
                part(path), "w+", _stored(row.dtype), (len(split.y), *row.shape)
            )
            for path, row in zip(paths[name], plan.rows, strict=True)
        ]
        for name, split in splits.items()
    }
    _fill(plan, task, arrays)
    for name, own in arrays.items():
        for path, array in zip(paths[name], own, strict=True):
            array.flush()
            os.replace(part(path), path)
    versions = {"jax": jax.__version__, "numpy": np.__version__}
    write_json(folder / "cache.json", {**identity, "versions": versions})


def _paths(plan: _Plan, folder: Path, split: str) -> list[Path]:
    """A file for each array of a split's values."""
    if len(plan.rows) == 1:
        return [folder / f"{split}.npy"]
    return [folder / f"{split}.{i}.npy" for i in range(len(plan.rows))]


def _stored(dtype: np.dtype) -> np.dtype:
    """The dtype on disk: NumPy has no bfloat16, so its bits are stored as integers."""
    own = dtype.type.__module__ == "numpy"
    return dtype if own else np.dtype(f"u{dtype.itemsize}")


def _read(
    plan: _Plan, task: Task, folder: Path, identity: Mapping[str, Any]
) -> dict[str, list[np.ndarray]]:
    try:
        there = read_json(folder / "cache.json", dict[str, Any])
        there.pop("versions")  # informative; `_check_rows` finds what they change
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}/cache.json is damaged ({error}), expected what describes the "
            "cache; remove the folder to compute the values again"
        ) from error
    if lines := differences(identity, there):
        raise ValueError(
            f"{folder} holds another cache:{below(lines)}\nchoose another folder, or "
            "remove this one to compute the values again"
        )
    return {
        name: [
            _open(path, row, len(split.y))
            for path, row in zip(_paths(plan, folder, name), plan.rows, strict=True)
        ]
        for name, split in _splits(task).items()
    }


def _open(path: Path, row: _Row, count: int) -> np.ndarray:
    shape = (count, *row.shape)
    try:
        array = np.load(path, mmap_mode="r")
        if array.shape != shape or array.dtype != _stored(row.dtype):
            raise ValueError(f"{array.dtype}{list(array.shape)}")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}), expected {row.dtype}{list(shape)}; "
            "remove the folder to compute the values again"
        ) from error
    return array.view(row.dtype)


def _check_rows(
    plan: _Plan, split: Split, arrays: Sequence[np.ndarray], folder: Path
) -> None:
    """Compute a few rows again: a change of preprocessing shows in values only."""
    rows = np.linspace(0, len(split.y) - 1, min(8, len(split.y))).astype(int)
    given = taken(split.x, rows), unshared(taken(split.context, rows))
    values = jax.tree.leaves(plan.values(*given))
    for row, array, value in zip(plan.rows, arrays, values, strict=True):
        new = np.asarray(value).astype(np.float64)
        old = array[rows].astype(np.float64)
        near = np.sqrt(_step(row.dtype)) * max(np.abs(new).max(initial=0), 1e-6)
        if not np.abs(new - old).max(initial=0) <= near:
            raise ValueError(
                f"{folder} holds other values at {plan.site!r} than the program "
                f"computes now (they differ by {np.abs(new - old).max():.2g}, expected "
                f"at most {near:.2g}): the preprocessing below that site changed, or "
                "the file did; choose another folder, or remove this one"
            )


def _step(dtype: np.dtype) -> float:
    """The distance from 1 to the next number of a type; of whole numbers 0."""
    floats = jnp.issubdtype(dtype, jnp.floating)
    return float(jnp.finfo(dtype).eps) if floats else 0.0
