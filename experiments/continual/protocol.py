"""Tasks of two classes, one after the other: training, answers, what is measured.

Only the present task's images are there to train on, and the loss is among its own
classes, as in the published codes of L2P and CODA-Prompt. After each task, images of
all classes so far are told apart among these; no method is told an image's task.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Manipulation, Params, Program, Scope
from reprojax.data import Split, Task
from reprojax.formats import begin_task
from reprojax.training import steps
from reprojax.training.losses import Loss, cross_entropy

EACH = 2  # classes of a task


class Plan(NamedTuple):
    """How often a run sees what."""

    tasks: int
    epochs: int
    """Of each task, or of all at once."""
    batch: int
    seed: int


class Rows(NamedTuple):
    """Images, their frozen features, and labels in the order in which they come."""

    x: Any
    features: np.ndarray
    y: np.ndarray

    def at(self, chosen: np.ndarray) -> "Rows":
        return Rows(*(part[chosen] for part in self))

    def of(self, classes: range) -> "Rows":
        """The rows of these classes."""
        inside = (self.y >= classes.start) & (self.y < classes.stop)
        return self.at(np.flatnonzero(inside))


def in_order(
    task: Task, look: Callable[[Any], np.ndarray], seed: int, judged: str = "test"
) -> tuple[Rows, Rows]:
    """The training rows and those that judge; the seed draws the order of classes."""
    place = np.argsort(np.random.default_rng(seed).permutation(len(task.classes)))

    def rows(split: Split) -> Rows:
        return Rows(split.x, look(split.x), place[split.y])

    return rows(task.train), rows(getattr(task, judged))


def among(classes: int) -> Manipulation:
    """Answers of the classes that are open; the others are out of the question."""

    def init(key: jax.Array, spec: Any, scope: Scope) -> Params:
        return Params(fixed=jnp.ones(classes, bool))

    def apply(params: Params, y: jax.Array, scope: Scope) -> jax.Array:
        return jnp.where(params.fixed, y, jnp.asarray(-1e9, y.dtype))

    return Manipulation(init, apply)


def opened(params: Params, classes: range) -> Params:
    """The params with these classes open, of a program with `among` by that name."""

    def put(path: Any, leaf: Any) -> Any:
        if getattr(path[-1], "key", "") != "among":
            return leaf
        number = jnp.arange(len(leaf))
        return (number >= classes.start) & (number < classes.stop)

    fixed = jax.tree_util.tree_map_with_path(put, params.fixed)
    return params._replace(fixed=fixed)


class Learner(NamedTuple):
    """What is trained, and how."""

    program: Program
    frozen: Any
    given: Callable[[Rows], tuple[Any, Any]]
    """rows -> (x, context)"""
    optimizer: optax.GradientTransformation
    loss: Loss = cross_entropy
    sites: tuple[str, ...] = ()
    by_task: bool = False
    """Whether its pool has a part for each task."""


def begun(learner: Learner, rows: Rows, plan: Plan) -> Params:
    first = learner.given(rows.at(np.arange(plan.batch)))
    return learner.program.init(jax.random.key(plan.seed), learner.frozen, *first)


def learnt(
    learner: Learner,
    params: Params,
    rows: Rows,
    classes: range,
    plan: Plan,
    rng: np.random.Generator,
) -> Params:
    """The params after some epochs on rows of these classes, with a new optimiser."""
    own, size = rows.of(classes), plan.batch
    batch = lambda some: learner.given(own.at(some))
    x, context = batch(np.arange(size) % len(own.y))
    state = steps.begin(
        *(learner.program, learner.optimizer, learner.frozen, x),
        seed=int(rng.integers(2**31)),
        context=context,
        params=opened(params, classes),
    )
    what = learner.program, learner.optimizer, learner.loss, learner.sites
    for _ in range(plan.epochs):
        order = rng.permutation(len(own.y))
        for some in np.resize(order, (-(-len(order) // size), size)):
            x, context = batch(some)
            y = jnp.asarray(own.y[some])
            state = steps.train_step(*what, state, learner.frozen, x, y, context)
    return state.params


@cache  # so that all tasks and seeds share what was compiled
def _compiled(program: Program) -> Callable[..., jax.Array]:
    return jax.jit(program.apply)


def answers(
    learner: Learner, params: Params, rows: Rows, classes: range, size: int = 100
) -> np.ndarray:
    """The class of each row, among these."""
    call, params, found = _compiled(learner.program), opened(params, classes), []
    for i in range(0, len(rows.y), size):
        whole = rows.at(np.arange(i, i + size) % len(rows.y))
        y = call(params, learner.frozen, *learner.given(whole))
        found.append(np.asarray(y.argmax(1)))
    return np.concatenate(found)[: len(rows.y)]


def by_task(
    answer: Callable[[Rows], np.ndarray], rows: Rows, tasks: int
) -> list[float]:
    """The accuracy on each of the first tasks."""
    part = rows.of(range(EACH * tasks))
    right = answer(part) == part.y
    return [float(right[part.y // EACH == i].mean()) for i in range(tasks)]


def in_sequence(learner: Learner, train: Rows, judged: Rows, plan: Plan) -> np.ndarray:
    """[after task, of task]: accuracy among the classes so far; NaN for later tasks."""
    rng, found = np.random.default_rng(plan.seed), unknown(plan.tasks)
    params = begun(learner, train, plan)
    for t in range(plan.tasks):
        if learner.by_task:
            params = begin_task(params, t, jax.random.key(plan.seed))
        own, known = range(EACH * t, EACH * t + EACH), range(EACH * t + EACH)
        params = learnt(learner, params, train, own, plan, rng)
        answer = lambda part: answers(learner, params, part, known)  # noqa: B023
        found[t, : t + 1] = by_task(answer, judged, t + 1)
    return found


def at_once(learner: Learner, train: Rows, judged: Rows, plan: Plan) -> np.ndarray:
    """The last row of `in_sequence`, after training on all tasks together."""
    rng, every = np.random.default_rng(plan.seed), range(EACH * plan.tasks)
    params = begun(learner, train, plan)
    params = learnt(learner, params, train, every, plan, rng)
    found = unknown(plan.tasks)
    answer = lambda part: answers(learner, params, part, every)
    found[-1] = by_task(answer, judged, plan.tasks)
    return found


def unknown(tasks: int) -> np.ndarray:
    return np.full((tasks, tasks), np.nan)


def class_means(train: Rows, judged: Rows, tasks: int) -> np.ndarray:
    """As `in_sequence`, of the nearest mean feature of a class; nothing is trained."""
    means = [train.features[train.y == c].mean(0) for c in range(EACH * tasks)]
    found = unknown(tasks)
    for t in range(tasks):
        known = np.stack(means[: EACH * t + EACH])

        def nearest(part: Rows, known: np.ndarray = known) -> np.ndarray:
            return ((part.features[:, None] - known) ** 2).sum(-1).argmin(1)

        found[t, : t + 1] = by_task(nearest, judged, t + 1)
    return found


def final(found: np.ndarray) -> float:
    """The mean accuracy over all tasks, after the last one."""
    return float(found[-1].mean())


def forgetting(found: np.ndarray) -> float:
    """How far tasks fell from their best accuracy, on average over all but the last."""
    return float((np.nanmax(found, axis=0) - found[-1])[:-1].mean())
