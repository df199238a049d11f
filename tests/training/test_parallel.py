"""One device, many, and several processes give the same numbers.

What needs more devices than one runs in `devices`, once for all tests here.
"""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import devices
import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, PROGRAM, TASK, outcome, train
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import save_file

from reprojax import record, reprogram
from reprojax.alignments import linear
from reprojax.core import chain
from reprojax.data import Split, in_order
from reprojax.formats import learnable
from reprojax.operators import add, dropout
from reprojax.training import parallel, steps
from reprojax.training.caches import cached

ROOT = Path(__file__).parents[2]
MESH = parallel.mesh()


def read(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path))


def near(found: dict, expected: dict, tolerance: float = 1e-6) -> None:
    """Every leaf; those that count, to the bit."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        if ".sums" in name or "step" in name or "key" in name:
            np.testing.assert_array_equal(found[name], value, name)
        np.testing.assert_allclose(
            found[name], value, rtol=tolerance, atol=tolerance, err_msg=name
        )


# -- eight devices


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eight")
    with devices.started([["eight", folder]], devices=8) as processes:
        devices.finish(processes)
    return folder


@pytest.mark.parametrize("batch", [16, 13])
def test_eight_devices_equal_one(eight, batch):
    one = read(eight / f"one_{batch}.npz")
    near(read(eight / f"eight_{batch}.npz"), one)
    assert np.abs(one[".params.learnable['normalized']['prompt']"]).max() > 3e-4
    assert one[".sums['output']"].sum() == {16: 320, 13: 160 + 7 * 13}[batch]


@pytest.mark.parametrize("how", ["pmap", "shard_map"])
def test_the_documented_pmap_and_shard_map_equal_one_device(eight, how):
    one, found = read(eight / "one_13.npz"), read(eight / f"{how}_13.npz")
    np.testing.assert_array_equal(found.pop("counts"), one[".sums['output']"])
    near(found, {name: one[f".params{name}"] for name in found})


def test_parts_are_summed_over_devices_once(eight):
    found = read(eight / "parts.npz")
    assert found.pop("whole") == found.pop("outside") >= 1
    near(found, read(eight / "parts_one.npz"))


def test_sharded_frozen_weights_equal_one_device_and_are_held_in_parts(eight):
    """Step by step. A ReLU that rounding moves across 0 gives a few pixels another
    gradient in that step: a wrong sum over devices would in all."""
    one, found = read(eight / "along_13.npz"), read(eight / "sharded_13.npz")
    assert set(found) == set(one)
    far = []
    for i in range(21):
        pairs = {name: (found[name][i], value[i]) for name, value in one.items()}
        for name, (a, b) in pairs.items():
            if ".sums" in name or "key" in name or a.dtype.kind != "f":
                np.testing.assert_array_equal(a, b, name)
        floats = [(a, b) for a, b in pairs.values() if a.dtype.kind == "f"]
        each = (np.abs(a - b) / (1e-6 * (1 + np.abs(b))) for a, b in floats)
        far.append(max(float(e.max(initial=0)) for e in each))
    assert sum(e > 1 for e in far) <= 2 and max(far) < 10, far
    held, whole = read(eight / "bytes.npz").values()
    assert held < 0.27 * whole  # a quarter, and what is replicated


def test_texts_over_eight_devices_equal_one(eight):
    """As near as one device is that takes its rows one by one: how far that is, the CPU
    decides by how it rounds."""
    one, parts, found = (
        read(eight / f"words_{n}.npz") for n in ("one", "parts", "eight")
    )
    assert set(found) == set(one)
    for name, value in one.items():
        rounded = np.abs(parts[name] - value).max()
        assert rounded < 1e-4 * np.abs(value).max()
        bound = 1e-6 + 4 * rounded
        np.testing.assert_allclose(found[name], value, 1e-6, bound, err_msg=name)
    assert one["curves"][0, 0] > 1.01 * one["curves"][-1, 0]


def test_the_state_stays_replicated(eight):
    assert read(eight / "lies.npz")["replicated"].all()


# -- two processes


@pytest.mark.slow
def test_two_processes_equal_one_on_resnet20(eight):
    port = devices.free_port()
    commands = [["resnet", eight, i, port] for i in range(2)]
    with devices.started(commands, devices=4) as processes:
        devices.finish(processes)
    for i in range(2):
        near(read(eight / f"resnet_{i}.npz"), read(eight / "one_13.npz"))


def test_two_processes_equal_one_and_each_reads_its_own(tmp_path):
    with devices.two(tmp_path) as processes:
        devices.finish(processes)
    fitted = train(program=devices.rich())
    one = devices.leaves(fitted[:2]) | {"curves": fitted.curves}
    one |= {name: np.array(value) for name, value in fitted.score.items()}
    for index in range(2):
        near(read(tmp_path / f"process_{index}.npz"), one)
        half = np.arange(64 * 16, dtype=np.float32).reshape(2, 32, 16)[index]
        np.testing.assert_array_equal(
            read(tmp_path / f"loaded_{index}.npz")["rows"], half
        )


def wait_for(process: subprocess.Popen, line: str) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith(line):
            return
    raise AssertionError(f"{line!r} never came")


def saved(folder: Path) -> list[int]:
    found = (folder / "run" / "checkpoints").glob("*")
    return sorted(int(p.name) for p in found if p.name.isdecimal())


def whole_run(folder: Path, epochs: int) -> None:
    """Two processes go on in the folder, and end as one process alone does."""
    with devices.two(folder, epochs) as processes:
        devices.finish(processes)
    fitted = train(program=devices.rich(), epochs=epochs)
    found = read(folder / "process_0.npz")
    expected = devices.leaves(fitted[:2])
    near({name: found[name] for name in expected}, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_other_and_a_restart_goes_on(tmp_path, killed):
    with devices.two(tmp_path, epochs=8, pause=0.3) as processes:
        wait_for(processes[killed], "step 10")
        processes[killed].kill()
        other = processes[1 - killed]
        begun = time.monotonic()
        other.communicate(timeout=60)
        assert other.returncode not in (0, None)
        assert time.monotonic() - begun < 40
    assert saved(tmp_path)[-1] == 9
    whole_run(tmp_path, epochs=8)


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_preemption_of_one_saves_in_all_at_one_step(tmp_path, told):
    with devices.two(tmp_path, epochs=40, pause=0.2) as processes:
        wait_for(processes[told], "step 4")
        processes[told].send_signal(signal.SIGTERM)
        out = [process.communicate(timeout=60)[0] for process in processes]
    step = saved(tmp_path)[-1]
    assert 4 < step < 110
    for process, text in zip(processes, out, strict=True):
        assert f"stopped at step {step}; saved in {tmp_path}" in text
        assert process.returncode == 1
    whole_run(tmp_path, epochs=40)


def test_a_launcher_that_is_killed_leaves_no_process_behind(tmp_path):
    code = (
        "import sys, time, devices\n"
        "with devices.started([['sleep', '.']], 1) as ps:\n"
        "    ps[0].stdout.readline()\n"
        "    print(ps[0].pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    launcher = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT / "tests",
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    launcher.kill()
    launcher.communicate()
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} outlived its launcher")


# -- in this process


def test_a_mesh_of_one_device_gives_what_no_mesh_gives():
    alone = train()
    fitted = train(mesh=MESH)
    near(devices.leaves(fitted[:2]), devices.leaves(alone[:2]))
    assert fitted.score == alone.score
    wide = train(mesh=parallel.mesh(model=1), refresh="exact")
    near(devices.leaves(wide[:2]), devices.leaves(train(refresh="exact")[:2]))


def test_a_run_on_a_mesh_resumes_to_the_same_bits(tmp_path, monkeypatch):
    whole = outcome(train(mesh=MESH))
    with monkeypatch.context() as patch:
        patch.setattr(steps.Clock, "tick", ends_at(5))
        with pytest.raises(KeyboardInterrupt):
            train(mesh=MESH, out=tmp_path)
    assert outcome(train(mesh=MESH, out=tmp_path, resume=True)) == whole


def ends_at(step: int) -> Any:
    def tick(self: Any, now: jax.Array, stop: bool) -> None:
        if int(now) == step:
            raise KeyboardInterrupt

    return tick


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("batch", [4, 7])
def test_accumulation_is_the_whole_batch(parts, batch):
    whole = train(batch=batch)
    for mesh in (None, MESH):
        found = train(batch=batch, accumulate=parts, mesh=mesh)
        near(devices.leaves(found[:2]), devices.leaves(whole[:2]))
        np.testing.assert_allclose(found.curves, whole.curves, rtol=1e-6)


def test_accumulation_sums_counts_and_each_part_draws_its_own():
    drops = chain(prompt=add(learnable(jnp.ones((8, 8, 3)))), drop=dropout(0.5))
    at = {"normalized": drops, "output": linear(3)}
    program = reprogram(fitting.FORWARD, at)
    both = [train(program=program, accumulate=n, epochs=1) for n in (1, 2)]
    assert outcome(both[1]) == outcome(train(program=program, accumulate=2, epochs=1))
    assert outcome(both[0]) != outcome(both[1])


def temporary(accumulate: int) -> int:
    images = jax.ShapeDtypeStruct((256, 8, 8, 3), np.uint8)
    labels = jax.ShapeDtypeStruct((256,), np.int32)
    state = jax.eval_shape(
        lambda: steps.begin(PROGRAM, fitting.SGD, FROZEN, images, 0, 1)
    )
    from reprojax.training.losses import cross_entropy

    args = (PROGRAM, fitting.SGD, cross_entropy, (), state, FROZEN, images, labels)
    lowered = steps.train_step.lower(*args, accumulate=accumulate)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def test_accumulation_takes_less_memory():
    assert temporary(8) < 0.35 * temporary(1)


def test_bfloat16_weights_with_float32_params(tmp_path):
    frozen = parallel.cast(FROZEN)
    assert {a.dtype for a in jax.tree.leaves(frozen)} == {jnp.dtype(jnp.bfloat16)}
    params = PROGRAM.init(jax.random.key(0), frozen, TASK.train.x)
    _, seen = record(PROGRAM.apply, ["conv:out", "output"])(
        params, frozen, TASK.train.x
    )
    assert seen["conv:out"].dtype == seen["output"].dtype == jnp.bfloat16
    adam = optax.adam(0.05)
    exact, fitted = (train(frozen=f, optimizer=adam) for f in (FROZEN, frozen))
    assert {a.dtype for a in jax.tree.leaves(fitted[:2])} == {jnp.dtype(jnp.float32)}
    state = steps.begin(PROGRAM, adam, frozen, TASK.train.x, 0, 1)
    floats = [a for a in jax.tree.leaves(state.opt) if a.dtype != jnp.int32]
    assert {a.dtype for a in floats} == {state.loss.dtype} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(fitted.curves[:, 0], exact.curves[:, 0], rtol=0.05)
    half = dict(frozen=frozen, optimizer=adam, out=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.Clock, "tick", ends_at(4))
        with pytest.raises(KeyboardInterrupt):
            train(**half)
    assert outcome(train(**half, resume=True)) == outcome(fitted)


def test_a_profile_is_left(tmp_path):
    folder = tmp_path / "trace"
    fitted = train(profile=folder, epochs=1)
    assert [*folder.rglob("*.xplane.pb")]
    assert outcome(fitted) == outcome(train(epochs=1))


def test_a_profile_of_a_run_that_fails_is_closed(tmp_path):
    broken = lambda seen: jnp.nan * seen.output.sum(-1)
    for _ in range(2):  # a second trace starts only where the first was stopped
        with pytest.raises(ValueError, match="first step is not finite"):
            train(profile=tmp_path, loss=broken)


@pytest.mark.parametrize("mesh", [None, MESH])
def test_a_run_on_cached_values_is_the_run_on_images(tmp_path, mesh):
    at = {"conv:out": add(learnable(jnp.zeros((4, 4, 6)))), "output": linear(3)}
    program = reprogram(fitting.FORWARD, at)
    whole = train(program=program, optimizer=optax.sgd(0.5))
    for folder in (None, tmp_path):
        kept = cached(program, FROZEN, TASK, folder=folder, progress=False)
        given = dict(zip(("program", "frozen", "task"), kept, strict=True))
        found = train(**given, optimizer=optax.sgd(0.5), mesh=mesh)
        near(devices.leaves(found[:2]), devices.leaves(whole[:2]))
    assert (tmp_path / "cache.json").exists()


# -- trees and rows


def test_the_first_rule_that_fits_decides():
    rules = {"*/head/*": P("data"), "*/kernel": P(None, "data")}
    tree = {"params": FROZEN["params"]}
    rules["*/head/*"] = P(None)
    placed = parallel.place(tree, MESH, rules)["params"]
    assert placed["head"]["kernel"].sharding.spec == P(None)
    assert placed["conv"]["kernel"].sharding.spec == P(None, "data")
    assert placed["conv"]["bias"].sharding.spec == P()
    assert fitting.bits(placed) == fitting.bits(FROZEN["params"])


def test_a_file_lies_as_its_rules_say(tmp_path):
    import ml_dtypes

    half = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16)
    stored = {"a/kernel": half, "a/steps": np.array(3), "b.c": np.ones(4, np.float16)}
    save_file(stored, tmp_path / "model.safetensors")
    rules = {"*/kernel": P("data"), "b.*": P()}
    for source in (tmp_path, tmp_path / "model.safetensors"):
        tree = parallel.load_sharded(source, MESH, rules)
        assert tree["a"]["kernel"].sharding == NamedSharding(MESH, P("data"))
        np.testing.assert_array_equal(tree["a"]["kernel"], half)
        assert tree["a"]["kernel"].dtype == jnp.bfloat16 and tree["a"]["steps"] == 3
        assert tree["b.c"].dtype == jnp.float16
    wide = parallel.load_sharded(tmp_path, MESH, dtype=jnp.float32)
    assert wide["b.c"].dtype == wide["a"]["kernel"].dtype == jnp.float32
    assert jnp.issubdtype(wide["a"]["steps"].dtype, jnp.integer)
    save_file({"a": np.array([1, np.nan], np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="holds a with 1 of 2 numbers NaN"):
        parallel.load_sharded(tmp_path, MESH)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="could not be read as safetensors"):
        parallel.load_sharded(tmp_path, MESH)


def test_filling_repeats_real_images_under_no_label():
    split = Split(np.arange(5).reshape(5, 1, 1, 1), np.arange(5))
    ((x, y, _),) = in_order(split, 5, parallel.reader(accumulate=4))
    assert x.ravel().tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert y.tolist() == [0, 1, 2, 3, 4, -1, -1, -1]


def test_a_part_takes_rows_of_every_device():
    parts = parallel.micro_batches(jnp.arange(8), 2)
    assert parts.tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


# -- bad input


def shaped(**axes: int) -> Any:
    """A mesh that is larger than this machine: rules are refused before it is used."""
    kinds = (AxisType.Auto,) * len(axes)
    return jax.sharding.AbstractMesh((*axes.values(),), (*axes,), kinds)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"*/kernl": P()}, r"'\*/kernl' matches no array"),
        ({"*": P(), "*/kernel": P()}, r"'\*/kernel' matches no array"),
        (
            {"*/kernel": P(None, None, None, "model")},
            r"axis 3 of 'params/conv/kernel' \(shape \(3, 3, 3, 6\)\) does not divide "
            "by the 4 devices of mesh axis 'model'",
        ),
        ({"*/conv/*": P("rows")}, "names the mesh axis 'rows', but the mesh has"),
        (
            {"*/bias": P(None, "model")},
            r"has 2 axes .* 'params/conv/bias' has the shape",
        ),
    ],
)
def test_rules_that_do_not_fit_are_refused(unchecked, rules, message):
    with pytest.raises(ValueError, match=message):
        parallel.place(FROZEN, shaped(data=2, model=4), rules)


def test_meshes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="model=3 for 1 devices, expected a divisor"):
        parallel.mesh(model=3)
    explicit = jax.make_mesh((1,), ("data",))
    other = Mesh(np.array(jax.devices()), ("rows",))
    for mesh in (explicit, other):
        with pytest.raises(ValueError, match=r"call parallel.mesh\(\)"):
            train(mesh=mesh)


def test_frozen_weights_on_another_mesh_are_refused(eight):
    error = str(read(eight / "refused.npz")["other_mesh"])
    assert "'params/conv/bias' is on Mesh('data': 4, 'model': 2," in error
    assert "the program runs on Mesh('data': 8," in error
    error = str(read(eight / "refused.npz")["no_mesh"])
    assert "got no mesh, expected the one that they are on" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("127.0.0.1", 2, 0), '"host:port" and two numbers'),
        (("127.0.0.1:1234", 2, None), '"host:port" and two numbers'),
        (("127.0.0.1:1234", 2, 2), "expected 0 to 1"),
        (("127.0.0.1:1234", 2, 0), "before anything that uses a device"),
    ],
)
def test_a_start_that_cannot_be_is_refused(arguments, message):
    jax.devices()
    with pytest.raises(ValueError, match=message):
        parallel.start(*arguments)


def test_an_address_in_use_is_refused():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match="in use.*give all processes another"):
            parallel.start(address, 2, 0)


@pytest.mark.parametrize("accumulate", [0, -1])
def test_fewer_parts_than_one_are_refused(accumulate):
    with pytest.raises(
        ValueError,
        match=f"accumulate={accumulate}, expected a whole number of at least 1",
    ):
        train(accumulate=accumulate)
