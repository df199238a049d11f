"""One device, many, or several processes: the same program gives the same numbers.

>>> mesh = parallel.mesh()  # all devices, axis "data"
>>> fitted = fit(program, frozen, task, optimizer=adam, epochs=1, batch=4, mesh=mesh)

>>> mesh = parallel.mesh(model=jax.device_count())  # axes "data" and "model"
>>> rules = {"*/kernel": P(None, "model")}  # the first that matches counts
>>> frozen = parallel.place(frozen, mesh, rules)  # or straight from a file:
>>> frozen = parallel.load_sharded("weights.safetensors", mesh, rules)

In several processes, call `parallel.start()` before anything else.

A program's state is replicated and the rows of a batch are sharded over "data". Frozen
weights are replicated, or sharded by the rules. Everything is compiled by `jax.jit`,
and XLA inserts the collectives. A loss is (sum over rows) / (number of rows), and both
are global sums, so programs contain no device-specific code. Axes are `AxisType.Auto`,
because with Explicit ones an ordinary model cannot concatenate or pad.

If the devices do not divide a batch, it is filled with rows that it has, under the
label -1, which losses and counts ignore.
"""

import socket
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from reprojax.core import PyTree
from reprojax.data import Shared, Split
from reprojax.data.order import Batch, Reader, read_rows
from reprojax.data.rows import by_rows, filler
from reprojax.models import stored

Rules = Mapping[str, PartitionSpec]
"""{pattern of an array's path, such as "*/kernel": its sharding}."""

DATA = "data"  # the axis of the rows


def start(
    address: str | None = None,
    processes: int | None = None,
    index: int | None = None,
    *,
    timeout: int = 300,
    heartbeat: int = 100,
    cluster: str | None = None,
) -> None:
    """Join this process to the others of a run, before JAX is used for anything else.

    Slurm, TPU pods, Kubernetes and Open MPI tell JAX the processes by themselves;
    `cluster="mpi4py"` asks mpi4py. Elsewhere each process passes the same address.

    Args:
        address: "host:port" of process 0, with a port that is free there.
        processes, index: the number of processes, and which one this is.
        timeout: seconds to wait for the others.
        heartbeat: seconds of silence after which a process counts as dead. Its death
            ends the others by SIGABRT, so that none waits forever; start them all again
            with `resume=True`.
    """
    given = {"address": address, "processes": processes, "index": index}
    if address is not None:
        _check_address(address, processes, index)
    try:
        jax.distributed.initialize(
            address,
            processes,
            index,
            cluster_detection_method=cluster,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"this process could not join a run of several ({error}); start got "
            f"{given}, expected a cluster that JAX knows, or all three, the same "
            'address everywhere: call parallel.start("host:port", processes, index) '
            "once, before anything that uses a device (jax.devices(), an array)"
        ) from error


def _check_address(address: str, processes: int | None, index: int | None) -> None:
    _, _, port = address.rpartition(":")
    if not port.isdecimal() or processes is None or index is None:
        raise ValueError(
            f"start got address={address!r}, processes={processes} and "
            f'index={index}, expected "host:port" and two numbers'
        )
    if not 0 <= index < processes:
        raise ValueError(
            f"start got index={index} of {processes} processes, expected 0 to "
            f"{processes - 1}"
        )
    if index == 0:
        with socket.socket() as probe:  # JAX would end the process without a message
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise ValueError(
                    f"got address {address!r} for process 0, but port {port} is not "
                    f"available here ({error.strerror}); expected a free one; give all "
                    "processes another"
                ) from error


def mesh(model: int | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices, of all processes, along "data".

    With `model`, along "data" and "model"; `model` devices share each sharded array. On
    one device model=1 lets the same rules work.
    """
    devices = jax.devices() if devices is None else list(devices)
    if model is not None and (model < 1 or len(devices) % model):
        raise ValueError(
            f"mesh got model={model} for {len(devices)} devices, expected a "
            f"divisor of {len(devices)}"
        )
    shape = (len(devices),) if model is None else (len(devices) // model, model)
    names = (DATA, "model")[: len(shape)]
    return jax.make_mesh(shape, names, (AxisType.Auto,) * len(shape), devices=devices)


def check_mesh(mesh: Mesh) -> None:
    """Raise ValueError unless the mesh has an axis "data" and all its axes are Auto."""
    if DATA not in mesh.shape or set(mesh.axis_types) != {AxisType.Auto}:
        kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
        raise ValueError(
            f"got a mesh with the axes {kinds}, expected Auto axes and one named "
            f'"{DATA}"; call parallel.mesh(), or give jax.make_mesh axis_types'
        )


# -- trees on a mesh


def place(tree: PyTree, mesh: Mesh, rules: Rules | None = None) -> PyTree:
    """Put a tree on a mesh, each array by the first rule that matches its path.

    A path is "params/block_0/kernel"; a star in a rule matches anything. Arrays that no
    rule matches are replicated. A rule that matches no array, or an axis that the mesh
    does not divide, raises ValueError. Every process must give the same tree.
    """
    leaves, form = jax.tree_util.tree_flatten_with_path(tree)
    named = [(_path(path), leaf) for path, leaf in leaves]
    shapes = {name: np.shape(leaf) for name, leaf in named}
    lies = _shardings(shapes, mesh, rules or {})
    return jax.tree.unflatten(form, [_put(leaf, lies[name]) for name, leaf in named])


def on_mesh(frozen: PyTree, mesh: Mesh) -> PyTree:
    """Frozen weights: those on the mesh keep their sharding, others are replicated."""

    def put(path: Any, leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
            return _put(leaf, replicated(mesh))
        there = leaf.sharding
        same = there.device_set == set(mesh.devices.flat)
        if same and getattr(there, "mesh", mesh) == mesh:
            return leaf
        raise ValueError(
            f"the frozen array {_path(path)!r} is on "
            f"{getattr(there, 'mesh', there)}, and the program runs on {mesh}; "
            "expected one mesh; call parallel.place(frozen, mesh, rules) on arrays of "
            "the host, or give fit the mesh of the weights"
        )

    return jax.tree_util.tree_map_with_path(put, frozen)


def load_sharded(
    path: str | Path, mesh: Mesh, rules: Rules | None = None, dtype: Any = None
) -> PyTree:
    """Load a safetensors file, or a folder of shards, directly onto a mesh.

    Each process reads only the bytes of its own devices, so no array is whole on the
    host. Rules are as in `place`. Names with slashes become nested dicts, the inverse
    of `flax.traverse_util.flatten_dict(frozen, sep="/")`; other names are kept.

    Args:
        dtype: of the floats, such as jnp.bfloat16; by default that of the file.
    """
    from flax.traverse_util import unflatten_dict
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    slices: dict[str, Any] = {}
    for file in stored.files(path) if path.is_dir() else [path]:
        try:
            opened = safe_open(file, framework="np")
            slices |= {name: opened.get_slice(name) for name in opened.keys()}
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} could not be read as safetensors ({error}), expected a whole "
                "file of that format; fetch it again"
            ) from error
    shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    lies = _shardings(shapes, mesh, rules or {})

    def read(name: str) -> jax.Array:
        def own(index: Any) -> np.ndarray:
            part = slices[name][index if index else ...]
            if not jnp.issubdtype(part.dtype, jnp.floating):
                return part
            stored.numbers(part, name, path)
            return part if dtype is None else part.astype(dtype)

        return jax.make_array_from_callback(shapes[name], lies[name], own)

    return unflatten_dict({name: read(name) for name in slices}, sep="/")


def cast(tree: PyTree, dtype: Any = jnp.bfloat16) -> PyTree:
    """Cast the floats of a frozen tree. A model computes in its weights' type, but
    learnable params, optimiser state and loss stay float32."""

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _shardings(
    shapes: Mapping[str, tuple[int, ...]], mesh: Mesh, rules: Rules
) -> dict[str, NamedSharding]:
    """{path: sharding} of the arrays."""
    chosen = {
        name: next((rule for rule in rules if fnmatchcase(name, rule)), None)
        for name in shapes
    }
    if idle := [rule for rule in rules if rule not in chosen.values()]:
        raise ValueError(
            f"the rule {idle[0]!r} matches no array that an earlier rule does not, "
            "expected a pattern of a path; the paths begin with "
            f"{sorted(shapes)[:4]}"
        )
    for name, rule in chosen.items():
        if rule is not None:
            _check_divides(name, shapes[name], rule, rules[rule], mesh)
    everywhere = PartitionSpec()
    return {
        name: NamedSharding(mesh, everywhere if rule is None else rules[rule])
        for name, rule in chosen.items()
    }


def _check_divides(
    name: str, shape: tuple[int, ...], rule: str, spec: PartitionSpec, mesh: Mesh
) -> None:
    known = f"the mesh has {dict(mesh.shape)}"
    if len(spec) > len(shape):
        raise ValueError(
            f"the rule {rule!r} has {len(spec)} axes ({spec}), but {name!r} has the "
            f"shape {shape}; expected at most {len(shape)}"
        )
    for axis, wanted in enumerate(spec):
        names = (wanted,) if isinstance(wanted, str) else tuple(wanted or ())
        if missing := [n for n in names if n not in mesh.shape]:
            raise ValueError(
                f"the rule {rule!r} names the mesh axis {missing[0]!r}, but {known}; "
                "call parallel.mesh(model=...)"
            )
        count = prod(mesh.shape[n] for n in names)
        if shape[axis] % count:
            raise ValueError(
                f"axis {axis} of {name!r} (shape {shape}) does not divide by the "
                f"{count} devices of mesh axis {' * '.join(names)!r}; {known}; "
                "expected a multiple; shard another axis, or replicate this array by a "
                f"rule before {rule!r}: {name!r}: PartitionSpec()"
            )


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if not leaf.is_fully_addressable:  # parts are on other processes' devices
            return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda i: host[i])


# -- for training loops


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that puts the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def settle(frozen: PyTree, mesh: Mesh | None) -> PyTree:
    """Frozen weights on the mesh, or on the one device, where the program runs."""
    if mesh is None:
        leaves = [a for a in jax.tree.leaves(frozen) if isinstance(a, jax.Array)]
        if any(len(leaf.sharding.device_set) > 1 for leaf in leaves):
            raise ValueError(
                "the frozen weights are on several devices, and the program got no "
                "mesh, expected the one that they are on; give it as mesh="
            )
        return jax.device_put(frozen)
    check_mesh(mesh)
    return on_mesh(frozen, mesh)


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The whole tree on every device; every process gives it. No mesh: unchanged."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: _put(leaf, replicated(mesh)), tree)


# -- rows of a batch


def padded_size(size: int, mesh: Mesh | None, accumulate: int = 1) -> int:
    """A batch's number of rows, filled so that devices and parts divide it."""
    times = accumulate * (1 if mesh is None else mesh.shape[DATA])
    return -(-size // times) * times


def reader(mesh: Mesh | None = None, accumulate: int = 1) -> Reader:
    """How `order` reads batches: filled and sharded; without a mesh neither.

    Each process reads only the rows of its own devices. `Shared` values go to the
    devices once, not with each step.
    """

    def read(split: Split, rows: np.ndarray, y: np.ndarray) -> Batch:
        size = padded_size(len(y), mesh, accumulate)
        rows = np.resize(rows, size)  # repeats real images: batch statistics see them
        more = [(0, size - len(y)), *((0, 0) for _ in y.shape[1:])]
        y = np.pad(y, more, constant_values=filler(y))
        if mesh is None:
            return read_rows(split, rows, y)
        return _over(mesh, split, rows, y)

    whole = mesh is None and accumulate == 1
    return Reader(read_rows if whole else read, partial(_placed, mesh=mesh))


def _placed(context: PyTree, mesh: Mesh | None) -> PyTree:
    put = jax.device_put if mesh is None else partial(replicate, mesh=mesh)
    shared = lambda leaf: isinstance(leaf, Shared)
    one = lambda leaf: Shared(put(leaf.value)) if shared(leaf) else leaf
    return jax.tree.map(one, context, is_leaf=shared)


def _over(mesh: Mesh, split: Split, rows: np.ndarray, y: np.ndarray) -> Batch:
    lies = NamedSharding(mesh, PartitionSpec(DATA))

    def put(leaf: Any) -> jax.Array:
        read: dict[tuple, np.ndarray] = {}

        def own(index: Any) -> np.ndarray:
            span = index[0].indices(len(rows))
            if span not in read:  # devices along "model" share rows: read them once
                read[span] = np.asarray(leaf[rows[index[0]]])
            return read[span]

        shape = (len(rows), *leaf.shape[1:])
        return jax.make_array_from_callback(shape, lies, own)

    y_there = jax.make_array_from_callback(y.shape, lies, lambda i: y[i])
    return by_rows(put, split.x), y_there, by_rows(put, split.context)


# -- inside a compiled step


def keep_replicated(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Constrain to replicated; otherwise XLA may shard a result in any way."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, replicated(mesh))


def micro_batches(tree: PyTree, count: int, mesh: Mesh | None = None) -> PyTree:
    """[B ...] -> [count B/count ...]; row i goes to part i % count, so that each device
    keeps its own rows."""

    def cut(a: jax.Array) -> jax.Array:
        a = jnp.moveaxis(a.reshape(-1, count, *a.shape[1:]), 1, 0)
        if mesh is None:
            return a
        lies = NamedSharding(mesh, PartitionSpec(None, DATA))
        return jax.lax.with_sharding_constraint(a, lies)

    return jax.tree.map(cut, tree)
