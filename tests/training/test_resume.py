"""A run that was stopped goes on to the same bits: signals, kills, full disks, damage.

Run as a script, this file is the training that gets killed.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fitting
import optax
import pytest
from fitting import Average, outcome
from jax.nn.initializers import normal, zeros

from reprojax import reprogram
from reprojax.alignments import bayesian
from reprojax.core import chain
from reprojax.data import order
from reprojax.formats import learnable, subspace
from reprojax.operators import add, dropout, network
from reprojax.saving.checkpoints import Checkpoints
from reprojax.training.loop import Fitted

ROOT = Path(__file__).parents[2]
STEPS = 3  # an epoch
ADAM = optax.adam(optax.exponential_decay(0.05, 4, 0.9))
# Everything that a state holds: random first params, dropout, running averages, a map.
RICH = reprogram(
    fitting.FORWARD,
    {
        "normalized": chain(
            prompt=add(learnable(normal(0.1))),
            net=network(Average()),
            drop=dropout(0.2),
        ),
        "output": bayesian(fitting.TARGETS),
    },
)


def train(out: Path | None = None, epochs: int = 3, **changes: Any) -> Fitted:
    settings = {"program": RICH, "optimizer": ADAM, "seed": 4, "resume": True}
    return fitting.train(out=out, epochs=epochs, **(settings | changes))


def steps_in(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit())


# -- in one process


def test_a_run_stopped_after_every_step_ends_in_the_same_bits(tmp_path, monkeypatch):
    whole = outcome(train())
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "due", lambda self, step: True)
        patch.setattr(Checkpoints, "stopping", True)
        for step in range(1, 3 * STEPS + 1):
            with pytest.raises(SystemExit, match=f"stopped at step {step}; saved in /"):
                train(tmp_path)
            assert steps_in(tmp_path)[-1] == step
    assert outcome(train(tmp_path)) == whole


def test_a_finished_run_is_read_and_not_trained_again(tmp_path, monkeypatch):
    whole = outcome(train(tmp_path))
    never = lambda *given: pytest.fail("a step was made")
    monkeypatch.setattr("reprojax.training.loop.train_step", never)
    again = train(tmp_path)
    assert outcome(again) == whole
    assert again.seconds_per_step != again.seconds_per_step  # nothing was timed


def test_without_a_folder_a_signal_stops_and_says_that_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(Checkpoints, "due", lambda self, step: True)
    monkeypatch.setattr(Checkpoints, "stopping", True)
    with pytest.raises(
        SystemExit, match=r"stopped at step 1; nothing saved \(no out=\)"
    ):
        train()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"seed": 5}, "seed: got 5, expected 4"),
        ({"epochs": 2}, "epochs: got 2, expected 3"),
        ({"refresh": "exact"}, "refresh: got exact, expected epoch"),
        (
            {"identity": {"learning_rate": 0.2}},
            "identity.learning_rate: got 0.2, expected nothing",
        ),
        (
            {"task": fitting.TASK._replace(test=fitting.split(5, 9))},
            r"data: got [0-9a-f]{64}, expected [0-9a-f]{64}",
        ),
    ],
)
def test_another_configuration_is_refused_by_its_key(finished, change, line):
    folder, whole = finished
    for resume in (True, False):
        with pytest.raises(ValueError, match=f"holds another run:\n  {line}\nchoose"):
            train(folder, **change, resume=resume)
    assert outcome(train(folder)) == whole


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, tuple]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, outcome(train(folder))


def test_a_folder_with_a_run_is_not_overwritten(finished):
    folder, whole = finished
    with pytest.raises(ValueError, match="already holds this run; resume it"):
        train(folder, resume=False)
    assert outcome(train(folder)) == whole


def test_another_state_is_refused_leaf_by_leaf(finished, monkeypatch):
    """Should two programs ever have one identity."""
    folder, whole = finished
    with monkeypatch.context() as patch:
        patch.setattr("reprojax.saving.checkpoints.claim", lambda *given: None)
        line = r"of another state(.|\n)*\.opt\[0\]\.trace"
        with pytest.raises(ValueError, match=line):
            train(folder, optimizer=optax.sgd(0.1, momentum=0.9))
        line = r"\.params\.learnable\['normalized'\].*got"
        with pytest.raises(ValueError, match=line):
            train(folder, program=fitting.PROGRAM)
    assert outcome(train(folder)) == whole


# orbax leaves tasks behind when it cannot read
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    whole = outcome(train(tmp_path))
    assert steps_in(tmp_path) == [6, 9]
    files = [p for p in (tmp_path / "checkpoints" / "9").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="resuming from step 6: other checkpoints"):
        assert outcome(train(tmp_path)) == whole
    assert steps_in(tmp_path) == [6, 9]


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """The system refuses files beyond so many bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_and_the_checkpoint_before_goes_on(tmp_path, monkeypatch):
    # Its matrix makes a file of more than a megabyte.
    prompt = subspace(3000, learnable(zeros))
    at = {"normalized": add(prompt), "output": bayesian(fitting.TARGETS)}
    large = {"program": reprogram(fitting.FORWARD, at), "epochs": 4}
    whole = outcome(train(**large))
    save = Checkpoints.save

    def limited(self: Checkpoints, step: int, state: Any) -> None:
        if step < 3 * STEPS:
            return save(self, step, state)
        self.wait()
        with small_files(10**6):
            save(self, step, state)
            self.wait()

    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(Checkpoints, "save", limited)
        train(tmp_path, **large)
    assert f"disk full while saving step 9; step 6 is whole in {tmp_path}" in str(
        caught.value
    )
    assert steps_in(tmp_path) == [3, 6]
    assert outcome(train(tmp_path, **large)) == whole


# -- in processes that end


@contextmanager
def started(folder: Path, epochs: int, pause: float) -> Iterator[subprocess.Popen]:
    """The training in a process of its own, with a line for each of its steps."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(epochs), str(pause)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    """Until it begins with its `step`th step, counted from where it went on."""
    assert process.stdout is not None
    for _ in range(step):
        if not process.stdout.readline():
            raise AssertionError(process.communicate()[1])


def test_sigterm_saves_and_leaves(tmp_path):
    with started(tmp_path, epochs=20, pause=0.2) as process:
        wait_for_step(process, 5)
        process.send_signal(signal.SIGTERM)
        error = process.communicate()[1]
    step = max(steps_in(tmp_path))
    assert 5 <= step < 20 * STEPS
    assert process.returncode == 1
    assert f"stopped at step {step}; saved in {tmp_path}" in error
    assert outcome(train(tmp_path, epochs=20)) == outcome(train(epochs=20))


def kill_and_resume(folder: Path, kills: int, epochs: int, seed: int) -> None:
    draw, newest = random.Random(seed), 0
    for _ in range(kills):
        with started(folder, epochs, pause=0.0) as process:
            wait_for_step(process, 2 * STEPS + 1)  # a save is complete, another runs
            time.sleep(draw.uniform(0.0, 0.6))
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        before, newest = newest, max(steps_in(folder))
        assert before < newest < epochs * STEPS  # nothing that was saved is lost
    assert outcome(train(folder, epochs=epochs)) == outcome(train(epochs=epochs))


def test_killed_twice_a_run_ends_in_the_same_bits(tmp_path):
    kill_and_resume(tmp_path, kills=2, epochs=60, seed=0)


@pytest.mark.slow
def test_killed_twenty_times_a_run_ends_in_the_same_bits(tmp_path):
    kill_and_resume(tmp_path, kills=20, epochs=500, seed=1)


def talking(batch: Callable, pause: float) -> Callable:
    def run(*args: Any) -> Any:
        print("step", args[3], flush=True)
        time.sleep(pause)
        return batch(*args)

    return run


if __name__ == "__main__":
    order.batch = talking(order.batch, float(sys.argv[3]))
    train(Path(sys.argv[1]), int(sys.argv[2]))
