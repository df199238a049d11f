"""Checkpoints are tested by what may happen to them: kills, flipped bits, full disks.

Run as a script, this file is the training that gets killed.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from reprojax.core import Params
from reprojax.saving.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
RUN = {"method": "toy", "seed": 3, "betas": (0.9, 0.99)}
optimizer = optax.adam(0.1)


class State(NamedTuple):
    params: Params
    opt: Any
    key: jax.Array
    step: jax.Array
    counts: dict
    best: dict


def begin() -> State:
    key = jax.random.key(3)
    learnable = {
        "block_0/attn:in": (jax.random.normal(key, (3, 2)), ()),
        "input": jnp.full(4, 0.1, jnp.bfloat16),
    }
    params = Params(learnable, {"output": [jnp.arange(5)], "empty": {}})
    best = {"params": learnable, "better": jnp.array(False)}
    zero = jnp.zeros((), jnp.int32)
    opt = optimizer.init(learnable)
    return State(params, opt, key, zero, {"seen": jnp.zeros((2, 2))}, best)


@jax.jit
def advance(state: State) -> State:
    """One step that depends on everything in the state."""
    key, now = jax.random.split(state.key)
    old = state.params.learnable
    noise = jax.random.normal(now, ())
    gradient = jax.tree.map(lambda a: jnp.sin(a) + noise.astype(a.dtype), old)
    updates, opt = optimizer.update(gradient, state.opt)
    params = state.params._replace(learnable=optax.apply_updates(old, updates))
    counts = {"seen": state.counts["seen"] + noise}
    best = {"params": old, "better": noise > 0}
    return State(params, opt, key, state.step + 1, counts, best)


def advanced(state: State, steps: int) -> State:
    for _ in range(steps):
        state = advance(state)
    return state


def bits(tree: Any) -> list[tuple]:
    """Everything about the leaves: path, dtype, shape and bytes."""
    out = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(leaf) if keys else leaf)
        out.append((path, str(leaf.dtype), leaf.shape, data.tobytes()))
    return out


def train(folder: Path, steps: int, every: int, pause: float = 0.0) -> State:
    with Checkpoints(folder, RUN, resume=True) as kept:
        state = kept.latest(begin) or begin()
        first = int(state.step)
        for step in range(first, steps):
            state = advance(state)
            time.sleep(pause)
            if kept.due(step + 1) or (step + 1) % every == 0:
                kept.save(step + 1, state)
                if step == first:
                    kept.wait()
                if kept.stopping:
                    break
            print("step", step + 1, flush=True)
    return state


def start(folder: Path, every: int, pause: float) -> subprocess.Popen:
    """The training in another process, once it has done its first step."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(every), str(pause)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("step")
    return process


def steps_in(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())


def kill_and_resume(folder: Path, kills: int, seed: int) -> int:
    """Kill a run at random moments; how many kills found a save half done."""
    draw, torn, newest = random.Random(seed), 0, 0
    for _ in range(kills):
        process = start(folder, every=1, pause=0.0)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before, newest = newest, steps_in(folder)[-1]
        assert newest > before  # nothing saved is ever lost
        torn += bool(list(folder.glob("checkpoints/*tmp*")))
    final = train(folder, newest + 3, every=1)
    assert bits(final) == bits(advanced(begin(), newest + 3))
    assert not list(folder.glob("checkpoints/*tmp*"))
    return torn


def test_killed_twice_the_bits_are_those_of_an_uninterrupted_run(tmp_path):
    kill_and_resume(tmp_path / "run", kills=2, seed=0)


@pytest.mark.slow
def test_killed_twenty_times_the_bits_are_those_of_an_uninterrupted_run(tmp_path):
    assert kill_and_resume(tmp_path / "run", kills=20, seed=1) > 0


def test_sigterm_saves_and_leaves(tmp_path):
    process = start(tmp_path, every=10**9, pause=0.02)
    assert steps_in(tmp_path) == []
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 0
    (step,) = steps_in(tmp_path)
    assert step > 1
    final = train(tmp_path, step + 2, every=1)
    assert bits(final) == bits(advanced(begin(), step + 2))


def test_sigterm_is_heard_inside_alone(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        with Checkpoints(None, {}) as kept:
            assert not kept.due(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert kept.stopping and kept.due(1) and not heard
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [1]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_may_keep_checkpoints(tmp_path):
    thread = threading.Thread(target=train, args=(tmp_path, 2, 1))
    thread.start()
    thread.join()
    assert steps_in(tmp_path) == [1, 2]


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Checkpoints(None, RUN, resume=True) as kept:
        assert kept.latest(begin) is None
        kept.save(1, begin())
        assert kept.steps == []
    assert not list(tmp_path.iterdir())


def test_a_save_is_due_after_a_while(monkeypatch):
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("reprojax.saving.checkpoints.time", clock)
    with Checkpoints(None, RUN, minutes=2.0) as kept:
        now[0] += 119
        assert not kept.due(1)
        now[0] += 2
        assert kept.due(1)
        kept.save(1, begin())
        assert not kept.due(1)


def saved(folder: Path, *steps: int, **options: Any) -> Path:
    with Checkpoints(folder, RUN, **options) as kept:
        for step in steps:
            kept.save(step, advanced(begin(), step))
    return folder


def resumed(folder: Path, like: Any = begin) -> Any:
    with Checkpoints(folder, RUN, resume=True) as kept:
        return kept.latest(like)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = advanced(begin(), 4)
    saved(tmp_path, 4)
    for like in (begin, jax.eval_shape(begin), begin()):
        back = resumed(tmp_path, like)
        assert jax.tree.structure(back) == jax.tree.structure(state)
        assert bits(back) == bits(state)
    assert not any(leaf.committed for leaf in jax.tree.leaves(back))


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "int32", "uint32", "float16", "bfloat16"]
)
def test_dtypes_and_numpy_arrays_come_back(tmp_path, dtype):
    state = {
        "jax": jnp.arange(6).astype(dtype),
        "numpy": np.arange(6, dtype=np.int64) << 40,
        "keys": jax.random.split(jax.random.key(0, impl="rbg"), 2),
    }
    with Checkpoints(tmp_path, RUN) as kept:
        kept.save(1, state)
        state["numpy"] += 1  # a save is not changed by what happens next
    back = resumed(tmp_path, state)
    state["numpy"] -= 1
    assert isinstance(back["numpy"], np.ndarray)
    assert bits(back) == bits(state)


def test_a_state_given_away_to_the_next_step_is_saved_as_it_was(tmp_path):
    def step(a):
        return a * 1.01 + 1

    generous = jax.jit(step, donate_argnums=0)
    a = jnp.ones(1_000_000)
    with Checkpoints(tmp_path, RUN) as kept:
        a = generous(a)
        expected = np.array(a)
        kept.save(1, {"a": a})
        for _ in range(10):
            a = generous(a)
    np.testing.assert_array_equal(resumed(tmp_path, {"a": a})["a"], expected)


def test_shardings_are_those_of_the_example(tmp_path):
    saved(tmp_path, 1)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    back = resumed(tmp_path, jax.device_put(begin(), everywhere))
    for leaf in jax.tree.leaves(back):
        assert isinstance(leaf.sharding, NamedSharding)
        assert leaf.sharding.is_equivalent_to(everywhere, leaf.ndim)
    assert bits(back) == bits(advanced(begin(), 1))


def test_the_newest_are_kept(tmp_path):
    assert steps_in(saved(tmp_path / "two", 1, 2, 3, 4)) == [3, 4]
    assert steps_in(saved(tmp_path / "three", 1, 2, 3, 4, keep=3)) == [2, 3, 4]
    with pytest.raises(ValueError, match="keep=0, expected at least 1"):
        Checkpoints(tmp_path, RUN, keep=0)


def test_the_same_state_twice_is_saved_once_and_steps_only_rise(tmp_path):
    with Checkpoints(tmp_path, RUN) as kept:
        kept.save(3, advanced(begin(), 3))
        kept.save(3, advanced(begin(), 3))
        for step in (3, 2):
            with pytest.raises(ValueError, match="has step 3; expected a later one"):
                kept.save(step, advanced(begin(), 2))
    with Checkpoints(tmp_path, RUN, resume=True) as kept:
        with pytest.raises(ValueError, match=r"begin with latest\(\)"):
            kept.save(1, begin())
        state = kept.latest(begin)
        kept.save(3, state)
        kept.save(4, advance(state))
    assert steps_in(tmp_path) == [3, 4]


def test_leaves_that_are_no_arrays_are_all_named(tmp_path):
    state = {"a": 1.5, "b": jnp.zeros((0, 3)), "c": jnp.ones(2), "d": "text"}
    with Checkpoints(tmp_path, RUN) as kept:
        with pytest.raises(ValueError) as caught:
            kept.save(1, state)
    for line in ("['a']: 1.5", "['b']: float32[0, 3]", "['d']: 'text'"):
        assert line in str(caught.value)
    assert "['c']" not in str(caught.value)


def test_a_folder_holds_one_run(tmp_path):
    folder = saved(tmp_path / "deep" / "run", 1)
    before = (folder / "identity.json").read_bytes()
    assert json.loads(before) == RUN | {"betas": [0.9, 0.99]}
    with pytest.raises(ValueError, match=r"already holds this run; resume it"):
        saved(folder, 2)
    other = {"method": "toy", "seed": 4, "epochs": 2, "betas": [0.9, 0.99]}
    for resume in (True, False):
        with pytest.raises(ValueError, match="holds another run") as caught:
            Checkpoints(folder, other, resume=resume).__enter__()
        assert "seed: got 4, expected 3" in str(caught.value)
        assert "epochs: got 2, expected nothing" in str(caught.value)
        assert "method" not in str(caught.value)
    assert (folder / "identity.json").read_bytes() == before
    assert bits(resumed(folder)) == bits(advanced(begin(), 1))


def test_an_unknown_owner_is_refused(tmp_path):
    folder = saved(tmp_path, 1)
    identity = folder / "identity.json"
    identity.write_text(identity.read_text()[:20])
    with pytest.raises(ValueError, match="is damaged"):
        resumed(folder)
    identity.unlink()
    with pytest.raises(ValueError, match="but no identity.json"):
        resumed(folder)
    with pytest.raises(ValueError, match="not JSON"):
        Checkpoints(tmp_path, {"path": Path("a")})


def test_an_empty_folder_resumes_to_a_start(tmp_path):
    assert resumed(tmp_path / "new") is None
    assert resumed(tmp_path / "new") is None


def test_one_writer_at_a_time(tmp_path):
    with Checkpoints(tmp_path, RUN) as kept:
        with pytest.raises(ValueError, match="another run is writing"):
            Checkpoints(tmp_path, RUN, resume=True).__enter__()
        kept.save(1, begin())
    assert resumed(tmp_path) is not None


def test_another_state_is_refused_leaf_by_leaf(tmp_path):
    saved(tmp_path, 1)
    state = begin()
    other = state._replace(
        step=jnp.zeros((), jnp.float32),
        counts={"seen": jnp.zeros((2, 3)), "heard": jnp.zeros(1)},
        best={},
    )
    with pytest.raises(ValueError, match="of another state") as caught:
        resumed(tmp_path, other)
    for line in (
        ".step: got int32[], expected float32[]",
        ".counts['seen']: got float32[2, 2], expected float32[2, 3]",
        ".counts['heard']: got nothing, expected float32[1]",
        ".best['better']: got bool[], expected nothing",
    ):
        assert line in str(caught.value)
    assert steps_in(tmp_path) == [1]


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "flipped early": lambda path: flip(path, 0.3),
    "flipped late": lambda path: flip(path, 0.8),
    "truncated": halve,
    "missing": Path.unlink,
}


# orbax leaves tasks behind when it cannot read
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_anywhere_is_noticed_and_the_state_before_is_used(tmp_path, kind):
    whole = tmp_path / "whole"
    states = {}
    with Checkpoints(whole, RUN) as kept:
        for step in (1, 2):
            big = jax.random.normal(jax.random.key(step), (2000,))
            states[step] = {"big": big, "key": jax.random.key(step)}
            kept.save(step, states[step])
    files = [p for p in (whole / "checkpoints" / "2").rglob("*") if p.is_file()]
    noticed = 0
    for number, path in enumerate(files):
        folder = Path(shutil.copytree(whole, tmp_path / f"{number}"))
        DAMAGE[kind](folder / path.relative_to(whole))
        with pytest.warns() as record:
            warn_once()
            back = resumed(folder, states[1])
        fell = "resuming from step 1" in str(record[-1].message)
        assert bits(back) == bits(states[1 if fell else 2]), path
        noticed += fell
        if fell:
            assert "step 2" in str(record[-1].message)
            assert steps_in(folder) == [1]
            assert len(list((folder / "damaged").glob("2-*/*"))) > 0
            with Checkpoints(folder, RUN, resume=True) as kept:
                assert bits(kept.latest(states[1])) == bits(states[1])
                kept.save(2, states[2])
            assert bits(resumed(folder, states[1])) == bits(states[2])
    assert noticed >= 3


@pytest.mark.parametrize("step", [1, 2])
def test_metadata_that_orbax_refuses_to_open_are_damage_too(tmp_path, step):
    """A flipped bit in a key's name: orbax raises before it opens any step."""
    with Checkpoints(tmp_path, RUN) as kept:
        for s in (1, 2):
            kept.save(s, begin()._replace(step=jnp.asarray(s)))
    (path,) = (tmp_path / "checkpoints" / f"{step}").glob("_CHECKPOINT_METADATA")
    path.write_text(path.read_text().replace('"metrics"', '"letrics"'))
    with pytest.warns(UserWarning, match=f"step {3 - step}: other(?s:.)*step {step}"):
        back = resumed(tmp_path)
    assert int(back.step) == 3 - step and steps_in(tmp_path) == [3 - step]
    (path,) = (tmp_path / "checkpoints" / f"{3 - step}").glob("_CHECKPOINT_METADATA")
    path.write_text(path.read_text().replace('"metrics"', '"letrics"'))
    with pytest.raises(ValueError, match="is whole:\n.*letrics.*\nnothing was removed"):
        resumed(tmp_path)


def warn_once() -> None:
    import warnings

    warnings.warn("so that there is one to record", stacklevel=2)


def test_a_flipped_bit_that_loads_is_caught_by_its_checksum(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2)
    from orbax.checkpoint import v1 as ocp

    load = ocp.training.Checkpointer.load

    def wrong(self, step, like):
        state = load(self, step, like)
        return state._replace(step=state.step ^ 1) if step == 2 else state

    monkeypatch.setattr(ocp.training.Checkpointer, "load", wrong)
    with pytest.warns(UserWarning, match=r"other numbers than were saved in \.step"):
        back = resumed(tmp_path)
    assert bits(back) == bits(advanced(begin(), 1))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_when_all_are_damaged_all_are_named_and_none_is_removed(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        for path in (tmp_path / "checkpoints" / f"{step}").rglob("*"):
            if path.is_file():
                halve(path)
    with pytest.raises(ValueError, match="no checkpoint in .* is whole") as caught:
        resumed(tmp_path)
    assert "step 2: " in str(caught.value) and "step 1: " in str(caught.value)
    assert steps_in(tmp_path) == [1, 2]


@pytest.fixture(params=["small disk", "small files"])
def room(request, tmp_path):
    """A folder where few MB fit, and a function that makes room."""
    if request.param == "small disk":
        mount = ["mount", "-t", "tmpfs", "-o", "size=6M", "none", str(tmp_path)]
        if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
            more = ["mount", "-o", "remount,size=60M", str(tmp_path)]
            yield tmp_path, lambda: subprocess.run(more, check=True)
            subprocess.run(["umount", str(tmp_path)], check=True)
            return
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(bytes_: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))

    limit(2_000_000)  # without the right to mount: files of at most 2 MB
    yield tmp_path, lambda: limit(soft)
    limit(soft)


def noise(megabytes: float, seed: int) -> dict[str, jax.Array]:
    size = int(megabytes * 250_000)
    return {"noise": jax.random.normal(jax.random.key(seed), (size,))}


def test_a_full_disk_stops_and_loses_nothing(room):
    folder, make_room = room
    with Checkpoints(folder, RUN) as kept:
        kept.save(1, noise(1.2, 1))
        kept.save(2, noise(1.2, 2))
        kept.wait()
        kept.save(3, noise(8, 3))
        with pytest.raises(OSError, match="disk full while saving step 3") as caught:
            kept.wait()
        assert f"step 2 is whole in {folder}; free space and" in str(caught.value)
        assert kept.steps == [1, 2]
    assert bits(resumed(folder, noise(1.2, 0))) == bits(noise(1.2, 2))
    with pytest.raises(OSError, match="disk full while saving step 3"):
        with Checkpoints(folder, RUN, resume=True) as kept:
            kept.save(3, noise(8, 3))
    with pytest.raises(ZeroDivisionError) as caught:
        with Checkpoints(folder, RUN, resume=True) as kept:
            kept.save(3, noise(8, 3))
            raise ZeroDivisionError
    assert "disk full" in caught.value.__notes__[0]
    with pytest.raises(OSError, match="disk full while saving step 3"):
        with Checkpoints(folder, RUN, resume=True) as kept:
            kept.save(3, noise(8, 3))
            raise SystemExit("all is saved")
    make_room()
    with Checkpoints(folder, RUN, resume=True) as kept:
        kept.save(3, noise(8, 3))
    assert steps_in(folder) == [2, 3]
    assert bits(resumed(folder, noise(8, 0))) == bits(noise(8, 3))


def test_a_save_that_fails_otherwise_says_what_is_left(tmp_path):
    with Checkpoints(tmp_path, RUN) as kept:
        kept.save(1, begin())
        kept.wait()
        response = kept._orbax.save_async

        def fail(*args, **options):
            raise RuntimeError("the cable was cut")

        kept._orbax.save_async = fail
        with pytest.raises(OSError, match="saving step 2 failed; step 1 is whole"):
            kept.save(2, advance(begin()))
        assert kept._orbax.save_async != response
        kept.save(2, advance(begin()))
    assert steps_in(tmp_path) == [1, 2]


if __name__ == "__main__":
    train(Path(sys.argv[1]), 10**6, int(sys.argv[2]), float(sys.argv[3]))
