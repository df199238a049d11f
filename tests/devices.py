"""What eight devices, or two processes, must show, each in a Python of its own.

    devices.py eight FOLDER                          eight devices, one process
    devices.py two FOLDER INDEX PORT EPOCHS PAUSE    one of two processes
    devices.py resnet FOLDER INDEX PORT              the same, ResNet-20 without a loop

How many devices there are is settled when jax starts, hence the scripts. Each leaves
what it found in FOLDER/<name>.npz; the assertions are in `test_parallel`.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]


# -- starting them, and leaving none behind


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def die_with_parent() -> None:
    """Called by the child: the parent has threads, and must not fork by itself."""
    ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def started(
    commands: list[list[Any]], devices: int
) -> Iterator[list[subprocess.Popen]]:
    """This script with each of the arguments, so many devices each."""
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ["XLA_FLAGS"]
        + f" --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "text")]),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, *map(str, command)],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for command in commands
    ]
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def finish(processes: list[subprocess.Popen], seconds: float = 240) -> list[str]:
    """What they printed; AssertionError, with that, unless all end well."""
    end = time.monotonic() + seconds
    out = [p.communicate(timeout=end - time.monotonic())[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * len(processes), "\n".join(out)
    return out


def two(folder: Path, epochs: int = 3, pause: float = 0.0) -> Any:
    """Two processes of two devices each, that train together."""
    port = free_port()
    commands = [["two", folder, i, port, epochs, pause] for i in range(2)]
    return started(commands, devices=2)


# -- what they compute


def resnet() -> tuple[Any, Any, Any]:
    """A program around ResNet-20 with random weights, those weights, and digits.

    At 16 pixels a side, a quarter of the work.
    """
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict
    from jax.nn.initializers import zeros
    from sklearn.datasets import load_digits

    from reprojax import reprogram
    from reprojax.alignments import bayesian
    from reprojax.core import chain
    from reprojax.data import Split
    from reprojax.formats import learnable
    from reprojax.models import images
    from reprojax.models.vision.cifar_resnet import CifarResNet
    from reprojax.operators import add, resize

    module = CifarResNet((3, 3, 3), 16, 10)
    spec = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 16, 16, 3)))
    draw = np.random.default_rng(0)

    def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
        name = path.rpartition("/")[2]
        if name != "kernel":
            value = {"scale": 0.5, "var": 1.0}.get(name, 0.0)
            return np.full(shape, value, np.float32)
        fan_in = np.prod(shape[:-1])
        return draw.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)

    flat: dict[str, Any] = flatten_dict(spec, sep="/")
    frozen = unflatten_dict({p: leaf(p, a.shape) for p, a in flat.items()}, sep="/")
    program = reprogram(
        images(module, 16, (0.5,) * 3, (0.25,) * 3),
        {
            "input": resize(16),
            "normalized": chain(prompt=add(learnable(zeros))),
            "output": bayesian(10),
        },
    )
    pixels, labels = load_digits(return_X_y=True)
    x = np.repeat((pixels.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8), 3, axis=-1)
    return program, frozen, Split(x[:160], labels[:160].astype(np.int32))


def trained(
    frozen: Any, batch: int, mesh: Any, steps: int = 20, along: Any = None
) -> Any:
    """The state after so many steps of SGD.

    Args:
        along: a list, which is given the state before each step and after the last; one
            that has them begins each step at its own, so that no step adds to what
            another one rounds.
    """
    import jax
    import optax

    from reprojax.data import order
    from reprojax.training import parallel
    from reprojax.training.steps import begin, train_step

    program, _, split = resnet_parts
    sgd, loss = optax.sgd(0.1), cross_entropy()
    images = jax.ShapeDtypeStruct((batch, *split.x.shape[1:]), split.x.dtype)
    frozen = parallel.settle(frozen, mesh)
    state = begin(program, sgd, frozen, images, 0, 1)
    state = parallel.replicate(state, mesh)
    how, found = parallel.reader(mesh), [state]
    for i, (x, y, _) in enumerate(order.batches(split, batch, 0, 0, steps, how)):
        if along:
            state = parallel.replicate(along[i], mesh)
        state = train_step(program, sgd, loss, (), state, frozen, x, y, mesh=mesh)
        found.append(state)
    if along == []:
        along += found
    return found if along else state


def cross_entropy() -> Any:
    from reprojax.training.losses import cross_entropy

    return cross_entropy


def leaves(tree: Any) -> dict[str, np.ndarray]:
    """{path: value}, keys as their data."""
    import jax

    named = jax.tree_util.tree_flatten_with_path(tree)[0]
    data = lambda a: jax.random.key_data(a) if "key" in str(a.dtype) else a
    return {jax.tree_util.keystr(p): np.asarray(data(a)) for p, a in named}


def whole_of(states: list[Any]) -> dict[str, np.ndarray]:
    """Their leaves, one state behind the other."""
    found = [leaves(state) for state in states]
    return {name: np.stack([each[name] for each in found]) for name in found[0]}


def held_bytes(tree: Any) -> int:
    """What the first device holds."""
    import jax

    return sum(a.addressable_shards[0].data.nbytes for a in jax.tree.leaves(tree))


def documented() -> dict[str, Any]:
    """The names that docs/parallel.md defines."""
    from documents import run

    return run(ROOT / "docs/parallel.md")


def by_hand(how: str, batch: int, steps: int = 20) -> dict[str, np.ndarray]:
    """Params and counts after steps in the forms of docs/parallel.md."""
    import jax
    import optax

    from reprojax.data import order
    from reprojax.training import parallel
    from reprojax.training.steps import begin

    program, frozen, split = resnet_parts
    sgd, mesh, names = optax.sgd(0.1), parallel.mesh(), documented()
    images = jax.ShapeDtypeStruct((batch, *split.x.shape[1:]), split.x.dtype)
    state = begin(program, sgd, frozen, images, 0, 1)
    params, opt, counts = state.params, state.opt, 0
    make = names["by_pmap"], partial(names["by_shard_map"], mesh=mesh)
    step = make[how == "shard_map"](program, sgd)
    place = parallel.replicate if how == "shard_map" else names["placed_for_pmap"]
    params, opt, frozen = (place(tree, mesh) for tree in (params, opt, frozen))
    lies = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    for i in range(steps):
        x, y, _ = order.batch(split, batch, 0, i)
        x = np.resize(x, (16, *x.shape[1:]))
        y = np.pad(y, (0, 16 - batch), constant_values=-1)
        if how == "pmap":
            x, y = x.reshape(8, 2, *x.shape[1:]), y.reshape(8, 2)
        x, y = jax.device_put((x, y), lies)
        with jax.transfer_guard("disallow"):  # a step moves nothing else
            params, opt, _, new = step(params, opt, frozen, x, y)
        own = lambda a: np.asarray(a)[0] if how == "pmap" else np.asarray(a)
        counts = counts + own(new["output"])
    return leaves(jax.tree.map(own, params)) | {"counts": counts}


def reduced(program: Any, mesh: Any) -> tuple[dict, dict]:
    """A step in four parts, with its all-reduces: all, and those behind the loop; and
    the same step on one device, whole."""
    import jax
    import optax

    from reprojax.training import parallel
    from reprojax.training.steps import begin, train_step

    _, frozen, split = resnet_parts
    x, y = split.x[:32], split.y[:32]
    what = program, optax.sgd(0.1), cross_entropy(), ()
    start = begin(*what[:2], frozen, x, 0, 1)
    one = train_step(*what, jax.tree.map(jax.numpy.copy, start), frozen, x, y)
    lies = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, y = jax.device_put((x, y), lies)
    state = parallel.replicate(start, mesh)
    given = *what, state, parallel.settle(frozen, mesh), x, y
    text = train_step.lower(*given, accumulate=4, mesh=mesh).compile().as_text()
    count = lambda text: len(re.findall(r" all-reduce(?:-start)?\(", text))
    whole, outside = count(text), count(text[text.index("ENTRY ") :])
    new = train_step(*given, accumulate=4, mesh=mesh)
    counted = {"whole": np.array(whole), "outside": np.array(outside)}
    return leaves(new) | counted, leaves(one)


def eight(folder: Path) -> None:
    import jax

    from reprojax.training import parallel

    assert jax.device_count() == 8
    P, mesh = jax.sharding.PartitionSpec, parallel.mesh()
    _, frozen, _ = resnet_parts
    found: dict[str, dict] = {}
    for batch in (16, 13):
        found[f"one_{batch}"] = leaves(trained(frozen, batch, None))
        found[f"eight_{batch}"] = leaves(trained(frozen, batch, mesh))
    for how in ("pmap", "shard_map"):
        found[f"{how}_13"] = by_hand(how, 13)
    wide = parallel.mesh(model=4)
    rules = {"*/stem/kernel": P(), "*/kernel": P(*(None,) * 3, "model")}
    rules = {"*/head/kernel": P("model", None)} | rules
    laid = parallel.place(frozen, wide, rules)
    along: list = []
    one = trained(frozen, 13, None, along=along)
    found["along_13"] = whole_of(one)
    found["sharded_13"] = whole_of(trained(laid, 13, wide, along=along))
    held, whole = held_bytes(laid), sum(a.nbytes for a in jax.tree.leaves(frozen))
    found["bytes"] = {"held": np.array(held), "whole": np.array(whole)}
    state = trained(frozen, 16, mesh, steps=1)
    lies = [a.sharding.is_fully_replicated for a in jax.tree.leaves(state)]
    found["lies"] = {"replicated": np.array(lies)}
    import fitting

    elsewhere = parallel.place(fitting.FROZEN, parallel.mesh(model=2))
    try:
        fitting.train(frozen=elsewhere, mesh=mesh)
    except ValueError as error:
        found["refused"] = {"other_mesh": np.array(str(error))}
    try:
        fitting.train(frozen=elsewhere)
    except ValueError as error:
        found["refused"]["no_mesh"] = np.array(str(error))
    found["parts"], found["parts_one"] = reduced(resnet_parts[0], mesh)
    found["words_one"], found["words_eight"] = words(None), words(mesh)
    found["words_parts"] = words(None, accumulate=5)
    for name, values in found.items():
        np.savez(folder / f"{name}.npz", **values)


def words(mesh: Any, accumulate: int = 1) -> dict[str, np.ndarray]:
    """Words to be written, a batch of 5 of 6 texts as Tokens, a short one behind it."""
    import optax
    import test_text_tasks as texts

    from reprojax.alignments import at_words
    from reprojax.recipes.prompt_tuning import prompt_tuning

    task = texts.written(texts.WRITER, texts.QUESTIONS, "do {question}. {answer}")
    program = prompt_tuning(texts.WRITER, at_words(), length=8)
    how = {"optimizer": optax.sgd(0.02), "batch": 5, "epochs": 3, "mesh": mesh}
    how["accumulate"] = accumulate
    fitted = texts.fit(program, texts.CARD.frozen, task, progress=False, **how)
    return leaves(fitted.last) | {"curves": fitted.curves}


def resnet_pair(folder: Path, index: int, port: int) -> None:
    """The steps of `eight`, in one of two processes."""
    from reprojax.training import parallel

    global resnet_parts
    parallel.start(f"127.0.0.1:{port}", 2, index, timeout=60, heartbeat=10)
    resnet_parts = resnet()  # not before: it uses a device
    found = leaves(trained(resnet_parts[1], 13, parallel.mesh()))
    np.savez(folder / f"resnet_{index}.npz", **found)


def pair(folder: Path, index: int, port: int, epochs: int, pause: float) -> None:
    """A run of fit in one of two processes, that talks after each batch."""
    from reprojax.training import parallel

    parallel.start(f"127.0.0.1:{port}", 2, index, timeout=60, heartbeat=10)
    import fitting
    import jax
    from safetensors.numpy import save_file

    from reprojax.data import order

    mesh, batch = parallel.mesh(), order.batch

    def talking(*args: Any) -> Any:
        print("step", args[3], flush=True)
        time.sleep(pause)
        return batch(*args)

    order.batch = talking
    fitted = fitting.train(
        mesh=mesh, epochs=epochs, out=folder / "run", resume=True, program=rich()
    )
    values = leaves(fitted[:2]) | {"curves": fitted.curves}
    values |= {name: np.array(v) for name, v in fitted.score.items()}
    np.savez(folder / f"process_{index}.npz", **values)

    # A file straight onto the mesh, by halves: each process reads its own.
    wide = parallel.mesh(model=2, devices=_across())
    table = np.arange(64 * 16, dtype=np.float32).reshape(64, 16)
    path = folder / f"weights_{index}.safetensors"
    save_file({"a/kernel": table, "a/bias": table[0]}, path)
    P = jax.sharding.PartitionSpec
    tree = parallel.load_sharded(path, wide, {"*/kernel": P("model")})
    rows = {"rows": np.asarray(tree["a"]["kernel"].addressable_shards[0].data)}
    np.savez(folder / f"loaded_{index}.npz", **rows)


def _across() -> list[Any]:
    """Devices in such an order that each process has one half of "model"."""
    import jax

    by = [[d for d in jax.devices() if d.process_index == i] for i in range(2)]
    return [d for both in zip(*by, strict=True) for d in both]


def rich() -> Any:
    """With all that a state holds: random first params, a map, running averages."""
    import fitting
    from jax.nn.initializers import normal

    from reprojax import reprogram
    from reprojax.alignments import bayesian
    from reprojax.core import chain
    from reprojax.formats import learnable
    from reprojax.operators import add

    prompt = chain(prompt=add(learnable(normal(0.1))))
    at = {"normalized": prompt, "output": bayesian(fitting.TARGETS)}
    return reprogram(fitting.FORWARD, at)


if __name__ == "__main__":
    die_with_parent()
    what, place = sys.argv[1], Path(sys.argv[2])
    if what == "sleep":
        print("asleep", flush=True)
        time.sleep(60)
    elif what == "eight":
        resnet_parts = resnet()
        eight(place)
    elif what == "resnet":
        resnet_pair(place, *map(int, sys.argv[3:5]))
    else:
        pair(place, *map(int, sys.argv[3:6]), float(sys.argv[6]))
