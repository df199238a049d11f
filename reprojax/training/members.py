"""The members of a population, and their simultaneous training by vmap.

`population` says when to use which form.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Program, PyTree, estimation
from reprojax.data import Split, Task, in_order, order
from reprojax.data.rows import spec
from reprojax.saving.checkpoints import Checkpoints
from reprojax.training import checks
from reprojax.training.checks import check_statistics, not_finite
from reprojax.training.compilation import Compiled
from reprojax.training.loop import Fitted, earlier, fitted
from reprojax.training.metrics import Metric
from reprojax.training.runs import Run
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

DIVERGED = -np.inf  # marks a score as missing; no metric reaches it


class Members(NamedTuple):
    """K programs of one run, each with its own rows, seed and initial state."""

    run: Run
    tasks: list[Task]
    seeds: list[int]
    together: bool
    """Whether all members see the same rows."""
    settings: Sequence[Mapping[str, float]] | None = None
    inits: Sequence[Callable] | None = None

    def own(self, k: int) -> tuple[Program, optax.GradientTransformation]:
        """A member's program and optimiser, with its own init functions."""
        program, optimizer = self.run.program, self.run.optimizer
        if self.inits is not None:
            program = program._replace(init=self.inits[k])
        if self.settings is not None:
            begin, values = optimizer.init, self.settings[k]
            begun = lambda params: with_settings(begin(params), values)
            optimizer = optimizer._replace(init=begun)
        return program, optimizer

    def splits(self, name: str) -> list[Split]:
        """The split of that name of each member's task."""
        return [getattr(task, name) for task in self.tasks]


def first_states(members: Members, epochs: int) -> list[TrainState]:
    """The members' initial states."""
    frozen, rows = members.run.frozen, members.run.rows
    contexts = [spec(own.context, rows.size) for own in members.splits("train")]
    return [
        begin(*members.own(k), frozen, rows.x, seed, epochs, contexts[k])
        for k, seed in enumerate(members.seeds)
    ]


def with_settings(opt: optax.OptState, values: Mapping[str, float]) -> optax.OptState:
    """An optimiser's state with other hyperparameters."""
    known = set()

    def put(node: Any) -> Any:
        if not hasattr(node, "hyperparams"):
            return node
        names = set(node.hyperparams) - set(node.hyperparams_states)  # not schedules
        known.update(names)
        new = {
            n: jnp.full_like(node.hyperparams[n], values[n]) for n in names & {*values}
        }
        return node._replace(hyperparams={**node.hyperparams, **new})

    out = jax.tree.map(put, opt, is_leaf=lambda node: hasattr(node, "hyperparams"))
    if missing := sorted(set(values) - known):
        raise ValueError(
            f"got settings for {missing}, expected hyperparameters of the optimiser "
            f"that are numbers in its state ({sorted(known) or 'it has none'}); make "
            "it by optax.inject_hyperparams(optax.adam)(learning_rate=.01)"
        )
    return out


def diverged(state: TrainState, closed: int) -> Fitted:
    """The result of a member that diverged after that many complete epochs."""
    score = {name: float("nan") for name in ("validation", "last", "test")}
    curves = np.array(state.curves)
    curves[closed:] = np.nan
    return Fitted(state.best, state.params, score, curves, float("nan"))


# -- all members at once


def at_once(
    members: Members,
    first: Callable[[], list[TrainState]],
    epochs: int,
    checkpoints: Checkpoints,
    progress: bool,
) -> list[Fitted]:
    states = checkpoints.latest(first, growing=".curves")
    if states is None:
        states = first()
        for k, state in enumerate(states):
            checks.check_params(state.params, f"member {k}")
        params = _estimated(members, [state.params for state in states])
        states = [
            state._replace(params=p, best=jax.tree.map(jnp.copy, p))
            for state, p in zip(states, params, strict=True)
        ]
    states = [lengthened(state, epochs) for state in states]
    run, steps, clock = members.run, members.run.rows.steps, Clock()
    begun, group, step_all = int(states[0].step), grouped(states), None
    with bar(begun, epochs * steps, progress) as line:
        for step in range(begun, epochs * steps):
            ends = (step + 1) % steps == 0
            clock.start()
            *batch, axis = rows(members, step)
            step_all = step_all or stepper(run, axis)
            new = step_all(group._replace(curves=()), run.frozen, *batch)
            group = new._replace(curves=group.curves)
            clock.tick(group.step, stop=ends)
            if step == 0:
                checks.check_first(group.loss)
            line.update()
            if ends:
                states = _end_epoch(members, apart(group))
                group = grouped(states)
                best = max(float(s.curves[step // steps, 1]) for s in states)
                line.set_postfix(best_validation=f"{run.metric.sign * best:.3f}")
            if checkpoints.due(step + 1) or ends:
                checkpoints.save(step + 1, apart(group))
                checkpoints.leave_if_told(step + 1)
    seconds = clock.seconds_per_step() / len(members.seeds)
    return _results(members, apart(group), seconds)


def _end_epoch(members: Members, states: list[TrainState]) -> list[TrainState]:
    run, params = members.run, [shown(members.run.evaluated, s) for s in states]
    if run.refresh == "epoch":
        params = _refreshed(run, params, [state.sums for state in states])
    elif run.refresh == "exact":
        params = _estimated(members, params)
    found = _scores(members, params, "validation", (run.metric,))
    scores = [
        run.metric.sign * own[run.metric.name] if own else DIVERGED for own in found
    ]
    return [
        close_epoch(state, p, score, run.rows.steps)
        for state, p, score in zip(states, params, scores, strict=True)
    ]


def _results(
    members: Members, states: list[TrainState], seconds: float
) -> list[Fitted]:
    run, final = members.run, [shown(members.run.evaluated, s) for s in states]
    test = partial(_scores, members, name="test", metrics=(run.metric, *run.metrics))
    last = best = test(final)
    if any(earlier(run, state) for state in states):
        best = test([state.best for state in states])
    fits = []
    for k, state in enumerate(states):
        if (gone := np.asarray(state.curves)[:, 1] == DIVERGED).any():
            fits.append(diverged(state, int(gone.argmax())))
            continue
        found = best[k] if earlier(run, state) else last[k]
        fits.append(fitted(run, state, final[k], last[k], found, seconds))
    return fits


def grouped(members: Sequence[PyTree]) -> PyTree:
    """K trees as one, with a leading axis of members."""

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


def rows(members: Members, step: int) -> tuple[PyTree, np.ndarray, PyTree, int | None]:
    """All members' x, y and context of a step, and the vmap axis of x and context."""
    seeds, splits = members.seeds, members.splits("train")
    seeds = [seeds[0]] * len(seeds) if members.together else seeds
    keys = [*zip(map(id, splits), seeds, strict=True)]
    made = {
        key: order.batch(own, members.run.rows.size, key[1], step)
        for key, own in zip(keys, splits, strict=True)
    }
    return _joined(splits, [made[key] for key in keys], members.together)


def _joined(
    splits: Sequence[Split], batches: Sequence[tuple], together: bool
) -> tuple[PyTree, np.ndarray, PyTree, int | None]:
    """As `rows`. Images that all share appear once, without a member axis."""
    first = splits[0]
    shared = together and all(
        own.x is first.x and own.context is first.context for own in splits
    )
    x, y, context = zip(*batches, strict=True)
    if shared:
        return x[0], grouped(y), context[0], None
    return grouped(x), grouped(y), grouped(context), 0


def stepper(run: Run, axis: int | None) -> Compiled:
    """(all states, frozen, x, y, context) -> all states; the old states are donated."""
    static = run.program, run.optimizer, run.loss, run.sites
    return _vmapped(train_step, static, (0, None, axis, 0, axis), donate=(0,))


def _summed(
    run: Run, function: Callable, static: tuple, params: list, splits: list[Split]
) -> list[PyTree]:
    """function(program, params, frozen, x, y, context), summed over each split."""
    distinct, group, total = {id(own): own for own in splits}, grouped(params), None
    call, every = None, (in_order(s, run.rows.size) for s in distinct.values())
    for found in zip(*every, strict=True):
        made = dict(zip(distinct, found, strict=True))
        *batch, axis = _joined(splits, [made[id(own)] for own in splits], True)
        call = call or _vmapped(function, static, (0, None, axis, 0, axis))
        each = call(group, run.frozen, *batch)
        total = each if total is None else jax.tree.map(jnp.add, total, each)
    return apart(total)


def _estimated(members: Members, params: list) -> list:
    """The params with label maps from one exact pass, as by `steps.estimate`."""
    run, splits = members.run, members.splits("train")
    if not estimation.estimated(run.program):
        return params
    sums = _summed(run, observe_batch, (run.program,), params, splits)
    for own, seen in zip(params, sums, strict=True):
        if not not_finite(own.learnable):
            check_statistics(seen, "the training images")
    return _refreshed(run, params, sums)


def _refreshed(run: Run, params: list, sums: list) -> list:
    """The params with label maps from sums, if the program has label maps."""
    if not estimation.estimated(run.program):
        return params
    call = _vmapped(refresh_maps, (run.program,), (0, 0))
    return apart(call(grouped(params), grouped(sums)))


def _scores(
    members: Members, params: list, name: str, metrics: tuple[Metric, ...]
) -> list[dict[str, Any]]:
    """{metric: score} of each member on the split of that name; {} for a member that
    diverged, because its NaN would end a run under `JAX_DEBUG_NANS`."""
    run, splits = members.run, members.splits(name)
    static = run.program, metrics, run.sites
    totals = jax.device_get(_summed(run, observe_scores, static, params, splits))
    return [
        {}
        if not_finite(p.learnable)
        else {m.name: scored(m, own) for m, own in zip(metrics, total, strict=True)}
        for total, p in zip(totals, params, strict=True)
    ]
