"""One loop, made to be read and forked: train a program's learnable params on a task.

The gradient is taken with respect to `params.learnable` alone, so the frozen weights
get none. Label maps are refreshed from the outputs of the epoch's own steps, or exactly
by a second pass. Images go to the device as uint8. Validation selects; the test split
is read once, at the end, for the selected and for the last params.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.checkpoints import Checkpoints
from reprojax.core import Params, Program, PyTree
from reprojax.data import Task, check, digest, order
from reprojax.losses import Loss, cross_entropy
from reprojax.statistics import Refresh
from reprojax.steps import (
    Clock,
    State,
    bar,
    begin,
    check_answer,
    check_loss,
    close_epoch,
    estimate,
    evaluate,
    refresh_maps,
    train_step,
)


class Fitted(NamedTuple):
    """A trained program, and what it reached."""

    params: Params
    """Selected by validation."""
    last: Params
    """After the last epoch."""
    accuracy: dict[str, float]
    """"validation"; "test", of the selected params; "last", the same of the last."""
    curves: np.ndarray
    """[epochs 2]: mean training loss, validation accuracy."""
    seconds_per_step: float


def fit(
    program: Program,
    frozen: PyTree,
    task: Task,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch: int,
    seed: int = 0,
    loss: Loss = cross_entropy,
    record_sites: tuple[str, ...] = (),
    refresh: Refresh = "epoch",
    out: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Fitted:
    """Train a program on a task, select on validation, and read the test split once.

    Args:
        program: what `reprogram` gives; `frozen` is the model's tree.
        batch: rows a step; what fills a short last batch counts for nothing.
        seed: decides the initial params, the order of images and all randomness.
        loss: a function of the recorded values; `record_sites` names more of them.
        refresh: when label maps are estimated, beyond once before the first step: from
            each epoch's own steps, by an exact second pass, or not again.
        out: a folder for checkpoints; `resume` continues the run there to the same
            bits.
        identity: what else makes this run itself, as JSON; a resume with another is
            refused.
    """
    check_settings(task, epochs, batch, refresh)
    size = min(batch, len(task.train.y))
    steps = order.steps(task.train, size)
    images = jax.ShapeDtypeStruct((size, *task.train.x.shape[1:]), task.train.x.dtype)
    check_answer(program, frozen, task, images, record_sites)
    frozen = jax.device_put(frozen)

    run = {"seed": seed, "epochs": epochs, "batch": batch, "refresh": refresh}
    run |= {"data": digest(task), **(identity or {})}
    clock = Clock()
    with Checkpoints(out, run, resume=resume) as checkpoints:
        first_state = partial(begin, program, optimizer, frozen, images, seed, epochs)
        state = checkpoints.latest(first_state)
        if state is None:
            state = first_state()
            params = estimate(program, state.params, frozen, task.train, size)
            state = state._replace(params=params, best=jax.tree.map(jnp.copy, params))
        first, total = int(state.step), epochs * steps
        with bar(first, total, progress) as line:
            for step in range(first, total):
                ends = (step + 1) % steps == 0
                clock.start()
                x, y = order.batch(task.train, size, seed, step)
                state = train_step(
                    program, optimizer, loss, record_sites, state, frozen, x, y
                )
                clock.tick(state.step, stop=ends)
                line.update()
                if saves := ends or checkpoints.due():
                    check_loss(state, step // steps)
                if ends:
                    state = _end_epoch(
                        program, frozen, task, refresh, steps, size, state
                    )
                    line.set_postfix(validation=f"{state.curves[step // steps, 1]:.3f}")
                if saves:
                    checkpoints.save(step + 1, state)
                    if checkpoints.stopping:
                        where = f"saved in {out}" if out else "nothing saved (no out=)"
                        raise SystemExit(f"stopped at step {step + 1}; {where}")
    test = partial(evaluate, program, frozen=frozen, split=task.test, batch=size)
    curves = np.asarray(state.curves)
    accuracy = {"validation": float(curves[:, 1].max())}
    accuracy["last"] = accuracy["test"] = test(params=state.params)
    if curves[:, 1].argmax() < epochs - 1:  # another epoch was selected than the last
        accuracy["test"] = test(params=state.best)
    return Fitted(state.best, state.params, accuracy, curves, clock.seconds_per_step())


def _end_epoch(
    program: Program,
    frozen: PyTree,
    task: Task,
    refresh: Refresh,
    steps: int,
    size: int,
    state: State,
) -> State:
    params = state.params
    if refresh == "epoch":
        params = refresh_maps(program, params, state.sums)
    elif refresh == "exact":
        params = estimate(program, params, frozen, task.train, size)
    accuracy = evaluate(program, params, frozen, task.validation, size)
    return close_epoch(state, params, accuracy, steps)


def check_settings(task: Task, epochs: int, batch: int, refresh: str) -> None:
    if min(epochs, batch) < 1:
        raise ValueError(
            f"fit got epochs={epochs} and batch={batch}, expected at least 1 of each"
        )
    if refresh not in get_args(Refresh):
        raise ValueError(f"fit got refresh={refresh!r}, expected {get_args(Refresh)}")
    check(task)
