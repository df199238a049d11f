"""The members of a population, and their training at once by vmap.

`population` says which form suits what.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Params, Program, PyTree, estimation
from reprojax.core.estimation import Refresh
from reprojax.data import Split, Task, in_order, order
from reprojax.data.task import spec
from reprojax.saving.checkpoints import Checkpoints
from reprojax.training import checks
from reprojax.training.checks import Evaluated, check_statistics, not_finite
from reprojax.training.compilation import Compiled
from reprojax.training.loop import Fitted
from reprojax.training.losses import Loss
from reprojax.training.metrics import Metric, accuracy
from reprojax.training.steps import (
    Clock,
    TrainState,
    bar,
    begin,
    close_epoch,
    lengthened,
    observe_batch,
    observe_scores,
    refresh_maps,
    scored,
    shown,
    train_step,
)

DIVERGED = -np.inf  # a score that there is not


class Members(NamedTuple):
    """What stays the same through a run of K programs."""

    program: Program
    optimizer: optax.GradientTransformation
    loss: Loss
    sites: tuple[str, ...]
    frozen: PyTree
    tasks: list[Task]
    seeds: list[int]
    size: int
    together: bool
    """Whether all members see the same rows."""
    settings: Sequence[Mapping[str, float]] | None = None
    inits: Sequence[Callable] | None = None
    evaluated: Evaluated | None = None
    metric: Metric = accuracy
    metrics: tuple[Metric, ...] = ()

    def own(self, k: int) -> tuple[Program, optax.GradientTransformation]:
        """The program and the optimiser of a member, which begin in their own way."""
        program, optimizer = self.program, self.optimizer
        if self.inits is not None:
            program = program._replace(init=self.inits[k])
        if self.settings is not None:
            values = self.settings[k]
            begun = lambda params: with_settings(self.optimizer.init(params), values)
            optimizer = optimizer._replace(init=begun)
        return program, optimizer

    def splits(self, name: str) -> list[Split]:
        """One for each member."""
        return [getattr(task, name) for task in self.tasks]


def batch_spec(run: Members) -> tuple[PyTree, PyTree]:
    """Shapes and types of a batch, and of its context."""
    split = run.tasks[0].train
    return spec(split.x, run.size), spec(split.context, run.size)


def first_states(run: Members, epochs: int) -> list[TrainState]:
    """The members' first states."""
    x, context = batch_spec(run)
    rest = [(run.frozen, x, seed, epochs, context) for seed in run.seeds]
    return [begin(*run.own(k), *own) for k, own in enumerate(rest)]


def with_settings(opt: optax.OptState, values: Mapping[str, float]) -> optax.OptState:
    """An optimiser's state with other hyperparameters."""
    known = set()

    def put(node: Any) -> Any:
        if not hasattr(node, "hyperparams"):
            return node
        names = set(node.hyperparams) - set(node.hyperparams_states)  # no schedules
        known.update(names)
        new = {
            n: jnp.full_like(node.hyperparams[n], values[n]) for n in names & {*values}
        }
        return node._replace(hyperparams={**node.hyperparams, **new})

    out = jax.tree.map(put, opt, is_leaf=lambda node: hasattr(node, "hyperparams"))
    if missing := sorted(set(values) - known):
        raise ValueError(
            f"settings came for {missing}, expected hyperparameters of the optimiser "
            f"that are numbers in its state ({sorted(known) or 'it has none'}); make "
            "it by optax.inject_hyperparams(optax.adam)(learning_rate=.01)"
        )
    return out


def diverged(state: TrainState, closed: int) -> Fitted:
    """Of a member that had so many epochs before."""
    score = {name: float("nan") for name in ("validation", "last", "test")}
    curves = np.array(state.curves)
    curves[closed:] = np.nan
    return Fitted(state.best, state.params, score, curves, float("nan"))


# -- all at once


def at_once(
    run: Members,
    first: Callable[[], list[TrainState]],
    epochs: int,
    refresh: Refresh,
    checkpoints: Checkpoints,
    progress: bool,
) -> list[Fitted]:
    states = checkpoints.latest(first, growing=".curves")
    if states is None:
        states = first()
        for k, state in enumerate(states):
            checks.check_params(state.params, f"member {k}")
        params = _estimated(run, [state.params for state in states])
        states = [
            state._replace(params=p, best=jax.tree.map(jnp.copy, p))
            for state, p in zip(states, params, strict=True)
        ]
    states = [lengthened(state, epochs) for state in states]
    steps, clock = order.steps(run.tasks[0].train, run.size), Clock()
    begun, group, step_all = int(states[0].step), grouped(states), None
    with bar(begun, epochs * steps, progress) as line:
        for step in range(begun, epochs * steps):
            ends = (step + 1) % steps == 0
            clock.start()
            *batch, axis = rows(run, step)
            step_all = step_all or stepper(run, axis)
            group = step_all(group, run.frozen, *batch)
            clock.tick(jax.tree.leaves(group)[-1], stop=ends)
            if step == 0:
                checks.check_first(group.loss)
            line.update()
            if ends:
                states = _end_epoch(run, refresh, steps, apart(group))
                group = grouped(states)
                best = max(float(s.curves[step // steps, 1]) for s in states)
                line.set_postfix(best_validation=f"{run.metric.sign * best:.3f}")
            if checkpoints.due(step + 1) or ends:
                checkpoints.save(step + 1, apart(group))
                checkpoints.leave_if_told(step + 1)
    return _results(run, apart(group), clock.seconds_per_step() / len(run.seeds))


def _end_epoch(
    run: Members, refresh: Refresh, steps: int, states: list[TrainState]
) -> list[TrainState]:
    params = _shown(run, states)
    if refresh == "epoch":
        params = _refreshed(run, params, [state.sums for state in states])
    elif refresh == "exact":
        params = _estimated(run, params)
    found = _scores(run, params, "validation", (run.metric,))
    return [
        close_epoch(state, p, _signed(run, own), steps)
        for state, p, own in zip(states, params, found, strict=True)
    ]


def _signed(run: Members, found: dict[str, Any]) -> float:
    """By which more is better."""
    metric = run.metric
    return metric.sign * found[metric.name] if found else DIVERGED


def _shown(run: Members, states: list[TrainState]) -> list[Params]:
    return [shown(run.evaluated, state) for state in states]


def _results(run: Members, states: list[TrainState], seconds: float) -> list[Fitted]:
    final, curves = _shown(run, states), [np.asarray(s.curves) for s in states]
    last = best = _scores(run, final, "test", (run.metric, *run.metrics))
    if any(c[:, 1].argmax() < len(c) - 1 for c in curves):  # another than the last
        chosen = [state.best for state in states]
        best = _scores(run, chosen, "test", (run.metric, *run.metrics))
    fits = []
    for k, curve in enumerate(curves):
        if (gone := curve[:, 1] == DIVERGED).any():
            fits.append(diverged(states[k], int(gone.argmax())))
            continue
        epoch, name, sign = int(curve[:, 1].argmax()), run.metric.name, run.metric.sign
        curve = curve * np.array([1, sign, 1, 1, 1], np.float32)
        found = best[k] if epoch < len(curve) - 1 else last[k]
        score = {"validation": float(curve[epoch, 1]), "last": last[k][name]}
        score["test"] = found[name]
        fits.append(Fitted(states[k].best, final[k], score, curve, seconds, found))
    return fits


def grouped(members: Sequence[PyTree]) -> PyTree:
    """K trees as one, with an axis of members in front."""

    def one(*leaves: Any) -> Any:
        host = all(isinstance(a, np.ndarray) for a in leaves)
        return np.stack(leaves) if host else jnp.stack(leaves)

    return jax.tree.map(one, *members)


def apart(group: PyTree) -> list[PyTree]:
    """The inverse of `grouped`."""
    count = jax.tree.leaves(group)[0].shape[0]
    return [jax.tree.map(lambda a, k=k: a[k], group) for k in range(count)]


def _vmapped(function: Callable, static: tuple, axes: tuple, **how: Any) -> Compiled:
    return Compiled(_each, function, static, axes, **how)


def _each(function: Callable, static: tuple, axes: tuple, *args: PyTree) -> PyTree:
    return jax.vmap(partial(function, *static), axes)(*args)


def rows(run: Members, step: int) -> tuple[PyTree, np.ndarray, PyTree, int | None]:
    """x, y and context of a step for all members, and the axis of x and context."""
    seeds = [run.seeds[0]] * len(run.seeds) if run.together else run.seeds
    keys = [*zip(map(id, run.splits("train")), seeds, strict=True)]
    distinct = dict(zip(keys, run.splits("train"), strict=True))
    made = {
        key: order.batch(own, run.size, key[1], step) for key, own in distinct.items()
    }
    return _joined(run.splits("train"), [made[key] for key in keys], run.together)


def _joined(
    splits: Sequence[Split], batches: Sequence[tuple], together: bool
) -> tuple[PyTree, np.ndarray, PyTree, int | None]:
    """Images that all share are there once, without an axis of members."""
    first = splits[0]
    shared = together and all(
        own.x is first.x and own.context is first.context for own in splits
    )
    x, y, context = zip(*batches, strict=True)
    if shared:
        return x[0], grouped(y), context[0], None
    return grouped(x), grouped(y), grouped(context), 0


def stepper(run: Members, axis: int | None) -> Compiled:
    """(all states, frozen, x, y, context) -> all states, given away."""
    static = run.program, run.optimizer, run.loss, run.sites
    return _vmapped(train_step, static, (0, None, axis, 0, axis), donate=(0,))


def _summed(
    run: Members, function: Callable, static: tuple, params: list, splits: list[Split]
) -> list[PyTree]:
    """function(program, params, frozen, x, y, context) of each member, added up."""
    distinct, group, total = {id(own): own for own in splits}, grouped(params), None
    call = None
    for found in zip(*(in_order(s, run.size) for s in distinct.values()), strict=True):
        made = dict(zip(distinct, found, strict=True))
        *batch, axis = _joined(splits, [made[id(own)] for own in splits], True)
        call = call or _vmapped(function, static, (0, None, axis, 0, axis))
        each = call(group, run.frozen, *batch)
        total = each if total is None else jax.tree.map(jnp.add, total, each)
    return apart(total)


def _estimated(run: Members, params: list) -> list:
    """With label maps from one exact pass, as `steps.estimate` has them."""
    if not estimation.estimated(run.program):
        return params
    sums = _summed(run, observe_batch, (run.program,), params, run.splits("train"))
    for own, seen in zip(params, sums, strict=True):
        if not not_finite(own.learnable):
            check_statistics(seen, "the training images")
    return _refreshed(run, params, sums)


def _refreshed(run: Members, params: list, sums: list) -> list:
    """With label maps from sums, where there are some."""
    if not estimation.estimated(run.program):
        return params
    return apart(
        _vmapped(refresh_maps, (run.program,), (0, 0))(grouped(params), grouped(sums))
    )


def _scores(
    run: Members, params: list, name: str, metrics: tuple[Metric, ...]
) -> list[dict[str, Any]]:
    """{metric: score} of each on the split of that name; of a member that diverged
    nothing, since NaN ends a run that looks for it (`JAX_DEBUG_NANS`)."""
    splits, static = run.splits(name), (run.program, metrics, run.sites)
    totals = jax.device_get(_summed(run, observe_scores, static, params, splits))
    return [
        {}
        if not_finite(p.learnable)
        else {m.name: scored(m, own) for m, own in zip(metrics, total, strict=True)}
        for total, p in zip(totals, params, strict=True)
    ]
