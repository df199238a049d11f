"""One loop, made to be read and forked: train a program's learnable params on a task.

The gradient is taken with respect to `params.learnable` alone, so the frozen weights
get none. Label maps are refreshed from the outputs of the epoch's own steps, or exactly
by a second pass. Images go to the device as uint8. Validation selects; the test split
is read once, at the end, for the selected and for the last params.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from reprojax.checkpoints import Checkpoints
from reprojax.core import Params, Program, PyTree
from reprojax.data import Task, check, digest, order
from reprojax.losses import Loss, cross_entropy
from reprojax.statistics import Refresh
from reprojax.steps import (
    Clock,
    State,
    estimate,
    evaluate,
    observe_batch,
    refresh_maps,
    train_step,
)
from reprojax.taps import record


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
    _check_settings(task, epochs, batch, refresh)
    size = min(batch, len(task.train.y))
    steps = order.steps(task.train, size)
    images = jax.ShapeDtypeStruct((size, *task.train.x.shape[1:]), task.train.x.dtype)
    _check_answer(program, frozen, task, images, record_sites)
    frozen = jax.device_put(frozen)

    def begin() -> State:
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

    run = {"seed": seed, "epochs": epochs, "batch": batch, "refresh": refresh}
    run |= {"data": digest(task), **(identity or {})}
    clock = Clock()
    with Checkpoints(out, run, resume=resume) as checkpoints:
        state = checkpoints.latest(begin)
        if state is None:
            state = begin()
            params = estimate(program, state.params, frozen, task.train, size)
            state = state._replace(params=params, best=jax.tree.map(jnp.copy, params))
        first, total = int(state.step), epochs * steps
        with _bar(first, total, progress) as bar:
            for step in range(first, total):
                ends = (step + 1) % steps == 0
                clock.start()
                x, y = order.batch(task.train, size, seed, step)
                state = train_step(
                    program, optimizer, loss, record_sites, state, frozen, x, y
                )
                clock.tick(state.step, stop=ends)
                bar.update()
                if saves := ends or checkpoints.due():
                    _check_loss(state, step // steps)
                if ends:
                    state = _end_epoch(
                        program, frozen, task, refresh, steps, size, state
                    )
                    bar.set_postfix(validation=f"{state.curves[step // steps, 1]:.3f}")
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


def _bar(first: int, total: int, progress: bool) -> tqdm:
    """Steps done and the time left; in a log file a line every half minute."""
    often = 0.1 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=total, initial=first, unit="step", disable=not progress, mininterval=often
    )


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


def _no_sums(program: Program, params: Params, frozen: PyTree, images: Any) -> PyTree:
    labels = jax.ShapeDtypeStruct(images.shape[:1], jnp.int32)
    shapes = jax.eval_shape(
        partial(observe_batch, program), params, frozen, images, labels
    )
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)


def _check_settings(task: Task, epochs: int, batch: int, refresh: str) -> None:
    if min(epochs, batch) < 1:
        raise ValueError(
            f"fit got epochs={epochs} and batch={batch}, expected at least 1 of each"
        )
    if refresh not in get_args(Refresh):
        raise ValueError(f"fit got refresh={refresh!r}, expected {get_args(Refresh)}")
    check(task)


def _check_answer(
    program: Program, frozen: PyTree, task: Task, images: Any, sites: tuple[str, ...]
) -> None:
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


def _check_loss(state: State, epoch: int) -> None:
    # The params too: what the last step of all broke, no later loss would show.
    numbers = [state.loss, *jax.tree.leaves(state.params.learnable)]
    if not all(bool(jnp.isfinite(a).all()) for a in numbers):
        raise ValueError(
            f"the loss diverged in epoch {epoch + 1} (by step {int(state.step)}); "
            "what was saved before stays; lower the learning rate, or clip the "
            "gradient with optax.clip_by_global_norm"
        )
