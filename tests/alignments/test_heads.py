"""Several alignments on one forward are each of them alone."""

from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fitting import FROZEN, TASK

from reprojax import Scope, reprogram
from reprojax.alignments import (
    bayesian,
    bayesian_plus,
    columns,
    heads,
    linear,
    one_to_one,
    random_map,
)
from reprojax.core import Program, part
from reprojax.testing.compiled import operations
from reprojax.training import steps
from reprojax.training.compilation import Compiled
from reprojax.training.metrics import accuracy

MAPS: dict[str, Any] = {
    "rlm": random_map(3),
    "flm": one_to_one(3),
    "first": columns(range(3)),
    "blm": bayesian(3),
    "plus": bayesian_plus(3, k=2),
    "head": linear(3, standardised=True),
}
ALL = reprogram(fitting.FORWARD, {"output": heads(**MAPS)})


def estimated(program: Program) -> Any:
    params = program.init(jax.random.key(0), FROZEN, TASK.train.x)
    return steps.estimate(program, params, FROZEN, TASK.train, 4)


def test_each_is_what_it_is_alone_and_all_in_one_pass(monkeypatch):
    calls, call = [], Compiled.__call__
    spy = lambda self, *args: calls.append(self._name) or call(self, *args)
    monkeypatch.setattr(Compiled, "__call__", spy)
    params = estimated(ALL)
    assert calls.count("observe_batch") == 3  # batches
    assert {*params.fixed["output"]} == {*MAPS}
    found = steps.evaluate(ALL, params, FROZEN, TASK.test, 3)
    assert found.shape == (6,)
    for k, (name, alignment) in enumerate(MAPS.items()):
        alone = reprogram(fitting.FORWARD, {"output": alignment})
        own = estimated(alone)
        if name not in ("rlm", "head"):  # drawn by name
            mine = part(params, "output").fixed[name]
            for a, b in zip(
                *map(jax.tree.leaves, (mine, own.fixed["output"])), strict=True
            ):
                np.testing.assert_array_equal(a, b)
        inner = part(part(params, "output"), name)
        single = type(params)({"output": inner.learnable}, {"output": inner.fixed})
        accuracy = steps.evaluate(alone, single, FROZEN, TASK.test, 3)
        assert isinstance(accuracy, float) and accuracy == found[k]
    assert len(set(found.tolist())) > 1


def test_answers_stand_in_the_order_of_the_names():
    y = jnp.arange(10.0).reshape(2, 5)
    both = heads(b=columns([0, 1]), a=columns([3, 4]))
    params = both.init(jax.random.key(0), y, Scope())
    expected = [[[0, 1], [3, 4]], [[5, 6], [8, 9]]]
    np.testing.assert_array_equal(both.apply(params, y, Scope()), expected)


def test_alignments_of_one_kind_draw_by_name():
    y = jnp.ones((2, 50))
    both = heads(a=random_map(4), b=random_map(4))
    maps = both.init(jax.random.key(0), y, Scope()).fixed
    assert not np.array_equal(maps["a"], maps["b"])


def test_eight_maps_cost_one_forward():
    maps = {f"k{k}": bayesian_plus(3, k=1 + k % 5) for k in range(8)}
    programs = [reprogram(fitting.FORWARD, {"output": m}) for m in maps.values()]
    eight = reprogram(fitting.FORWARD, {"output": heads(**maps)})

    def work(program: Program) -> float:
        x = np.zeros((64, 8, 8, 3), np.uint8)
        params = program.init(jax.random.key(0), FROZEN, x)
        y = np.zeros(64, np.int32)
        return operations(
            steps.observe_scores, program, (accuracy,), (), params, FROZEN, x, y
        )

    assert work(eight) < 1.1 * work(programs[0])


def test_alignments_to_other_numbers_of_classes_are_refused():
    uneven = heads(a=columns([0, 1]), b=columns([0, 1, 2]))
    y, scope = jnp.ones((2, 5)), Scope()
    with pytest.raises(ValueError, match="expected one number of target classes"):
        uneven.apply(uneven.init(jax.random.key(0), y, scope), y, scope)
