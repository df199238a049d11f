"""K programs on one frozen tree, with different seeds, rates, initial params or tasks.

>>> rates = [{"learning_rate": rate} for rate in (.001, .01, .1)]
>>> adam = optax.inject_hyperparams(optax.adam)(learning_rate=.01)
>>> fits = fit_population(program, frozen, task, optimizer=adam, settings=rates,
...                       seeds=[0] * 3, epochs=2, batch=4)
>>> len(fits)
3

Member k is the result of `fit` with the same seed, in one of two forms:

    loop   `fit` for one member after the other, the same bits; the memory of one
    vmap   one step with an axis of programs: tiny steps, accelerators; most memory

Training does not measure which is faster: `costs` does, and `fastest` chooses. Under
vmap, members that see the same rows (one seed, or order="shared") and differ only above
a site (heads, prompts in late blocks) share one forward below it. For K *different*
label maps on one forward, put `alignments.heads` at "output".
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Program, PyTree
from reprojax.core.estimation import Refresh
from reprojax.core.slips import array_text
from reprojax.core.trees import below, differences
from reprojax.data import Task, digest
from reprojax.data.checks import whole_seed
from reprojax.data.order import outline
from reprojax.data.rows import batch_labels
from reprojax.data.task import SPLITS
from reprojax.saving.checkpoints import Checkpoints
from reprojax.saving.identity import traced
from reprojax.training import checks
from reprojax.training.checks import Diverged
from reprojax.training.compilation import Compiled
from reprojax.training.loop import Fitted, fit
from reprojax.training.losses import Loss, cross_entropy, fitting
from reprojax.training.members import (
    Members,
    at_once,
    diverged,
    first_states,
    grouped,
    rows,
    stepper,
)
from reprojax.training.metrics import Metric, fitting_metric
from reprojax.training.runs import Evaluated, Run, ingredients
from reprojax.training.steps import train_step

How = Literal["loop", "vmap"]
Order = Literal["own", "shared"]


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
    how: How = "loop",
    order: Order = "own",
    loss: Loss | None = None,
    record_sites: tuple[str, ...] = (),
    metric: Metric | None = None,
    metrics: tuple[Metric, ...] = (),
    evaluated: Evaluated | None = None,
    refresh: Refresh = "epoch",
    out: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> list[Fitted]:
    """Train K programs; each is selected on validation, as in `fit`.

    Args:
        task: one for all, or one for each member, of equal shapes and types;
            `data.Shared` values may differ.
        seeds: one for each member, which sets their number.
        settings: hyperparameters of each member, such as {"learning_rate": .01}, that
            replace those of an optimiser made by `optax.inject_hyperparams`.
        inits: another `program.init` for each member, for other initial params of the
            same shapes.
        how: "loop" or "vmap"; their results differ in bits.
        order: "own": each member sees its own rows, as in `fit`; "shared" (vmap): all
            see the rows of the first seed.
        loss, metric, metrics, evaluated: as in `fit`.
        out, resume, identity: as in `fit`; in a loop each member has a folder inside.

    A member whose loss diverges gets the score NaN, and the others continue.
    """
    tasks = [task] * len(seeds) if isinstance(task, Task) else [*task]
    seeds = [whole_seed(seed) for seed in seeds]
    distinct, outlines = [*{id(task): task for task in tasks}.values()], []
    for each in distinct:
        checks.check_arguments("fit_population", program, frozen, each)
        checks.check_is_optimizer(optimizer)
        epochs, batch, _ = checks.check_settings(epochs, batch, refresh)
        outlines.append(outline(each, batch))
    _check(tasks, seeds, settings, inits, how, order)
    _check_alike(distinct)
    loss = loss or fitting(outlines[0])
    metric = metric or fitting_metric(outlines[0], loss)
    run = Run(
        *(program, optimizer, loss, record_sites, jax.device_put(frozen), outlines[0]),
        *(metric, metrics, evaluated, refresh),
    )
    # Alike tasks may still differ in missing labels: check each kind once.
    for own in {(own.gaps, own.short): own for own in outlines}.values():
        checks.check_run(run._replace(rows=own))
    together = order == "shared" or len(set(seeds)) == 1
    members = Members(run, tasks, seeds, together, settings, inits)
    first = partial(first_states, members, epochs)
    jax.eval_shape(first)  # finds wrong settings of any member now, not hours later
    which: dict[str, Any] = {}
    if out is not None:
        which = {"seeds": seeds, "epochs": epochs, "batch": batch}
        which |= {"order": order, "form": how} | _ingredients(members, identity)
    with Checkpoints(out, which, resume=resume, grows="epochs") as checkpoints:
        if how == "vmap":
            checks.check_frozen(run.frozen)
            return at_once(members, first, epochs, checkpoints, progress)
        given = {"epochs": epochs, "batch": batch, "resume": resume}
        given |= {"identity": identity, "progress": progress}
        return [
            _alone(members, k, None if out is None else Path(out) / f"{k}", **given)
            for k in range(len(seeds))
        ]


# -- one after the other


def _alone(members: Members, k: int, out: Path | None, **given: Any) -> Fitted:
    """`fit` of one member."""
    (program, optimizer), run, task = members.own(k), members.run, members.tasks[k]
    same = {n: getattr(run, n) for n in ("loss", "metric", "metrics", "evaluated")}
    same |= {"refresh": run.refresh, "record_sites": run.sites, "out": out} | given
    how = {"optimizer": optimizer, "seed": members.seeds[k]} | same
    try:
        return fit(program, run.frozen, task, **how)
    except Diverged as error:
        return diverged(error.state, (int(error.state.step) - 1) // run.rows.steps)


# -- which form


class Cost(NamedTuple):
    """The cost of a training step in one form."""

    seconds: float
    """For each program; NaN if the form was not tried for its memory."""
    bytes: int
    """Arguments, results and temporaries, of all programs."""


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
    rounds: int = 5,
) -> dict[str, Cost]:
    """The cost of a step in each form: medians of alternating rounds.

    Args:
        memory: vmap is not tried if it takes more than this many times the loop's.
    """
    rows_, together = outline(task, batch), order == "shared"
    run = Run(program, optimizer, loss, (), jax.device_put(frozen), rows_)
    members = Members(run, [task] * len(seeds), [*seeds], together)
    # Without the curves, as in both forms.
    group = grouped(first_states(members, 1))._replace(curves=())
    x, y, context, axis = rows(members, 0)
    first = lambda tree: jax.tree.map(lambda a: jnp.array(a[0]), tree)
    own, c = (x, context) if axis is None else first((x, context))
    given: dict[str, tuple] = {
        "loop": (first(group), run.frozen, own, first(y), c),
        "vmap": (group, run.frozen, x, y, context),
    }
    calls: dict[str, Any] = {
        "loop": Compiled(train_step, program, optimizer, loss, (), donate=(0,)),
        "vmap": stepper(run, axis),
    }
    calls = {n: c.bound(*given[n]).lower(*given[n]).compile() for n, c in calls.items()}
    held: dict[str, int] = {name: _bytes(call) for name, call in calls.items()}
    if held["vmap"] > memory * held["loop"]:
        del calls["vmap"]
    seconds: dict[str, list[float]] = {"loop": [], "vmap": []}
    for turn in range(rounds + 1):  # the first round warms up and is not counted
        for name in [*calls][:: -1 if turn % 2 else 1]:
            state, *rest = given[name]
            start = time.perf_counter()
            given[name] = jax.block_until_ready(calls[name](state, *rest)), *rest
            seconds[name].append(time.perf_counter() - start)
    count: dict[str, int] = {"loop": 1, "vmap": len(seeds)}
    middle = lambda name: float(np.median(seconds[name][1:] or np.nan)) / count[name]
    return {name: Cost(middle(name), held[name]) for name in held}


def _bytes(compiled: Any) -> int:
    """The bytes that a compiled call holds at once."""
    found = compiled.memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )


def fastest(measured: Mapping[str, Cost], memory: float = 1.5) -> How:
    """vmap if it is faster beyond noise (3 %) at no more than `memory` times the
    loop's memory; otherwise the loop."""
    loop, vmap = measured["loop"], measured["vmap"]
    fits = vmap.bytes <= memory * loop.bytes
    return "vmap" if fits and vmap.seconds < 0.97 * loop.seconds else "loop"


# -- which run


def _ingredients(
    members: Members, identity: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Everything that a population's numbers depend on; see `identity`."""
    run = members.run
    given = jax.eval_shape(jax.random.key, 0), run.frozen, run.rows.x, run.rows.context
    found = ingredients(run, identity)
    found["inits"] = [traced(init, *given).digest for init in members.inits or ()]
    # As texts, because JSON has no infinity.
    found["settings"] = [
        {name: str(np.asarray(value).tolist()) for name, value in each.items()}
        for each in members.settings or ()
    ]
    known = {id(task): digest(task) for task in members.tasks}
    return found | {"data": [known[id(task)] for task in members.tasks]}


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
            f"{get_args(How)} and one of {get_args(Order)}; costs() measures which is "
            "faster"
        )
    if (how, order) == ("loop", "shared") and len(set(seeds)) > 1:
        raise ValueError(
            "a population got order='shared' for members of several seeds and "
            "how='loop', expected how='vmap', where they share a forward; or one seed"
        )


def _check_alike(tasks: Sequence[Task]) -> None:
    """Raise unless one compiled step fits all tasks."""
    first, *others = map(_alike, tasks)
    for other in others:
        if lines := differences(other, first):
            raise ValueError(
                f"a population's tasks differ:{below(lines)}\nexpected those of the "
                "first task, for one compiled step; train them one by one with fit"
            )


def _alike(task: Task) -> dict[str, Any]:
    """{property that the tasks of a population must share: this task's}"""
    found = {"classes": len(task.classes), "answers": task.answers, "holds": task.holds}
    for name in SPLITS:
        x, y, context = getattr(task, name)
        y = jax.ShapeDtypeStruct(y.shape, batch_labels(y[:1]).dtype)
        own = {"x": x, "y": y, "context": context}
        found |= {f"{name}.{at}": str(_kinds(tree)) for at, tree in own.items()}
    return found


def _kinds(tree: PyTree) -> PyTree:
    """Types and shapes, also of images in files and of numbers in `Shared`."""
    known = lambda a: a if hasattr(a, "shape") else np.asarray(a)
    return jax.tree.map(lambda a: array_text(known(a)), tree)
