"""The protocol of tasks in sequence, on a tiny model.

The wrong variants: a loss that also sees the other tasks' classes; answers among
classes that have not come yet, or of the present task alone; an optimiser that
remembers the last task; images of earlier tasks in training; rows that depend on their
batch.
"""

from functools import cache

import backbones
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.continual import __main__ as command
from experiments.continual import protocol
from experiments.continual.protocol import Plan, Rows
from reprojax import data
from reprojax.core import Params

PLAN = Plan(tasks=3, epochs=2, batch=4, seed=1)
CONFIG = command.Config(tasks=3, train=24, epochs=2, batch=4)
SMALL = {
    "l2p": {"size": 4, "length": 1, "top": 2},
    "dualprompt": {"size": 3, "length": 1, "general": 1},
    "coda-prompt": {"size": 6, "length": 1},
}


@cache
def rows():
    """Images whose features differ by class: (training rows, rows that judge)."""
    draw = np.random.default_rng(0)
    y = np.arange(48) % 6
    x = draw.integers(0, 60, (48, 16, 16, 3)) + 38 * y[:, None, None, None]
    look = command.looking(backbones.transformer())
    task = data.from_arrays(
        x.astype(np.uint8), y, list("abcdef"), name="six", validation=6, test=18
    )
    return protocol.in_order(task, look, seed=3)


def made(name, monkeypatch, rate=0.01):
    monkeypatch.setattr(command, "SIZES", SMALL)
    command.learner.cache_clear()
    return command.learner(name, backbones.transformer(), CONFIG, rate)


def test_the_seed_draws_the_order_of_classes():
    train, judged = rows()
    place = np.argsort(np.random.default_rng(3).permutation(6))
    assert sorted(place) == list(range(6)) and (place != np.arange(6)).any()
    brightness = [train.x[train.y == place[c]].mean() for c in range(6)]
    assert (np.diff(brightness) > 20).all()
    assert len(train.y) == 24 and len(judged.y) == 18


def test_class_means_are_those_by_hand():
    train, judged = rows()
    found = protocol.class_means(train, judged, 3)
    for t in range(3):
        known = [train.features[train.y == c].mean(0) for c in range(2 * t + 2)]
        for i in range(t + 1):
            own = judged.of(range(2 * i, 2 * i + 2))
            right = 0
            for feature, label in zip(own.features, own.y, strict=True):
                apart = [np.linalg.norm(feature - mean) for mean in known]
                right += np.argmin(apart) == label
            assert found[t, i] == right / len(own.y)
        assert np.isnan(found[t, t + 1 :]).all()


@pytest.mark.parametrize("name", [command.SEQUENCE, *SMALL])
def test_a_task_leaves_the_other_classes_alone(name, monkeypatch):
    learner, (train, _) = made(name, monkeypatch), rows()
    rng = np.random.default_rng(0)
    params = protocol.begun(learner, train, PLAN)
    if learner.by_task:
        params = protocol.begin_task(params, 1, jax.random.key(0))
    new = protocol.learnt(learner, params, train, range(2, 4), PLAN, rng)
    head = new.learnable["output"]
    head = head.get("head", head)
    head = head.get("head", head)
    moved = np.abs(head["kernel"]).max(0)
    assert (moved[2:4] > 0).all() and not moved[[0, 1, 4, 5]].any()
    assert not np.asarray(head["bias"])[[0, 1, 4, 5]].any()
    # answers are among the classes so far, and a row's does not depend on the others
    found = protocol.answers(learner, new, train, range(4), size=24)
    assert set(found) <= {0, 1, 2, 3}
    again = protocol.answers(
        learner, new, train.at(np.arange(23, -1, -1)), range(4), 24
    )
    np.testing.assert_array_equal(again[::-1], found)


def test_a_run_in_sequence_is_its_tasks_one_by_one(monkeypatch):
    learner, (train, judged) = made(command.SEQUENCE, monkeypatch, 0.03), rows()
    found = protocol.in_sequence(learner, train, judged, PLAN)
    kernel, bias, rng = np.zeros((16, 6)), np.zeros(6), np.random.default_rng(1)
    for t in range(3):
        own = train.of(range(2 * t, 2 * t + 2))
        rng.integers(2**31)
        m = v = np.zeros((17, 6))
        for step in range(2 * 2):
            if step % 2 == 0:
                order = rng.permutation(8).reshape(2, 4)
            some = order[step % 2]
            x = np.c_[own.features[some], np.ones(4)]
            y = x @ np.r_[kernel, bias[None]]
            y[:, [c for c in range(6) if c // 2 != t]] = -np.inf
            share = np.exp(y - y.max(1, keepdims=True))
            share = share / share.sum(1, keepdims=True)
            slope = x.T @ (share - np.eye(6)[own.y[some]]) / 4
            m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
            size = m / (1 - 0.9 ** (step + 1))
            size = size / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
            kernel, bias = kernel - 0.03 * size[:16], bias - 0.03 * size[16]
        known = judged.of(range(2 * t + 2))
        said = (known.features @ kernel + bias)[:, : 2 * t + 2].argmax(1)
        for i in range(t + 1):
            wanted = (said == known.y)[known.y // 2 == i].mean()
            np.testing.assert_allclose(found[t, i], wanted, atol=1e-6)


def test_what_is_measured():
    nan = np.nan
    found = np.array([[0.9, nan, nan], [0.5, 0.8, nan], [0.6, 0.4, 1.0]])
    np.testing.assert_allclose(protocol.final(found), 2 / 3)
    np.testing.assert_allclose(protocol.forgetting(found), (0.3 + 0.4) / 2)


def test_classes_are_opened_by_name():
    fixed = {"input": (), "output": {"head": {"among": jnp.ones(4, bool)}, "mean": ()}}
    found = protocol.opened(Params(fixed=fixed), range(1, 3)).fixed
    assert found["output"]["head"]["among"].tolist() == [False, True, True, False]
    kept = Rows(np.arange(4), np.arange(4), np.array([0, 3, 1, 2])).of(range(1, 3))
    assert kept.x.tolist() == [2, 3]


def test_the_command_keeps_and_prints(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "model_of", lambda size: backbones.transformer())
    drawn, looked = [], []

    def draw(config, seed, split):
        drawn.append(seed)
        assert split == "test"
        return command.Draw(*rows(), seed)

    def judged(name, rate, config, own):
        looked.append((name, own.seed))
        assert (rate > 0) == (name != command.MEANS)
        return np.array([[0.5, np.nan], [0.25 + own.seed / 100, 0.75]])

    monkeypatch.setattr(command, "drawn", draw)
    monkeypatch.setattr(command, "judged", judged)
    config = command.Config(tasks=2, seeds=2, out=tmp_path)
    kept = command.main(config)
    said = capsys.readouterr().out
    assert kept[f"{command.MEANS} 1"] == [[0.5, None], [0.26, 0.75]]
    assert "0.502 ± 0.032" in said
    # each seed's images are looked at once, for all learners
    assert drawn == [0, 1] and len(looked) == len({*looked}) == 12
    monkeypatch.setattr(command, "judged", None)  # all is kept
    own = dict(tasks=2, out=tmp_path)
    again = command.Config(seeds=2, resume=True, **own)
    assert command.main(again) == kept
    with pytest.raises(ValueError, match="already holds this run; resume it"):
        command.main(config)
    for changed in (dict(epochs=5), dict(target="figures"), dict(seeds=1)):
        other = dict(seeds=2, resume=True) | own | changed
        with pytest.raises(ValueError, match=f"(?s)another run.*{[*changed][0]}"):
            command.main(command.Config(**other))
    rates = command.RATES | {"l2p": 0.5}
    monkeypatch.setattr(command, "RATES", rates)
    with pytest.raises(ValueError, match="(?s)another run.*rates"):
        command.main(again)


@pytest.mark.parametrize("given", [dict(tasks=6), dict(seeds=0), dict(epochs=0)])
def test_bad_settings_are_refused(given, tmp_path):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=f"got --{name} {value}, expected"):
        command.main(command.Config(out=tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()


def test_a_set_of_few_classes_is_refused(monkeypatch, tmp_path):
    x, y = np.zeros((8, 4, 4, 3), np.uint8), np.arange(8, dtype=np.int32) % 4
    task = data.Task("four", *3 * (data.Split(x, y),), tuple("abcd"))
    monkeypatch.setattr(command, "load", lambda config, seed: task)
    with pytest.raises(ValueError, match="of 4 classes for 5 tasks"):
        command.main(command.Config(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
