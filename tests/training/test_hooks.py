"""What hooks are told, that they change no bit, and how they end a run for good.

The likeliest mistakes: a norm of the wrong tree, a trip to the host in every step, a
run that goes on when it is resumed, lines that stand twice after a kill.
"""

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, PROGRAM, TASK, outcome, train

from reprojax.data import order
from reprojax.saving.checkpoints import Checkpoints
from reprojax.training import hooks, loop, steps
from reprojax.training.losses import cross_entropy
from reprojax.training.steps import begin, estimate, train_step

STEPS = 3


def run(**changes: Any) -> Any:
    return train(**({"seed": 4} | changes))


def test_what_is_told_is_what_a_loop_by_hand_finds():
    told: list[Any] = []
    run(on_step=told.append, on_epoch=told.append, epochs=2)
    x = TASK.train.x[:4]
    state = begin(PROGRAM, fitting.SGD, FROZEN, x, 4, 2)
    state = state._replace(
        params=estimate(PROGRAM, state.params, FROZEN, TASK.train, 4)
    )
    first, found = state.params.learnable, []
    for step in range(STEPS):
        before = state.params.learnable
        rows = order.batch(TASK.train, 4, 4, step)
        state = train_step(
            *(PROGRAM, fitting.SGD, cross_entropy, ()), state, FROZEN, *rows
        )
        update = jax.tree.map(jnp.subtract, state.params.learnable, before)
        away = jax.tree.map(jnp.subtract, state.params.learnable, first)
        norms = [float(optax.tree.norm(tree)) for tree in (update, away)]
        # SGD: the update is the rate times the gradient
        found.append((step + 1, norms[0] / 5.0, *norms))
    kinds = [type(one).__name__ for one in told]
    assert kinds == 2 * (STEPS * ["Step"] + ["Epoch"])
    for one, (step, *norms) in zip(told[:STEPS], found, strict=True):
        assert one.step == step and {*map(type, one[1:])} == {float}
        np.testing.assert_allclose(one[2:], norms, rtol=1e-4)
        assert one.gradient > 0 and one.moved > 0
    epoch = told[STEPS]
    losses = [one.loss for one in told[:STEPS]]
    assert (epoch.epoch, epoch.step) == (1, 3)
    np.testing.assert_allclose(epoch.loss, np.mean(losses), rtol=1e-5)
    assert epoch[4:7] == told[STEPS - 1][2:]
    assert epoch.curves.shape == (1, 5) and told[-1].curves.shape == (2, 5)


def test_the_curves_show_whether_a_prompt_moves():
    moved = run().curves
    assert moved.shape == (3, 5) and (moved[:, 2:] > 0).all()
    still = run(optimizer=optax.sgd(0.0)).curves
    assert (still[:, 2] > 0).all() and (still[:, 3:] == 0).all()
    lost = run(loss=lambda seen: 0.0 * cross_entropy(seen)).curves
    assert (lost[:, 2:] == 0).all()


def test_hooks_change_no_bit():
    plain = outcome(run())
    assert outcome(run(on_step=lambda told: None, on_epoch=lambda told: None)) == plain
    assert outcome(run(on_step=hooks.every(2, lambda told: True))) == plain


def test_a_step_that_nobody_is_told_of_makes_no_trip_to_the_host(monkeypatch):
    trips, plain = [], loop._plain
    monkeypatch.setattr(loop, "_plain", lambda n: trips.append(1) or plain(n))
    told: list[Any] = []
    run(on_step=hooks.every(4, told.append))
    assert [one.step for one in told] == [4, 8] and len(trips) == 2


# -- early stopping


def ends_after(epoch: int) -> Any:
    return lambda told: told.epoch == epoch


def test_a_run_that_a_hook_ends_is_a_shorter_run():
    ended = run(epochs=5, on_epoch=ends_after(2))
    assert outcome(ended) == outcome(run(epochs=2))


@pytest.mark.usefixtures("unchecked")
def test_a_run_that_was_ended_stays_ended(tmp_path):
    ended = outcome(run(epochs=5, on_epoch=ends_after(2), out=tmp_path))

    def never(told: Any) -> None:
        pytest.fail("a step was made")

    given: dict[str, Any] = {"out": tmp_path, "resume": True}
    for epochs in (5, 9):  # also where it could have had more
        again = run(epochs=epochs, on_step=never, on_epoch=never, **given)
        assert outcome(again) == ended
    assert outcome(run(epochs=9, **given)) == ended


def test_a_run_that_is_killed_ends_where_it_would_have(tmp_path, monkeypatch):
    hook = hooks.patience(2)
    whole = run(epochs=8, on_epoch=hook)
    assert STEPS <= len(whole.curves) < 8
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "due", lambda self, step: True)
        patch.setattr(Checkpoints, "stopping", True)
        for _ in range(5):
            with pytest.raises(SystemExit):
                run(epochs=8, on_epoch=hook, out=tmp_path, resume=True)
    found = run(epochs=8, on_epoch=hook, out=tmp_path, resume=True)
    assert outcome(found) == outcome(whole)


def epoch(*scores: float) -> hooks.Epoch:
    curves = np.zeros((len(scores), 5))
    curves[:, 1] = scores
    count = len(scores)
    return hooks.Epoch(count, 3 * count, 1.0, scores[-1], 0.1, 0.2, 0.3, curves)


def test_patience_counts_from_the_first_of_the_best():
    ends = hooks.patience(2)
    assert not ends(epoch(0.5)) and not ends(epoch(0.5, 0.4))
    assert ends(epoch(0.5, 0.4, 0.5)) and not ends(epoch(0.5, 0.4, 0.6))


def test_all_are_told_and_one_ends():
    told: list[Any] = []
    both = hooks.first_of(ends_after(1), told.append)
    assert both(epoch(0.5)) and not both(epoch(0.5, 0.6)) and len(told) == 2


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"on_step": 3}, "on_step=3, expected a function"),
        ({"on_epoch": [print]}, r"on_epoch=\[.*combine several by hooks.first_of"),
        ({"on_step": hooks.every(0, print)}, r"got every\(0, ...\)"),
    ],
)
def test_what_is_no_hook_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        hooks.checked_hooks(changes.get("on_step"), changes.get("on_epoch"))


# -- adapters


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_of_a_resumed_run_are_those_of_a_whole_one(tmp_path, monkeypatch):
    def logged(name: str, **changes: Any) -> Path:
        path = tmp_path / name
        log = hooks.json_lines(path)
        run(on_step=hooks.every(2, log), on_epoch=log, **changes)
        return path

    whole = lines(logged("deep/whole.jsonl"))
    assert [line["step"] for line in whole] == [2, 3, 4, 6, 6, 8, 9]
    assert [line["kind"] for line in whole][:2] == ["step", "epoch"]
    assert {*whole[1]} == {"kind", "epoch", "step", "loss", "validation"} | {
        *("gradient", "update", "moved")
    }

    real = Checkpoints.save

    def dies(self: Any, step: int, state: Any) -> None:
        if step == 2 * STEPS:
            raise KeyboardInterrupt
        real(self, step, state)

    out: dict[str, Any] = {"out": tmp_path / "run", "resume": True}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", dies)
        logged("log.jsonl", **out)
    path = tmp_path / "log.jsonl"
    assert lines(path)[-1]["step"] == 6  # behind the checkpoint of step 3
    with open(path, "a") as file:
        file.write('{"kind": "st')  # torn by a kill
    logged("log.jsonl", **out)
    assert lines(path) == whole


def test_json_lines_hold_null_for_what_is_not_finite_and_spare_other_files(tmp_path):
    path = tmp_path / "log.jsonl"
    hooks.json_lines(path)(hooks.Step(1, float("nan"), 1.0, float("inf"), 0.0))
    assert lines(path)[0] == {"kind": "step", "step": 1, "loss": None} | {
        "gradient": 1.0,
        "update": None,
        "moved": 0.0,
    }
    (tmp_path / "notes.txt").write_text("mine\n")
    with pytest.raises(ValueError, match="expected lines written by json_lines"):
        hooks.json_lines(tmp_path / "notes.txt")(hooks.Step(1, 1.0, 1.0, 1.0, 1.0))
    assert (tmp_path / "notes.txt").read_text() == "mine\n"


class Writer:
    """What tensorboardX offers."""

    made: list["Writer"] = []

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purged, self.scalars = folder, purge_step, []
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def flush(self) -> None:
        pass


def test_tensorboard_gets_scalars_and_purges_what_comes_again(monkeypatch, tmp_path):
    fake: Any = ModuleType("tensorboardX")
    fake.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    log = hooks.tensorboard(tmp_path)
    log(hooks.Step(7, 1.0, 2.0, 3.0, 4.0))
    log(epoch(0.5, 0.75))
    (writer,) = Writer.made
    assert (writer.folder, writer.purged) == (str(tmp_path), 7)
    assert ("step/loss", 1.0, 7) in writer.scalars
    assert ("epoch/validation", 0.75, 6) in writer.scalars
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match="pip install tensorboardX"):
        hooks.tensorboard(tmp_path)


def test_weights_and_biases_gets_numbers_by_step():
    calls: list[Any] = []
    own = SimpleNamespace(log=lambda values, step: calls.append((values, step)))
    log = hooks.weights_and_biases(own)
    log(hooks.Step(7, 1.0, 2.0, 3.0, 4.0))
    log(epoch(0.5))
    assert calls[0][0]["step/moved"] == 4.0 and calls[0][1] == 7
    assert calls[1][0]["epoch/validation"] == 0.5 and calls[1][1] == 3


def test_the_progress_line_says_whether_it_moves(monkeypatch):
    said: list[Any] = []
    line = SimpleNamespace(update=lambda: None, set_postfix=said.append)
    monkeypatch.setattr(loop, "bar", lambda *given: nullcontext(line))
    run(epochs=1)
    assert {*said[0]} == {"validation", "gradient", "update", "moved"}
    assert steps.Numbers._fields[1:] == ("gradient", "update", "moved")
