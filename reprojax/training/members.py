"""The steps of K programs as one: vmap, lax.map or a loop on the host.

`population` is the loop over them, and says which form suits what.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reprojax.core import Program, PyTree, estimation
from reprojax.data import Split, Task, in_order, order
from reprojax.data.task import spec
from reprojax.training.checks import Evaluated, check_statistics, not_finite
from reprojax.training.losses import Loss
from reprojax.training.steps import (
    TrainState,
    begin,
    count_correct,
    observe_batch,
    refresh_maps,
    train_step,
)

DIVERGED = -1.0  # an accuracy that there is not

Axes = tuple[int | None, ...]
"""Of each argument: 0, one for each member, or None, one for all."""


class Form(NamedTuple):
    """How a function of one member becomes a function of all."""

    stack: Callable[[Sequence[PyTree]], PyTree]
    """What K members hold, as the lifted functions take and give it."""
    split: Callable[[PyTree], list[PyTree]]
    """The inverse."""
    lift: Callable[..., Callable[..., PyTree]]
    """(function, axes, donate=()) -> the function of all"""


def _stack(members: Sequence[PyTree]) -> PyTree:
    def stack(*leaves: Any) -> Any:
        host = all(isinstance(a, np.ndarray) for a in leaves)
        return np.stack(leaves) if host else jnp.stack(leaves)

    return jax.tree.map(stack, *members)


def _split(group: PyTree) -> list[PyTree]:
    count = jax.tree.leaves(group)[0].shape[0]
    return [jax.tree.map(lambda a, k=k: a[k], group) for k in range(count)]


def _vmapped(function: Callable, axes: Axes, donate: tuple[int, ...] = ()) -> Callable:
    return jax.jit(jax.vmap(function, axes), donate_argnums=donate)


def _mapped(function: Callable, axes: Axes, donate: tuple[int, ...] = ()) -> Callable:
    def run(*args: Any) -> PyTree:
        own = [a for a, axis in zip(args, axes, strict=True) if axis == 0]

        def one(own: list) -> PyTree:
            left = iter(own)
            pairs = zip(args, axes, strict=True)
            return function(*(next(left) if axis == 0 else a for a, axis in pairs))

        return jax.lax.map(one, own)

    return jax.jit(run, donate_argnums=donate)


def _looped(function: Callable, axes: Axes, donate: tuple[int, ...] = ()) -> Callable:
    def run(*args: Any) -> list[PyTree]:
        pairs = zip(args, axes, strict=True)
        columns = [a if axis == 0 else repeat(a) for a, axis in pairs]
        return [function(*own) for own in zip(*columns, strict=False)]

    return run


FORMS = {
    "vmap": Form(_stack, _split, _vmapped),
    "map": Form(_stack, _split, _mapped),
    "loop": Form(list, list, _looped),
}


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
    evaluated: Evaluated | None = None
    form: Form = FORMS["loop"]

    @property
    def static(self) -> tuple:
        """Of `train_step`."""
        return self.program, self.optimizer, self.loss, self.sites

    def splits(self, name: str) -> list[Split]:
        """One for each member."""
        return [getattr(task, name) for task in self.tasks]


def batch_spec(run: Members) -> PyTree:
    """Shapes and types of a batch."""
    return spec(run.tasks[0].train.x, run.size)


def first_states(
    run: Members,
    epochs: int,
    settings: Sequence[Mapping[str, float]] | None = None,
    inits: Sequence[Callable] | None = None,
) -> list[TrainState]:
    """The members' first states."""
    states = []
    for k, seed in enumerate(run.seeds):
        program = run.program._replace(init=inits[k]) if inits else run.program
        state = begin(program, run.optimizer, run.frozen, batch_spec(run), seed, epochs)
        opt = with_settings(state.opt, settings[k]) if settings else state.opt
        states.append(state._replace(opt=opt))
    return states


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


@lru_cache(maxsize=256)  # so that another run compiles nothing anew
def _lifted(
    form: Form, function: Callable, static: tuple, axes: Axes, donate: tuple = ()
) -> Callable:
    return form.lift(partial(function, *static), axes, donate)


def _same(splits: Sequence[Split], together: bool) -> tuple[bool, bool]:
    """Whether x, and y, are the same for all members."""
    first = splits[0]
    x = all(split.x is first.x for split in splits)
    y = all(split.y is first.y for split in splits)
    return together and x, together and y


def _joined(
    form: Form, pairs: Sequence[tuple], same: tuple[bool, bool]
) -> tuple[Any, Any, Axes]:
    """x and y of all members, and their axes. What all share is there once."""
    x, y = (
        parts[0] if one else form.stack(parts)
        for parts, one in zip(zip(*pairs, strict=True), same, strict=True)
    )
    return x, y, (None if same[0] else 0, None if same[1] else 0)


def rows(run: Members, step: int) -> tuple[Any, Any, Axes]:
    """The batches of a step, and their axes."""
    same = _same(run.splits("train"), run.together)
    pairs = [
        order.batch(split, run.size, run.seeds[0 if run.together else k], step)
        for k, split in enumerate(run.splits("train")[: 1 if all(same) else None])
    ]
    return _joined(run.form, pairs, same)


def stepper(run: Members, axes: Axes) -> Callable[..., PyTree]:
    """(all states, frozen, x, y) -> all states; it gives the states away."""
    return _lifted(run.form, train_step, run.static, (0, None, *axes), (0,))


def _summed(
    run: Members, function: Callable, params: list, splits: list[Split]
) -> list[PyTree]:
    """function(program, params, frozen, x, y) of each member, added over a split."""
    same, group, total = _same(splits, True), run.form.stack(params), None
    sources = [in_order(s, run.size) for s in (splits[:1] if all(same) else splits)]
    for pairs in zip(*sources, strict=True):
        x, y, axes = _joined(run.form, pairs, same)
        call = _lifted(run.form, function, (run.program,), (0, None, *axes))
        found = call(group, run.frozen, x, y)
        total = found if total is None else jax.tree.map(jnp.add, total, found)
    return run.form.split(total)


def estimate_members(run: Members, params: list) -> list:
    """With label maps from one exact pass, as `steps.estimate` has them."""
    if not estimation.estimated(run.program):
        return params
    sums = _summed(run, observe_batch, params, run.splits("train"))
    for own, shown in zip(params, sums, strict=True):
        if not not_finite(own.learnable):
            check_statistics(shown, "the training images")
    return refresh(run, params, sums)


def refresh(run: Members, params: list, sums: list) -> list:
    """With label maps from sums, where there are some."""
    if not estimation.estimated(run.program):
        return params
    call = _lifted(run.form, refresh_maps, (run.program,), (0, 0))
    return run.form.split(call(run.form.stack(params), run.form.stack(sums)))


def accuracies(run: Members, params: list, splits: list[Split]) -> list:
    """Of each member; -1 of one that diverged, since NaN ends a run that looks for it
    (`JAX_DEBUG_NANS`)."""
    hits = jax.device_get(_summed(run, count_correct, params, splits))
    return [
        DIVERGED if not_finite(p.learnable) else float(hit) / len(split.y)
        for hit, split, p in zip(hits, splits, params, strict=True)
    ]
