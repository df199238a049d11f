"""Train a program's learnable params on a task: one loop, meant to be read and forked.

Gradients are taken with respect to `params.learnable` only, so the frozen weights get
none. Label maps are refreshed from the outputs of the epoch's own steps, or exactly by
a second pass. Images go to the device as uint8. Validation selects the params; the test
split is read once, at the end, for the selected and for the last params.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from reprojax.core import Params, Program, PyTree
from reprojax.core.estimation import Refresh
from reprojax.core.trees import fingerprint
from reprojax.data import Split, Task, digest, order
from reprojax.data.checks import whole_seed
from reprojax.data.order import outline
from reprojax.saving.checkpoints import Checkpoints
from reprojax.saving.identity import of_mesh
from reprojax.training import checks, hooks, parallel
from reprojax.training.compilation import Compiled
from reprojax.training.hooks import Every, OnEpoch, OnStep, checked_hooks
from reprojax.training.losses import Loss, fitting
from reprojax.training.metrics import Metric, fitting_metric
from reprojax.training.runs import Evaluated, Run, ingredients
from reprojax.training.steps import (
    Clock,
    Numbers,
    Trace,
    TrainState,
    bar,
    begin,
    close_epoch,
    estimate,
    lengthened,
    measure,
    refresh_maps,
    shown,
    train_step,
)


class Fitted(NamedTuple):
    """A trained program and its scores."""

    params: Params
    """Selected by validation."""
    last: Params
    """After the last epoch."""
    score: dict[str, float]
    """Of the selecting metric: "validation"; "test", for the selected params; "last",
    on the test split, for the last params."""
    curves: np.ndarray
    """[epochs 5]: mean training loss and validation score; then, after the epoch's last
    step, the norms of the gradient, of the update, and of the params' move so far."""
    seconds_per_step: float
    metrics: dict[str, float] = {}
    """{name: number} on the test split, of the selected params: the selecting metric
    first, then the further `metrics`."""

    @property
    def accuracy(self) -> dict[str, float]:
        """The score, if accuracy selected the run; otherwise raise ValueError."""
        if next(iter(self.metrics), "accuracy") != "accuracy":
            raise ValueError(
                f"the run was selected by another metric than accuracy, the first of "
                f"{[*self.metrics]}; read fitted.score and fitted.metrics"
            )
        return self.score


def fit(
    program: Program,
    frozen: PyTree,
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch: int,
    seed: int = 0,
    params: Params | None = None,
    loss: Loss | None = None,
    record_sites: tuple[str, ...] = (),
    metric: Metric | None = None,
    metrics: tuple[Metric, ...] = (),
    evaluated: Evaluated | None = None,
    refresh: Refresh = "epoch",
    mesh: Mesh | None = None,
    accumulate: int = 1,
    out: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    profile: str | Path | None = None,
    on_step: OnStep | Every | None = None,
    on_epoch: OnEpoch | None = None,
    progress: bool = True,
) -> Fitted:
    """Train a program on a task, select on validation, and read the test split once.

    Args:
        program: what `reprogram` gives; `frozen` is the model's tree.
        batch: rows a step; rows that fill a short last batch do not count.
        seed: decides the initial params, the order of images and all randomness.
        optimizer: it also gets the loss, as `value`, `grad` and `value_fn`; the latter
            computes the whole batch at once, whatever `accumulate` is.
        params: initial params instead of those drawn from the seed. Their label maps
            are estimated anew.
        loss: a value for each row from a batch's `losses.Seen`; `record_sites` names
            further sites to record. The default follows the task's answers: cross
            entropy, binary for several labels a row, or squared error.
        metric: selects by validation. The default follows the answers: accuracy,
            ROC-AUC, mean squared error; without labels the loss.
        metrics: further metrics for `Fitted.metrics`.
        evaluated: (optimiser state, learnable) -> the learnable params to evaluate,
            select and return, if they are not the trained ones:
            `optax.contrib.schedule_free_eval_params`, an average of params.
        refresh: when label maps are estimated again, after the estimate before the
            first step: from each epoch's own steps, by an exact second pass, or never.
        mesh: devices from `parallel.mesh`. Params and weights are copied to all of
            them; weights already on the mesh keep their placement.
        accumulate: number of parts into which a batch is cut to save memory; they are
            computed one after the other, and the gradient is that of the whole batch.
        out: a folder for checkpoints; `resume` continues the run there, with as many
            epochs or more, to the same bits. A run that differs in anything that
            affects the numbers, such as another loss or metric of the same name, raises
            ValueError, which names what differs: see `identity`.
        identity: further settings that define this run, as JSON.
        profile: a folder for a profile of a few steps, for TensorBoard.
        on_step, on_epoch: functions of the run's numbers (see `hooks`); training ends
            after an epoch for which `on_epoch` returns True. Until then they do not
            change a bit.
    """
    checks.check_arguments("fit", program, frozen, task)
    checks.check_is_optimizer(optimizer)
    given = epochs, batch, refresh, accumulate
    epochs, batch, accumulate = checks.check_settings(*given)
    often, tell = checked_hooks(on_step, on_epoch)
    seed, rows = whole_seed(seed), outline(task, batch)
    loss = loss or fitting(rows)
    metric = metric or fitting_metric(rows, loss)
    run = Run(
        *(program, optimizer, loss, record_sites, frozen, rows, metric, metrics),
        *(evaluated, refresh, mesh, accumulate),
    )
    checks.check_run(run)
    if params is not None:
        drawn = partial(program.init, jax.random.key(0), frozen, rows.x, rows.context)
        checks.check_start(params, jax.eval_shape(drawn))
    which: dict[str, Any] = {}
    if out is not None:
        which = {"seed": seed, "epochs": epochs, "batch": batch, "data": digest(task)}
        which |= {"accumulate": accumulate, "mesh": of_mesh(mesh)}
        which |= {} if params is None else {"params": fingerprint(params)}
        which |= ingredients(run, identity)
    frozen = parallel.settle(frozen, mesh)
    checks.check_frozen(frozen)
    run = run._replace(frozen=frozen)
    held = None if mesh is None else parallel.replicated(mesh)
    what = program, optimizer, loss, record_sites
    update = Compiled(train_step, *what, donate=(0,), mesh=mesh, accumulate=accumulate)

    clock, steps = Clock(), rows.steps
    with Checkpoints(out, which, resume=resume, grows="epochs") as checkpoints:
        given = rows.x, seed, epochs, rows.context, params
        first_state = partial(begin, program, optimizer, frozen, *given)
        state = checkpoints.latest(first_state, held, growing=".curves")
        if state is None:
            state = first_state()
            checks.check_params(state.params)
            state = parallel.replicate(state, mesh)
            begun = estimate(program, state.params, frozen, task.train, rows.size, mesh)
            state = state._replace(params=begun, best=jax.tree.map(jnp.copy, begun))
        state = lengthened(state, epochs)
        first, total = int(state.step), epochs * steps
        total = first if bool(state.stopped) else total
        with (
            bar(first, total, progress and jax.process_index() == 0) as line,
            Trace(profile, first, total) as trace,
        ):
            how = parallel.reader(mesh, accumulate)
            batches = order.batches(task.train, rows.size, seed, first, total, how)
            for step in range(first, total):
                ends = (step + 1) % steps == 0
                trace.before(step)
                clock.start()
                # Without curves: their length is `epochs`, and the compiled step
                # should not depend on it.
                new = update(state._replace(curves=()), frozen, *next(batches))
                state = new._replace(curves=state.curves)
                clock.tick(state.step, stop=ends or profile is not None)
                if step == 0:
                    checks.check_first([state.loss])
                trace.after(step, state)
                line.update()
                if tell is not None and (step + 1) % often == 0:
                    tell(hooks.Step(step + 1, *_plain(state.numbers)))
                if saves := checkpoints.due(step + 1) or ends:
                    checks.check_loss(state, step // steps, step + 1)
                if ends:
                    state = _end_epoch(run, task, state)
                    told = _epoch(run, state)
                    line.set_postfix(told.shown())
                    if on_epoch is not None and on_epoch(told):
                        state = state._replace(stopped=jnp.ones((), bool))
                        state = parallel.replicate(state, mesh)
                if saves:
                    checkpoints.save(step + 1, state)
                    checkpoints.leave_if_told(step + 1)
                if ends and bool(state.stopped):
                    break
    test = partial(_measured, run, task.test, (metric, *metrics))
    last = shown(evaluated, state)
    reached = test(last)
    found = test(state.best) if earlier(run, state) else reached
    return fitted(run, state, last, reached, found, clock.seconds_per_step())


def _end_epoch(run: Run, task: Task, state: TrainState) -> TrainState:
    given, params = (run.frozen, task.train, run.rows.size), shown(run.evaluated, state)
    if run.refresh == "epoch":
        params = Compiled(refresh_maps, run.program)(params, state.sums)
    elif run.refresh == "exact":
        params = estimate(run.program, params, *given, run.mesh)
    found = _measured(run, task.validation, (run.metric,), params)
    score = run.metric.sign * found[run.metric.name]
    state = close_epoch(state, params, score, run.rows.steps)
    return parallel.replicate(state, run.mesh)


def _measured(
    run: Run, split: Split, metrics: tuple[Metric, ...], params: Params
) -> dict[str, Any]:
    given = run.frozen, split, run.rows.size, run.mesh, metrics, run.sites
    return measure(run.program, params, *given)


def _plain(numbers: Numbers) -> list[float]:
    """The numbers on the host; only hooks cost this transfer."""
    return [float(number) for number in jax.device_get(numbers)]


def _epoch(run: Run, state: TrainState) -> hooks.Epoch:
    curves, sign = _curves(run, state), run.metric.sign
    loss, validation, *norms = map(float, curves[-1])
    told = len(curves), int(state.step), loss, validation, *norms
    return hooks.Epoch(*told, curves=curves, sign=sign)


# -- the result


def _curves(run: Run, state: TrainState) -> np.ndarray:
    """The curves of the epochs so far, with scores in their metric's own sign."""
    signs = np.array([1, run.metric.sign, 1, 1, 1], np.float32)
    return np.asarray(state.curves)[: int(state.step) // run.rows.steps] * signs


def _selected(run: Run, curves: np.ndarray) -> int:
    return int((run.metric.sign * curves[:, 1]).argmax())


def earlier(run: Run, state: TrainState) -> bool:
    """Whether the selected epoch is not the last."""
    curves = _curves(run, state)
    return _selected(run, curves) < len(curves) - 1


def fitted(
    run: Run,
    state: TrainState,
    last: Params,
    reached: dict[str, float],
    found: dict[str, float],
    seconds: float,
) -> Fitted:
    """The result of a run: `reached` are the last params' numbers on the test split,
    `found` the selected params'."""
    curves, name = _curves(run, state), run.metric.name
    score = {"validation": float(curves[_selected(run, curves), 1])}
    score |= {"last": reached[name], "test": found[name]}
    return Fitted(state.best, last, score, curves, seconds, found)
