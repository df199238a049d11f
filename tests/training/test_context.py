"""The context of a split, through everything that trains, against loops by hand."""

from functools import partial
from typing import Any, NamedTuple

import fitting
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting import FROZEN, TASK, outcome

from reprojax import data, reprogram
from reprojax.alignments import bayesian, linear
from reprojax.core import Manipulation, Params, Program
from reprojax.core.many import stacked
from reprojax.data import Shared, Split
from reprojax.formats import learnable
from reprojax.operators import add
from reprojax.saving.folders import read_identity
from reprojax.training import fit, parallel
from reprojax.training.caches import cached
from reprojax.training.losses import Seen, cross_entropy
from reprojax.training.population import fit_population

ROWS, SGD = 16, optax.sgd(0.5)
normal = jax.nn.initializers.normal(0.1)


class Case(NamedTuple):
    """A program that reads its context, and the same by hand."""

    program: Program
    context: Any
    """Of a split's rows [N] and x [N 8 8 3]."""
    by_hand: Any
    """(learnable, x, the row's context) -> logits [B T], without the library."""


def logits(x: Any) -> Any:
    return fitting.Net().apply(FROZEN, x)


def pixels(x: Any) -> Any:
    return (x.astype(jnp.float32) / 255 - fitting.MEAN) / fitting.STD


# -- several tasks in one batch: the context says which prompt is a row's

ONE = reprogram(
    fitting.FORWARD, {"normalized": add(learnable(normal)), "output": linear(3)}
)
MANY = stacked(fitting.FORWARD, ONE, 2)


def many_by_hand(learnable: Any, x: Any, index: Any) -> Any:
    y = logits(pixels(x) + learnable["normalized"][index])
    head = jax.tree.map(lambda a: a[index], learnable["output"])
    return jnp.einsum("bs,bst->bt", y, head["kernel"]) + head["bias"]


# -- retrieval: rows of a table that is one for all, by how near their keys are


def retrieved() -> Manipulation:
    def init(key: Any, spec: Any, scope: Any) -> Params:
        return Params(normal(key, (3, 3)))

    def apply(params: Params, value: Any, scope: Any) -> Any:
        query, table = scope.context["query"], scope.context["table"]
        near = jax.nn.softmax(query @ table["keys"].T @ params.learnable.T)
        return value + (near @ table["values"][:3])[:, None, None]

    return Manipulation(init, apply)


DRAW = np.random.default_rng(0)
TABLE = {
    "keys": DRAW.normal(size=(ROWS, 3)).astype(np.float32)[:3],
    "values": DRAW.normal(size=(ROWS, 3)).astype(np.float32),  # as long as the rows
}
SPREAD = DRAW.normal(size=(3, 5)).astype(np.float32)
RETRIEVAL = reprogram(fitting.FORWARD, {"normalized": retrieved(), "output": linear(3)})


def retrieval_by_hand(learnable: Any, x: Any, query: Any) -> Any:
    near = jax.nn.softmax(query @ TABLE["keys"].T @ learnable["normalized"].T)
    y = logits(pixels(x) + (near @ TABLE["values"][:3])[:, None, None])
    return y @ learnable["output"]["kernel"] + learnable["output"]["bias"]


# -- two towers: the other tower's features, and classes by how alike they are


def compared() -> Manipulation:
    def init(key: Any, spec: Any, scope: Any) -> Params:
        width = scope.context.shape[1]
        return Params(normal(key, (spec.shape[1], width)))

    def apply(params: Params, value: Any, scope: Any) -> Any:
        return value @ params.learnable @ scope.context.T

    return Manipulation(init, apply)


NAMES = DRAW.normal(size=(3, 4)).astype(np.float32)
TOWERS = reprogram(
    fitting.FORWARD, {"normalized": add(learnable(normal)), "output": compared()}
)


def towers_by_hand(learnable: Any, x: Any, row: Any) -> Any:
    y = logits(pixels(x) + learnable["normalized"])
    return y @ learnable["output"] @ NAMES.T


def brightness(x: np.ndarray) -> np.ndarray:
    return x.mean((1, 2)).astype(np.float32) / 255


CASES = {
    "several tasks": Case(
        MANY, lambda x: (x[:, 0, 0, 0] % 2).astype(np.int32), many_by_hand
    ),
    "retrieval": Case(
        RETRIEVAL,
        lambda x: {"query": brightness(x), "table": Shared(TABLE)},
        retrieval_by_hand,
    ),
    "two towers": Case(TOWERS, lambda x: Shared(NAMES), towers_by_hand),
}


def task_of(case: Case) -> data.Task:
    rows = {"train": ROWS, "validation": 7, "test": 5}
    splits = {n: fitting.split(k, i) for i, (n, k) in enumerate(rows.items())}
    with_context = {n: s._replace(context=case.context(s.x)) for n, s in splits.items()}
    return TASK._replace(**with_context)


def trained(case: Case, task: data.Task | None = None, **changes: Any) -> Any:
    settings = {"optimizer": SGD, "epochs": 50, "batch": ROWS, "progress": False}
    task = task_of(case) if task is None else task
    return fit(case.program, FROZEN, task, **(settings | changes))


@pytest.mark.parametrize("context", [Shared(NAMES), {"table": Shared(NAMES)}])
def test_a_program_that_is_called_alone_gets_the_value(context):
    key, x = jax.random.key(0), TASK.train.x
    params = TOWERS.init(key, FROZEN, x, NAMES)
    words = r"data\.Shared in the context, expected the array .*give its \.value"
    with pytest.raises(ValueError, match=f"init got {words}"):
        jax.eval_shape(TOWERS.init, key, FROZEN, x, context)
    with pytest.raises(ValueError, match=f"apply got {words}"):
        TOWERS.apply(params, FROZEN, x, context)


@pytest.mark.parametrize("name", CASES)
def test_fifty_steps_are_those_of_a_loop_by_hand(name):
    case = CASES[name]
    task = task_of(case)
    x, y, context = task.train
    row = context["query"] if name == "retrieval" else context
    own = case.program.init(jax.random.key(0), FROZEN, x, data.rows.unshared(context))
    moved, losses = own.learnable, []

    @jax.jit
    def step(learnable: Any) -> Any:
        def cost(learnable: Any) -> Any:
            out = case.by_hand(learnable, jnp.asarray(x), row)
            return -jax.nn.log_softmax(out)[jnp.arange(ROWS), y].mean()

        value, slope = jax.value_and_grad(cost)(learnable)
        return value, jax.tree.map(lambda a, g: a - 0.5 * g, learnable, slope)

    for _ in range(50):
        value, moved = step(moved)
        losses.append(float(value))
    fitted = trained(case)
    np.testing.assert_allclose(fitted.curves[:, 0], losses, rtol=2e-4)
    assert losses[-1] < 0.7 * losses[0]
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5),
        fitted.last.learnable,
        moved,
    )


@pytest.mark.parametrize("name", CASES)
def test_parts_devices_and_populations_train_on_the_same_context(name):
    case = CASES[name]
    settings = {"epochs": 3, "batch": 6}  # fillers in the last of three batches
    alone = trained(case, **settings)
    others = [
        trained(case, **settings, accumulate=2),
        trained(case, **settings, mesh=parallel.mesh(devices=jax.devices()[:2])),
        trained(
            case,
            **settings,
            mesh=parallel.mesh(devices=jax.devices()[:2]),
            accumulate=2,
        ),
    ]
    shared = {"optimizer": SGD, "progress": False, **settings}
    for how in ("vmap", "loop"):
        many = partial(
            fit_population, case.program, FROZEN, task_of(case), seeds=[0, 0]
        )
        others += many(**shared, how=how)
    for other in others:
        np.testing.assert_allclose(other.curves, alone.curves, rtol=1e-4)


def test_it_is_a_runs_own_and_a_resume_refuses_another(tmp_path):
    case = CASES["two towers"]
    settings = {"epochs": 1, "out": tmp_path / "run"}
    first = trained(case, **settings)
    again = trained(case, **settings, resume=True)
    assert outcome(again) == outcome(first)
    task = task_of(case)
    other = Shared(NAMES + 1)
    changed = task._replace(train=task.train._replace(context=other))
    assert read_identity(tmp_path / "run")["data"] == data.digest(task)
    with pytest.raises(ValueError, match="another run:\\s+data"):
        trained(case, changed, **settings, resume=True)
    rowwise = CASES["several tasks"]
    task = task_of(rowwise)
    moved = task.train._replace(context=1 - task.train.context)
    assert data.digest(task) != data.digest(task._replace(train=moved))


def test_label_maps_and_losses_and_caches_see_it():
    """A map is estimated from answers that the context made; a loss reads it."""
    case = CASES["retrieval"]
    program = reprogram(
        fitting.FORWARD, {"head:out": _shifted(), "output": bayesian(3)}
    )

    def loss(seen: Seen) -> Any:
        near = seen.context["query"] @ seen.context["table"]["keys"].T
        return cross_entropy(seen) * (1 + jnp.square(near).sum(1))

    task = task_of(case)
    settings = {"optimizer": SGD, "epochs": 2, "batch": 6, "loss": loss}
    settings |= {"progress": False}
    plain = fit(program, FROZEN, task, **settings)
    put, _, kept = cached(program, FROZEN, task, progress=False)
    assert kept.train.context is task.train.context
    again = fit(put, FROZEN, kept, **settings)
    np.testing.assert_allclose(again.curves, plain.curves, rtol=1e-4)
    x, y, context = task.train
    raw = logits(pixels(x)) + brightness(x) @ TABLE["keys"].T @ SPREAD * 9
    counts = np.zeros((5, 3))
    np.add.at(counts, (np.asarray(raw).argmax(1), y), 1)
    table = counts / (counts.sum(1, keepdims=True) + 1)
    wanted = table / table.sum(0)
    first = fit(program, FROZEN, task, **settings | {"refresh": "once"})
    np.testing.assert_allclose(first.last.fixed["output"], wanted, rtol=1e-5)


def _shifted() -> Manipulation:
    def init(key: Any, spec: Any, scope: Any) -> Params:
        return Params(jnp.ones(()))

    def apply(params: Params, value: Any, scope: Any) -> Any:
        near = scope.context["query"] @ scope.context["table"]["keys"].T
        return value + 9 * params.learnable * near @ SPREAD

    return Manipulation(init, apply)


BAD = {
    "a row for each in all of them.*data.Shared": np.zeros((3, 2)),
    "row 2 holds NaN": np.where(np.arange(ROWS) == 2, np.nan, 0.0),
    "differ between splits": Shared(np.zeros((3, 5), np.float32)),
}


@pytest.mark.parametrize("words", BAD)
def test_a_context_that_is_none_is_refused(words):
    task = task_of(CASES["two towers"])
    train = Split(task.train.x, task.train.y, BAD[words])
    with pytest.raises(ValueError, match=words):
        data.check(task._replace(train=train))
