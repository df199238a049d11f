"""The compiled pieces of a training loop; `fit` is the loop.

Each takes the program as a static argument, so that runs of one program (its seeds, its
evaluation, its controls) share what was compiled.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax import statistics
from reprojax.core import Key, Params, Program, PyTree
from reprojax.data import Split, in_order
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
    """How many rows of a batch are right; a label of -1 never is."""
    return (program.apply(params, frozen, x).argmax(-1) == labels).sum()


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
) -> float:
    """The accuracy on a split, in its order."""
    hits = [
        count_correct(program, params, frozen, x, y) for x, y in in_order(split, batch)
    ]
    return float(np.sum(jax.device_get(hits))) / len(split.y)


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
