"""The compiled pieces of a training loop; `fit` is the loop.

Each takes the program as a static argument, so that runs of one program (its seeds, its
evaluation, its controls) share what was compiled.
"""

import sys
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from reprojax import statistics
from reprojax.core import Key, Params, Program, PyTree
from reprojax.data import Split, Task, in_order
from reprojax.losses import Loss
from reprojax.taps import record


class State(NamedTuple):
    """All that a run is: a checkpoint holds it, and a step depends on no more."""

    params: Params
    opt: optax.OptState
    key: Key
    step: jax.Array
    loss: jax.Array  # sum over the epoch's steps
    sums: PyTree  # what the epoch's steps showed to label maps
    curves: jax.Array  # [epochs 2]: mean training loss, validation accuracy
    best: Params  # selected by validation, the earliest of equals


def begin(
    program: Program,
    optimizer: optax.GradientTransformation,
    frozen: PyTree,
    images: Any,
    seed: int,
    epochs: int,
) -> State:
    """A first state; label maps are not estimated yet.

    Args:
        images: a batch, or its shape and type.
    """
    key = jax.random.key(seed)
    params = program.init(key, frozen, images)
    state = State(
        params=params,
        opt=optimizer.init(params.learnable),
        key=key,
        step=jnp.zeros((), jnp.int32),
        loss=jnp.zeros(()),
        sums=_no_sums(program, params, frozen, images),
        curves=jnp.full((epochs, 2), jnp.nan),
        best=params,
    )
    # Copies, because the step gives its state away: the caller's own arrays may be
    # among the params, and some optimisers keep the params in their state. Of a
    # plain type, because a weak one (jnp.full(n, .1)) has the second step compiled.
    return jax.tree.map(lambda a: jnp.array(a, jnp.result_type(a)), state)


def _no_sums(program: Program, params: Params, frozen: PyTree, images: Any) -> PyTree:
    labels = jax.ShapeDtypeStruct(images.shape[:1], jnp.int32)
    shapes = jax.eval_shape(
        partial(observe_batch, program), params, frozen, images, labels
    )
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def train_step(
    program: Program,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    sites: tuple[str, ...],
    state: State,
    frozen: PyTree,
    x: jax.Array,
    labels: jax.Array,
) -> State:
    """One update of the learnable params, and the sums for the label maps."""
    key = jax.random.fold_in(state.key, state.step)

    def objective(learnable: PyTree) -> tuple[jax.Array, dict[str, Any]]:
        params = state.params._replace(learnable=learnable)
        wanted = ["output", *statistics.raw_sites(program), *sites]
        call = record(program.apply, wanted, also=statistics.is_news)
        _, seen = call(params, frozen, x, key=key)
        return loss(seen, labels, learnable), seen

    learnable = state.params.learnable
    (value, seen), grads = jax.value_and_grad(objective, has_aux=True)(learnable)
    updates, opt = optimizer.update(grads, state.opt, learnable)
    sums = statistics.observe(program, state.params, seen, labels)
    params = statistics.put_news(state.params, seen)
    return state._replace(
        params=params._replace(learnable=optax.apply_updates(learnable, updates)),
        opt=opt,
        step=state.step + 1,
        loss=state.loss + value,
        sums=jax.tree.map(jnp.add, state.sums, sums),
    )


@partial(jax.jit, static_argnums=0)
def count_correct(
    program: Program, params: Params, frozen: PyTree, x: jax.Array, labels: jax.Array
) -> jax.Array:
    """How many rows of a batch are right; a label of -1 never is.

    One number, or [K] of a program that answers [B K T].
    """
    answers = program.apply(params, frozen, x).argmax(-1)
    labels = labels.reshape(-1, *(1,) * (answers.ndim - 1))
    return (answers == labels).sum(0)


@partial(jax.jit, static_argnums=0)
def observe_batch(
    program: Program, params: Params, frozen: PyTree, x: jax.Array, labels: jax.Array
) -> PyTree:
    """What one batch shows to the label maps, in evaluation."""
    call = record(program.apply, statistics.raw_sites(program))
    return statistics.observe(program, params, call(params, frozen, x)[1], labels)


refresh_maps = jax.jit(statistics.refresh, static_argnums=0)


def evaluate(
    program: Program, params: Params, frozen: PyTree, split: Split, batch: int
) -> Any:
    """The accuracy on a split, in its order: a float, or [K] where there are K answers.

    K answers come from `alignments.several`.
    """
    hits = [
        count_correct(program, params, frozen, x, y) for x, y in in_order(split, batch)
    ]
    accuracy = np.sum(jax.device_get(hits), axis=0) / len(split.y)
    return accuracy if accuracy.ndim else float(accuracy)


def estimate(
    program: Program, params: Params, frozen: PyTree, split: Split, batch: int
) -> Params:
    """The params with label maps from one exact pass over a split."""
    if not statistics.estimated(program):
        return params
    total = None
    for x, y in in_order(split, batch):
        sums = observe_batch(program, params, frozen, x, y)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    assert total is not None
    return refresh_maps(program, params, total)


def close_epoch(state: State, params: Params, accuracy: float, steps: int) -> State:
    """The state after an epoch of so many steps, whose params reached an accuracy."""
    before = state.curves[:, 1]
    better = bool(jnp.all(jnp.isnan(before) | (before < accuracy)))
    epoch = state.step // steps - 1
    return state._replace(
        params=params,
        # a copy: the step gives its own params away
        best=jax.tree.map(jnp.copy, params) if better else state.best,
        curves=state.curves.at[epoch].set(jnp.array([state.loss / steps, accuracy])),
        loss=jnp.zeros(()),
        sums=jax.tree.map(jnp.zeros_like, state.sums),
    )


def check_answer(
    program: Program, frozen: PyTree, task: Task, images: Any, sites: tuple[str, ...]
) -> None:
    """Raise, before anything is compiled, if a program does not answer a task."""

    def answer(frozen: PyTree, x: jax.Array) -> jax.Array:
        params = program.init(jax.random.key(0), frozen, x)
        return record(program.apply, sites)(params, frozen, x)[0]

    y = jax.eval_shape(answer, frozen, images)
    if y.shape != (images.shape[0], len(task.classes)):
        raise ValueError(
            f"the program answers {y.shape} to a batch of {images.shape[0]}, expected "
            f"{(images.shape[0], len(task.classes))} for the {len(task.classes)} "
            f'classes of {task.name}; give "output" an alignment to that number'
        )


def check_loss(state: State, epoch: int) -> None:
    """Raise if a run diverged."""
    # The params too: what the last step of all broke, no later loss would show.
    numbers = [state.loss, *jax.tree.leaves(state.params.learnable)]
    if not all(bool(jnp.isfinite(a).all()) for a in numbers):
        raise ValueError(
            f"the loss diverged in epoch {epoch + 1} (by step {int(state.step)}); "
            "what was saved before stays; lower the learning rate, or clip the "
            "gradient with optax.clip_by_global_norm"
        )


def bar(first: int, total: int, progress: bool) -> tqdm:
    """Steps done and the time left; in a log file a line every half minute."""
    often = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, initial=first, unit="step", disable=not progress, mininterval=often
    )


class Clock:
    """Seconds a step, without the first (it compiles) and without evaluation."""

    def __init__(self) -> None:
        self.steps, self.total, self.since = -1, 0.0, 0.0

    def start(self) -> None:
        """Before a step; it may run already."""
        self.since = self.since or time.perf_counter()

    def tick(self, step: jax.Array, stop: bool) -> None:
        """After a step; with `stop`, what follows is not counted."""
        self.steps += 1
        first = self.steps == 0
        if first or stop:
            jax.block_until_ready(step)
            self.total += 0.0 if first else time.perf_counter() - self.since
            self.since = 0.0

    def seconds_per_step(self) -> float:
        """NaN where there was the first step alone."""
        return self.total / self.steps if self.steps > 0 else float("nan")
