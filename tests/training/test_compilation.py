"""Equal programs compile once; what differs in anything is another program.

The likeliest mistakes: a setting that is no operation (-0., True, a weak type), an
array in a closure, a changed global, a callback, a setting of jax itself.
"""

import gc
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, TASK, outcome, train
from jax.nn.initializers import normal

from reprojax import reprogram
from reprojax.alignments import bayesian
from reprojax.core import Program, chain
from reprojax.formats import learnable
from reprojax.models import images
from reprojax.operators import add, dropout
from reprojax.training import compilation
from reprojax.training.compilation import Compiled
from reprojax.training.losses import Seen, cross_entropy

X = np.arange(6, dtype=np.float32)


@pytest.fixture(autouse=True)
def nothing_is_compiled() -> None:
    compilation._executables.clear()
    compilation._shared.cache_clear()


def counted(caplog: Any, run: Callable[[], Any]) -> list[str]:
    """The pieces of a loop that were compiled meanwhile."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        run()
    lines = [record.getMessage() for record in caplog.records]
    found = [line.split()[1] for line in lines if line.startswith("Compiling ")]
    names = ("train_step", "observe_scores", "observe_batch", "refresh")
    return [one for one in found if any(name in one for name in names)]


# -- a run


def program(rate: float = 0.2, mean: float = 0.4) -> Program:
    """Every closure in it is a new one each time."""
    forward = images(fitting.Net(), 8, (mean, 0.5, 0.6), tuple(fitting.STD.tolist()))
    parts = chain(prompt=add(learnable(normal(0.1))), drop=dropout(rate))
    return reprogram(forward, {"normalized": parts, "output": bayesian(3)})


def weighted(weight: float) -> Any:
    return lambda seen: weight * cross_entropy(seen)


def run(**changes: Any) -> Any:
    given = {"program": program(), "optimizer": optax.adam(0.05), "epochs": 2}
    return train(**(given | {"loss": weighted(1.0)} | changes))


def test_the_same_recipe_optimiser_and_loss_compile_once(caplog):
    first = counted(caplog, run)
    assert sorted(first) == [
        "jit(observe_batch)",
        "jit(observe_scores)",
        "jit(refresh)",
        "jit(train_step)",
    ]
    assert counted(caplog, run) == []
    assert counted(caplog, partial(run, seed=3)) == []
    assert counted(caplog, partial(run, refresh="exact")) == []
    assert counted(caplog, partial(run, epochs=3)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": optax.adam(0.06)},
        {"optimizer": optax.adam(0.05, b1=0.8)},
        {"loss": weighted(2.0)},
        {"program": program(rate=0.3)},
        {"program": program(mean=0.41)},
        {"batch": 5},
    ],
    ids=["rate", "momentum", "loss", "operator", "model", "batch"],
)
def test_what_differs_is_compiled_and_gives_its_own_numbers(caplog, changes):
    alone = outcome(run(**changes))
    nothing = outcome(run())
    assert counted(caplog, partial(run, **changes)) == []  # both are kept
    assert outcome(run(**changes)) == alone != nothing
    assert outcome(run()) == nothing


# -- a function


def result(function: Any, *args: Any, **how: Any) -> Any:
    return Compiled(function, **how)(*args)


def keyed(function: Any, *args: Any) -> Any:
    call = Compiled(function)
    return call.bound(*args)


def by(number: Any) -> Any:
    return lambda x: x * number


def cast(kind: str) -> Any:
    return lambda x: jnp.asarray(x).astype(kind)


def inside(table: np.ndarray) -> Any:
    return lambda x: jax.jit(lambda x: x + jnp.asarray(table))(x)


def called(function: Callable) -> Any:
    spec = jax.ShapeDtypeStruct((6,), np.float32)
    return lambda x: jax.pure_callback(function, spec, x)


def looped(step: Any) -> Any:
    return lambda x: jax.lax.fori_loop(0, 3, lambda i, x: step(x), x)


def sine(x: Any) -> Any:
    return np.sin(x)


ONES, OTHER = np.ones(6, np.float32), np.array([1, 1, 1, 1, 1, 2], np.float32)


@pytest.mark.parametrize(
    "one, same, other",
    [
        (by(2.0), by(2.0), by(3.0)),
        (by(0.0), by(0.0), by(-0.0)),
        (cast("bfloat16"), cast("bfloat16"), cast("float16")),
        (inside(ONES), inside(ONES.copy()), inside(OTHER)),
        (looped(by(2.0)), looped(by(2.0)), looped(by(2.5))),
        (called(sine), called(sine), called(np.cos)),
        (
            lambda x: jax.random.normal(jax.random.key(1), (6,)) + x,
            lambda y: jax.random.normal(jax.random.key(1), (6,)) + y,
            lambda x: jax.random.normal(jax.random.key(2), (6,)) + x,
        ),
        (lambda x: jax.nn.relu(x), lambda x: jax.nn.relu(x), lambda x: jax.nn.silu(x)),
        (lambda x: (x, x), lambda x: (x, x), lambda x: [x, x]),
        (lambda x: x - x[::-1], lambda x: x - x[::-1], lambda x: x[::-1] - x),
        (lambda x: {"a": x, "b": -x},)
        + (lambda x: {"a": x, "b": -x},)
        + (lambda x: {"a": -x, "b": x},),
    ],
    ids=["number", "zero", "type", "array", "loop", "callback", "key", "rule", "tree"]
    + ["order", "names"],
)
def test_functions_are_one_if_they_are_equal_in_everything(one, same, other):
    assert keyed(one, X) is keyed(same, X)
    assert keyed(one, X) is not keyed(other, X)
    trees = [jax.tree.structure(f(X)) for f in (one, other)]
    both = [jax.tree.leaves(result(f, X)) for f in (one, other)]
    for found, function, tree in zip(both, (one, other), trees, strict=True):
        assert jax.tree.structure(result(function, X)) == tree
        for a, b in zip(found, jax.tree.leaves(function(X)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_callback_that_is_made_anew_is_not_shared():
    new = lambda: called(lambda x: np.sin(x))
    assert keyed(new(), X) is not keyed(new(), X)


RATE = 2.0


def test_a_global_that_was_changed_is_seen(monkeypatch):
    make = lambda: lambda x: x * RATE
    assert result(make(), X)[1] == 2
    monkeypatch.setitem(globals(), "RATE", 3.0)
    assert result(make(), X)[1] == 3


def test_other_settings_of_jax_are_another_program():
    square = lambda: lambda a: a @ a
    a = np.ones((4, 4), np.float32)
    plain = keyed(square(), a)
    with jax.default_matmul_precision("float32"):
        assert keyed(square(), a) is not plain
    assert keyed(square(), a) is plain


def test_other_shapes_are_refused_and_not_guessed():
    call = Compiled(by(2.0))
    call(X)
    with pytest.raises(ValueError, match="expected what it was compiled for"):
        call(X[:3])


def test_what_is_given_away_is_another_executable():
    x = jnp.asarray(X)
    kept, gone = Compiled(by(2.0)), Compiled(by(2.0), donate=(0,))
    assert kept.bound(x) is not gone.bound(x)
    kept(x)
    assert not x.is_deleted()


def test_no_more_executables_are_kept_than_said(monkeypatch):
    def alive() -> int:
        gc.collect()
        return len(jax.devices()[0].client.live_executables())

    monkeypatch.setattr(compilation, "KEPT", 3)
    result(by(0.0), X)
    before = alive()
    for number in range(7):
        result(by(float(number)), X)
        compilation._shared.cache_clear()
    assert len(compilation._executables) == 3
    assert alive() <= before + 2  # three, of which one was there
    newest = keyed(by(6.0), X)
    assert keyed(by(6.0), X) is newest


def test_a_loss_that_is_read_from_seen_is_shared(caplog):
    own = lambda: lambda seen: cross_entropy(Seen(*seen))
    counted(caplog, partial(run, loss=own()))
    assert counted(caplog, partial(run, loss=own())) == []


def test_a_mesh_is_another_program():
    from reprojax.training import parallel

    given = {"frozen": FROZEN, "task": TASK, "optimizer": optax.sgd(0.1), "epochs": 1}
    one = run(**given)
    two = run(**given, mesh=parallel.mesh())
    np.testing.assert_allclose(one.curves, two.curves, rtol=1e-4, atol=1e-5)
