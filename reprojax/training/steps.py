"""The pieces of a training loop; `fit` is one loop, yours may be another.

`begin` makes a state and `train_step` the next one. Each piece takes the program as a
static argument of `jax.jit`. None donates its arguments, so old states stay usable;
`fit` donates them, and shares compiled functions among equal programs: see
`compilation`.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from reprojax.core import Key, Params, Program, PyTree, estimation, record
from reprojax.data import Split, in_order
from reprojax.data.rows import unshared
from reprojax.training.checks import check_statistics
from reprojax.training.compilation import Compiled
from reprojax.training.gradients import forward, gradient
from reprojax.training.losses import Loss, divided, look
from reprojax.training.metrics import Metric, accuracy
from reprojax.training.parallel import keep_replicated, reader
from reprojax.training.runs import Evaluated


class Numbers(NamedTuple):
    """Numbers of a step."""

    loss: jax.Array
    gradient: jax.Array
    """The norm of the gradient of all learnable params."""
    update: jax.Array
    """The norm of the optimiser's update."""
    moved: jax.Array
    """The norm of the params' difference from the initial ones."""


class TrainState(NamedTuple):
    """A run's whole state: a checkpoint holds it, and a step depends on no more."""

    params: Params
    opt: optax.OptState
    key: Key
    step: jax.Array
    loss: jax.Array  # sum over the epoch's steps
    sums: PyTree  # for label maps, over the epoch's steps
    curves: jax.Array  # [epochs 5], as in `Fitted`, but scores are signed so that
    # higher is better; rows of later epochs are 0
    best: Params  # selected by validation; of equals the earliest
    start: PyTree  # the initial learnable params
    numbers: Numbers  # of the last step
    stopped: jax.Array  # whether a hook has ended the run


def begin(
    program: Program,
    optimizer: optax.GradientTransformation,
    frozen: PyTree,
    images: Any,
    seed: int = 0,
    epochs: int = 1,
    context: PyTree = None,
    params: Params | None = None,
) -> TrainState:
    """The initial state; label maps are not estimated yet (`estimate` does).

    Args:
        images: a batch, or its shape and type; likewise its context.
        epochs: the number of rows of the curves, which `close_epoch` fills.
        params: initial params instead of those drawn from the seed.
    """
    key = jax.random.key(seed)
    if params is None:
        params = program.init(key, frozen, images, unshared(context))
    state = TrainState(
        params=params,
        opt=optimizer.init(params.learnable),
        key=key,
        step=jnp.zeros((), jnp.int32),
        loss=jnp.zeros(()),
        sums=_no_sums(program, params, frozen, images, context),
        curves=jnp.zeros((epochs, 5)),
        best=params,
        start=params.learnable,
        numbers=Numbers(*[jnp.zeros(())] * 4),
        stopped=jnp.zeros((), bool),
    )
    # Copies, because `fit` donates the state: the caller's own arrays may be among the
    # params, and some optimisers keep the params in their state. And strongly typed,
    # because a weak type (jnp.full(n, .1)) would compile the second step again.
    return jax.tree.map(lambda a: jnp.array(a, jnp.result_type(a)), state)


def _no_sums(
    program: Program, params: Params, frozen: PyTree, images: Any, context: PyTree
) -> PyTree:
    labels = jax.ShapeDtypeStruct((_rows(images),), jnp.int32)
    shapes = jax.eval_shape(
        partial(observe_batch, program), params, frozen, images, labels, context
    )
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def _rows(x: PyTree) -> int:
    return jax.tree.leaves(x)[0].shape[0]


@partial(
    jax.jit,
    static_argnums=(0, 1, 2, 3),
    static_argnames=("accumulate", "mesh"),
)
def train_step(
    program: Program,
    optimizer: optax.GradientTransformation,
    loss: Loss,
    sites: tuple[str, ...],
    state: TrainState,
    frozen: PyTree,
    x: PyTree,
    labels: jax.Array,
    context: PyTree = None,
    *,
    accumulate: int = 1,
    mesh: Mesh | None = None,
) -> TrainState:
    """One update of the learnable params, and the sums for the label maps.

    The old state stays usable. A loop that does not keep it can save its memory by
    `jax.jit(train_step, static_argnums=(0, 1, 2, 3), donate_argnums=4)`.

    Args:
        accumulate: number of parts into which the batch is cut. They are computed one
            after the other: less memory, the same gradient. On a CPU, convolutions are
            slow in the compiled loop.
        mesh: has the rows sharded and the state replicated.
    """
    key = jax.random.fold_in(state.key, state.step)
    learnable = state.params.learnable
    call = partial(forward, program, loss, sites)
    rows = frozen, state.step, key, x, labels, context
    whole = gradient(program, call, accumulate, mesh, state.params, *rows)
    # Divided once, so that parts, fillers and class weights give the batch's gradient.
    value = divided(whole.loss, whole.weight)
    grads = jax.tree.map(lambda total: divided(total, whole.weight), whole.grads)

    def again(learnable: PyTree) -> jax.Array:
        params = state.params._replace(learnable=learnable)
        return divided(*call(params, *rows)[:2])

    update = optax.with_extra_args_support(optimizer).update
    extra = {"value": value, "grad": grads, "value_fn": again}
    updates, opt = update(grads, state.opt, learnable, **extra)
    moved = optax.apply_updates(learnable, updates)
    away = jax.tree.map(jnp.subtract, moved, state.start)
    norms = [optax.tree.norm(tree) for tree in (grads, updates, away)]
    new = state._replace(
        params=whole.params._replace(learnable=moved),
        opt=opt,
        step=state.step + 1,
        loss=state.loss + value.astype(state.loss.dtype),
        sums=jax.tree.map(jnp.add, state.sums, whole.sums),
        numbers=Numbers(*(jnp.float32(number) for number in (value, *norms))),
    )
    return keep_replicated(new, mesh)


@partial(jax.jit, static_argnums=(0, 1, 2))
def observe_scores(
    program: Program,
    metrics: tuple[Metric, ...],
    sites: tuple[str, ...],
    params: Params,
    frozen: PyTree,
    x: PyTree,
    labels: jax.Array,
    context: PyTree = None,
) -> list[PyTree]:
    """The sums of each metric over one batch."""
    context = unshared(context)
    y, recorded = record(program.apply, sites)(params, frozen, x, context)
    recorded = {**recorded, "output": y}
    seen = look(recorded, labels, params.learnable, x, context, None, 0)
    return [metric.observe(seen) for metric in metrics]


@partial(jax.jit, static_argnums=0, static_argnames="mesh")
def observe_batch(
    program: Program,
    params: Params,
    frozen: PyTree,
    x: PyTree,
    labels: jax.Array,
    context: PyTree = None,
    *,
    mesh: Mesh | None = None,
) -> PyTree:
    """The sums for the label maps over one batch, in evaluation."""
    call = record(program.apply, ["output", *estimation.raw_sites(program)])
    seen = call(params, frozen, x, unshared(context))[1]
    return keep_replicated(estimation.observe(program, params, seen, labels), mesh)


refresh_maps = jax.jit(estimation.refresh, static_argnums=0)


def evaluate(
    program: Program,
    params: Params,
    frozen: PyTree,
    split: Split,
    batch: int,
    mesh: Mesh | None = None,
    metric: Metric = accuracy,
    sites: tuple[str, ...] = (),
) -> Any:
    """A metric on a split: a float, or [K] for K answers (`alignments.heads`)."""
    given = program, params, frozen, split, batch, mesh
    return measure(*given, (metric,), sites)[metric.name]


def measure(
    program: Program,
    params: Params,
    frozen: PyTree,
    split: Split,
    batch: int,
    mesh: Mesh | None,
    metrics: tuple[Metric, ...],
    sites: tuple[str, ...] = (),
) -> dict[str, Any]:
    """{name: score} of several metrics on a split, in one pass in the split's order."""
    observe = Compiled(observe_scores, program, metrics, sites)
    batches = in_order(split, batch, reader(mesh))
    sums = jax.device_get([observe(params, frozen, *rows) for rows in batches])
    total = jax.tree.map(lambda *each: np.sum(each, axis=0), *sums)
    return {m.name: scored(m, own) for m, own in zip(metrics, total, strict=True)}


def scored(metric: Metric, total: PyTree) -> Any:
    """The score of a metric's sums; raise ValueError if it is NaN."""
    score = np.asarray(metric.score(total))
    if np.isnan(score).all():
        raise ValueError(
            f"the metric {metric.name!r} of a split is not a number, expected one: the "
            "answers are not finite, or the split has no row, or no two labels to "
            "compare; draw a larger split, or take another metric"
        )
    return score if score.ndim else float(score)


def estimate(
    program: Program,
    params: Params,
    frozen: PyTree,
    split: Split,
    batch: int,
    mesh: Mesh | None = None,
) -> Params:
    """The params with label maps estimated by one exact pass over a split."""
    if not estimation.estimated(program):
        return params
    total, observe = None, Compiled(observe_batch, program, mesh=mesh)
    for rows in in_order(split, batch, reader(mesh)):
        sums = observe(params, frozen, *rows)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    assert total is not None
    check_statistics(total, "the training images")
    return Compiled(refresh_maps, program)(params, total)


def shown(evaluated: Evaluated | None, state: TrainState) -> Params:
    """The params to evaluate: those of training, unless `evaluated` gives others."""
    if evaluated is None:
        return state.params
    own = evaluated(state.opt, state.params.learnable)
    return state.params._replace(learnable=own)


def close_epoch(
    state: TrainState, params: Params, score: float, steps: int
) -> TrainState:
    """The state after an epoch of that many steps.

    Args:
        params: those that reached the score, with the new label maps.
        score: signed so that higher is better.
    """
    epoch = int(state.step) // steps - 1
    better = not bool((state.curves[:epoch, 1] >= score).any())
    row = [state.loss / steps, score, *state.numbers[1:]]
    return state._replace(
        params=state.params._replace(fixed=params.fixed),
        # a copy, because the step donates its own params
        best=jax.tree.map(jnp.copy, params) if better else state.best,
        curves=state.curves.at[epoch].set(jnp.array(row)),
        loss=jnp.zeros(()),
        sums=jax.tree.map(jnp.zeros_like, state.sums),
    )


def lengthened(state: TrainState, epochs: int) -> TrainState:
    """A state with curves for that many epochs; the further rows are empty."""
    missing = epochs - len(state.curves)
    curves = jnp.pad(state.curves, ((0, missing), (0, 0)))
    return state._replace(curves=curves) if missing else state


def bar(first: int, total: int, progress: bool, unit: str = "step") -> tqdm:
    """A progress bar with the time left; in a log file one line every half minute."""
    how = {"mininterval": 0.1 if sys.stderr.isatty() else 30.0, "unit": unit}
    return tqdm(total=total, initial=first, disable=not progress, **how)


class Clock:
    """Seconds a step, without the first step (it compiles) and without evaluation."""

    def __init__(self) -> None:
        self.steps, self.total, self.since = -1, 0.0, 0.0

    def start(self) -> None:
        """Call before a step; ignored if the clock runs already."""
        self.since = self.since or time.perf_counter()

    def tick(self, step: jax.Array, stop: bool) -> None:
        """Call after a step; with `stop`, the time until the next start is left out."""
        self.steps += 1
        first = self.steps == 0
        if first or stop:
            jax.block_until_ready(step)
            self.total += 0.0 if first else time.perf_counter() - self.since
            self.since = 0.0

    def seconds_per_step(self) -> float:
        """NaN if only the first step was made."""
        return self.total / self.steps if self.steps > 0 else float("nan")


class Trace:
    """A profile of five steps by process 0, for TensorBoard, after two that compile.

    Without a folder it does nothing; a run with one step left profiles that one.
    """

    def __init__(self, folder: str | Path | None, first: int, total: int) -> None:
        begin = min(first + 2, max(first, total - 1))
        self.folder = folder if jax.process_index() == 0 else None
        self.span = range(begin, min(begin + 5, total))
        self.running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *error: Any) -> None:
        if self.running:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        if self.folder is not None and step == self.span.start:
            jax.profiler.start_trace(str(self.folder))
            self.running = True

    def after(self, step: int, state: PyTree) -> None:
        if self.running and step + 1 == self.span.stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.running = False
