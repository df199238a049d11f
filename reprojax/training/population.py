"""K programs trained at once on one frozen tree: seeds, rates, first params, tasks.

    rates = [{"learning_rate": rate} for rate in (.001, .01, .1)]
    adam = optax.inject_hyperparams(optax.adam)(learning_rate=.01)
    fits = fit_population(program, frozen, task, optimizer=adam, settings=rates,
                          seeds=[0] * 3, epochs=10, batch=64)

Member k is what `fit` gives with the same seed. All of them share one compiled step, in
one of three forms, and which is fastest turns with the model and the machine, so it is
measured in a few steps at the start:

    vmap   one step with an axis of programs: tiny steps, accelerators; most memory
    map    one after the other inside a compiled loop: transformers on a CPU
    loop   one after the other on the host; a program takes what it takes alone

A form that takes more memory than asked for is not tried. With order="shared" all
members see the same rows; under vmap, programs that differ above a site alone (heads,
prompts in late blocks) then share one forward below it. For K *different* label maps on
one forward, put `alignments.heads` at "output".
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Params, Program, PyTree
from reprojax.core.estimation import Refresh
from reprojax.data import Task, digest
from reprojax.data.order import steps as steps_of
from reprojax.data.task import SPLITS, shape_of, spec, whole_seed
from reprojax.saving.checkpoints import Checkpoints
from reprojax.saving.folders import read_identity
from reprojax.saving.identity import of_run, traced
from reprojax.training import checks, members
from reprojax.training.checks import Evaluated
from reprojax.training.loop import Fitted
from reprojax.training.losses import Loss, cross_entropy, judge
from reprojax.training.members import FORMS, Members
from reprojax.training.steps import (
    Clock,
    TrainState,
    bar,
    close_epoch,
    lengthened,
    shown,
    train_step,
)

How = Literal["measured", "vmap", "map", "loop"]
Order = Literal["own", "shared"]


class Cost(NamedTuple):
    """Of a training step in one form."""

    seconds: float
    """A program; NaN where the form took too much memory to be tried."""
    bytes: int
    """Arguments, results and what is in between, of all programs."""


def fit_population(
    program: Program,
    frozen: PyTree,
    task: Task | Sequence[Task],
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch: int,
    seeds: Sequence[int],
    settings: Sequence[Mapping[str, float]] | None = None,
    inits: Sequence[Callable] | None = None,
    how: How = "measured",
    memory: float = 1.5,
    order: Order = "own",
    loss: Loss = cross_entropy,
    record_sites: tuple[str, ...] = (),
    evaluated: Evaluated | None = None,
    refresh: Refresh = "epoch",
    out: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Fitted]:
    """Train K programs at once; each is selected on validation, as in `fit`.

    Args:
        task: one for all, or one each, of equal shapes.
        seeds: one each, so there are as many members.
        settings: hyperparameters each, such as {"learning_rate": .01}, in the place of
            those of an optimiser that `optax.inject_hyperparams` made.
        inits: another `program.init` each, for other first params of the same shapes.
        how: "vmap", "map", "loop", or the fastest of them in a short measurement.
        memory: the most that a measured form may take, over one program alone.
        order: which rows a step sees: each member its own, as in `fit`, or all of them
            those of the first seed.
        loss, evaluated: as in `fit`.
        out, resume, identity: as in `fit`. The folder keeps which form was measured to
            be the fastest, and a run that is resumed takes that one.

    A member whose loss diverges has the accuracy NaN, and the others go on.
    """
    tasks = [task] * len(seeds) if isinstance(task, Task) else [*task]
    seeds = [whole_seed(seed) for seed in seeds]
    for each in {id(t): t for t in tasks}.values():
        epochs, batch, _ = checks.check_settings(each, epochs, batch, refresh)
    _check(tasks, seeds, settings, inits, how, order)
    run = Members(
        program,
        optimizer,
        loss,
        record_sites,
        frozen,
        tasks,
        [*seeds],
        size=min(batch, len(tasks[0].train.y)),
        together=order == "shared" or len(set(seeds)) == 1,
        evaluated=evaluated,
    )
    what = program, frozen, tasks[0], run.size, loss, record_sites, optimizer
    checks.check_run(*what, evaluated)
    run = run._replace(frozen=jax.device_put(frozen))
    checks.check_frozen(run.frozen)
    first = partial(members.first_states, run, epochs, settings, inits)
    how = _remembered(out, how) if resume else how
    if how == "measured":
        measured = _costs(run, first(), memory)
        how = fastest(measured, memory)
        if progress:
            print(_told(measured, how, len(seeds)), file=sys.stderr)
    plan: dict[str, Any] = {"seeds": [*seeds], "epochs": epochs, "batch": batch}
    plan |= {"refresh": refresh, "order": order, "form": how}
    if out is not None:
        plan |= {"settings": _written(settings), **_ingredients(run, inits, identity)}
    run = run._replace(form=FORMS[how])
    with Checkpoints(out, plan, resume=resume, grows="epochs") as checkpoints:
        return _train(run, first, epochs, refresh, checkpoints, progress)


def costs(
    program: Program,
    frozen: PyTree,
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    batch: int,
    seeds: Sequence[int],
    order: Order = "own",
    loss: Loss = cross_entropy,
    memory: float = float("inf"),
    at_least: int = 3,
) -> dict[str, Cost]:
    """{form: Cost} of steps measured in turn, and "alone", of one program.

    Args:
        at_least: rounds; there are more while half a second has not gone by.
    """
    run = Members(
        program,
        optimizer,
        loss,
        (),
        frozen,
        [task] * len(seeds),
        [*seeds],
        size=min(batch, len(task.train.y)),
        together=order == "shared",
    )
    return _costs(run, members.first_states(run, 1), memory, at_least)


# -- the loop


def _train(
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
        params = members.estimate_members(run, [state.params for state in states])
        states = [
            state._replace(params=p, best=jax.tree.map(jnp.copy, p))
            for state, p in zip(states, params, strict=True)
        ]
    states = [lengthened(state, epochs) for state in states]
    steps, clock = steps_of(run.tasks[0].train, run.size), Clock()
    begun, group = int(states[0].step), run.form.stack(states)
    with bar(begun, epochs * steps, progress) as line:
        for step in range(begun, epochs * steps):
            ends = (step + 1) % steps == 0
            clock.start()
            x, y, axes = members.rows(run, step)
            group = members.stepper(run, axes)(group, run.frozen, x, y)
            clock.tick(jax.tree.leaves(group)[-1], stop=ends)
            if step == 0:
                checks.check_first([state.loss for state in run.form.split(group)])
            line.update()
            if ends:
                states = _end_epoch(run, refresh, steps, run.form.split(group))
                group = run.form.stack(states)
                best = max(float(s.curves[step // steps, 1]) for s in states)
                line.set_postfix(best_validation=f"{best:.3f}")
            if checkpoints.due(step + 1) or ends:
                checkpoints.save(step + 1, run.form.split(group))
                if checkpoints.stopping:
                    where = f"saved in {checkpoints.folder}"
                    where = where if checkpoints.folder else "nothing saved (no out=)"
                    raise SystemExit(f"stopped at step {step + 1}; {where}")
    seconds = clock.seconds_per_step() / len(run.seeds)
    return _results(run, run.form.split(group), seconds)


def _end_epoch(
    run: Members, refresh: Refresh, steps: int, states: list[TrainState]
) -> list[TrainState]:
    params = _shown(run, states)
    if refresh == "epoch":
        params = members.refresh(run, params, [state.sums for state in states])
    elif refresh == "exact":
        params = members.estimate_members(run, params)
    found = members.accuracies(run, params, run.splits("validation"))
    return [
        close_epoch(state, p, accuracy, steps)
        for state, p, accuracy in zip(states, params, found, strict=True)
    ]


def _shown(run: Members, states: list[TrainState]) -> list[Params]:
    return [shown(run.evaluated, state) for state in states]


def _results(run: Members, states: list[TrainState], seconds: float) -> list[Fitted]:
    tests, final = run.splits("test"), _shown(run, states)
    last = members.accuracies(run, final, tests)
    curves = [np.asarray(state.curves) for state in states]
    chosen = [int(c[:, 1].argmax()) for c in curves]
    earlier = [epoch < len(c) - 1 for epoch, c in zip(chosen, curves, strict=True)]
    best = last
    if any(earlier):  # another epoch was selected than the last
        best = members.accuracies(run, [state.best for state in states], tests)
    fits = []
    for k, state in enumerate(states):
        accuracy = {"validation": float(curves[k][chosen[k], 1])}
        accuracy |= {"last": last[k], "test": best[k] if earlier[k] else last[k]}
        told = {name: _or_nan(value) for name, value in accuracy.items()}
        curve = np.stack([curves[k][:, 0], _or_nan(curves[k][:, 1])], 1)
        fits.append(Fitted(state.best, final[k], told, curve, seconds))
    return fits


def _or_nan(accuracy: Any) -> Any:
    """As a reader knows it: NaN where a member had diverged."""
    found = np.where(np.equal(accuracy, members.DIVERGED), np.nan, accuracy)
    return found if found.ndim else float(found)


# -- which run


def _ingredients(
    run: Members,
    inits: Sequence[Callable] | None,
    identity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What else the numbers of a population depend on; see `identity`."""
    x, frozen = members.batch_spec(run), run.frozen
    labels = spec(np.int32(run.tasks[0].train.y), run.size)
    judged = partial(judge, run.loss)
    what = run.program, run.optimizer, run.evaluated, judged, run.sites
    found = of_run(*what, frozen, x, labels, identity)
    key = jax.eval_shape(jax.random.key, 0)
    found["inits"] = [traced(init, key, frozen, x).digest for init in inits or ()]
    known = {id(task): digest(task) for task in run.tasks}
    return found | {"data": [known[id(task)] for task in run.tasks]}


def _written(settings: Sequence[Mapping[str, float]] | None) -> list[dict[str, str]]:
    """As texts, since JSON has no word for an infinite rate."""
    return [
        {name: str(np.asarray(value).tolist()) for name, value in each.items()}
        for each in settings or ()
    ]


def _remembered(out: str | Path | None, how: How) -> How:
    """The form that the run in a folder takes, where the fastest is asked for."""
    there = None if out is None else read_identity(Path(out))
    form = there.get("form") if there and how == "measured" else None
    return form if form in FORMS else how


# -- which form


def _costs(
    run: Members, states: list[TrainState], memory: float, at_least: int = 3
) -> dict[str, Cost]:
    one = run._replace(tasks=run.tasks[:1], seeds=run.seeds[:1])
    calls = {"alone": _Repeated(one, states[:1], len(states))}
    calls |= {n: _Repeated(run._replace(form=f), states) for n, f in FORMS.items()}
    held = {name: call.bytes() for name, call in calls.items()}
    held["loop"] += sum(a.nbytes for a in jax.tree.leaves(states[1:]))
    for name in set(FORMS) - {"loop"}:
        if held[name] > memory * held["alone"]:
            del calls[name]
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
    start = time.perf_counter()
    while len(seconds["alone"]) < at_least or (
        time.perf_counter() - start < 0.5 and len(seconds["alone"]) < 100
    ):
        turn = -1 if len(seconds["alone"]) % 2 else 1  # none always follows the same
        for name in [*calls][::turn]:
            seconds[name].append(calls[name]())
    # As the medians of the rounds' own ratios, which are steadier than the durations.
    alone = np.array(seconds["alone"])
    ratios = {name: float(np.median(each / alone)) for name, each in seconds.items()}
    middle = float(np.median(alone))
    return {n: Cost(middle * ratios.get(n, np.nan), held[n]) for n in held}


class _Repeated:
    """The first step, again and again, in one form; `times` of them a call."""

    def __init__(self, run: Members, states: list[TrainState], times: int = 1) -> None:
        x, y, axes = members.rows(run, 0)
        self._group = run.form.stack(jax.tree.map(jnp.copy, states))
        self._step, self._rest = members.stepper(run, axes), (run.frozen, x, y)
        self._static, self._times, self._count = run.static, times, len(states)

    def __call__(self) -> float:
        """Seconds of a step, a program."""
        start = time.perf_counter()
        for _ in range(self._times):
            self._group = self._step(self._group, *self._rest)
        jax.block_until_ready(self._group)
        return (time.perf_counter() - start) / (self._times * self._count)

    def bytes(self) -> int:
        """What the compiled step holds at once; of a loop, that of one member."""
        if isinstance(self._group, list):
            x, y = (a[0] if isinstance(a, list) else a for a in self._rest[1:])
            given = *self._static, self._group[0], self._rest[0], x, y
            lowered = train_step.lower(*given)
        else:
            step: Any = self._step
            lowered = step.lower(self._group, *self._rest)
        held: Any = lowered.compile().memory_analysis()
        return (
            held.argument_size_in_bytes
            + held.output_size_in_bytes
            + held.temp_size_in_bytes
            - held.alias_size_in_bytes
        )


def fastest(measured: Mapping[str, Cost], memory: float = 1.5) -> How:
    """The host loop, unless another form within the memory is faster beyond noise."""
    most = memory * measured["alone"].bytes
    seconds = {n: measured[n].seconds for n in FORMS if measured[n].bytes <= most}
    seconds["loop"] = 0.97 * measured["loop"].seconds
    tried = [n for n in get_args(How) if not np.isnan(seconds.get(n, np.nan))]
    return min(tried, key=seconds.__getitem__)


def _told(measured: Mapping[str, Cost], how: str, count: int) -> str:
    """One line: what was chosen, and why."""
    alone = measured["alone"]

    def told(name: str) -> str:
        seconds, held = measured[name]
        time = "not tried" if np.isnan(seconds) else f"{seconds / alone.seconds:.2f}"
        return f"{name} {time} (memory {held / alone.bytes:.2g})"

    forms = ", ".join(map(told, FORMS))
    return f"{count} programs by {how}; time a program over one alone: {forms}"


# -- bad input


def _check(
    tasks: Sequence[Task],
    seeds: Sequence[int],
    settings: Sequence[Any] | None,
    inits: Sequence[Any] | None,
    how: str,
    order: str,
) -> None:
    given = {"tasks": tasks, "seeds": seeds, "settings": settings, "inits": inits}
    counts = {name: len(each) for name, each in given.items() if each is not None}
    if not seeds or len(set(counts.values())) > 1:
        raise ValueError(
            f"a population got {counts}, expected one of each a member, and at least "
            "one member; repeat what members share: seeds=[0] * 3"
        )
    if how not in get_args(How) or order not in get_args(Order):
        raise ValueError(
            f"a population got how={how!r} and order={order!r}, expected one of "
            f"{get_args(How)} and one of {get_args(Order)}"
        )
    shapes = {
        (
            len(task.classes),
            *(shape_of(getattr(task, n).x) for n in SPLITS),
            *(getattr(task, n).y.shape for n in SPLITS),
            task.holds,
        )
        for task in tasks
    }
    if len(shapes) > 1:
        raise ValueError(
            f"a population's tasks differ in classes and shapes: {sorted(shapes)}, "
            "expected equal ones, for one compiled step; train them one by one with fit"
        )
