"""Pools of prompts: a row's context chooses its prompts, or weighs their sum.

The context is a feature of each row [B D], usually the frozen model's own
(`core.informed`). Where tasks come one after the other, `begin_task` prepares the
params for the next one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from reprojax.core import Format, Key, Params, PyTree, Scope, fold
from reprojax.core.guards import check_sizes
from reprojax.core.slips import context_width
from reprojax.core.vectors import unit

NO_TASK = -1


def pool(
    size: int,
    initial: Callable[..., jax.Array],
    *,
    top: int = 1,
    axis: int = 0,
    by_task: bool = False,
    transductive: bool = False,
) -> Format:
    """Of `size` prompts those whose keys are nearest to a row's context, by cosine
    (L2P, arXiv 2112.08654).

    The tap "match" is the sum of a row's cosines with its chosen keys [B]. The keys get
    their gradient from it alone, so the loss must read it.

    Args:
        initial: an initialiser (key, shape, dtype) -> array, of keys and prompts.
        top: how many are chosen; their lengths add up to the prompt's.
        axis: the axis of the prompt along which they are joined: its length.
        by_task: after `begin_task`, a training step takes the task's own `top` prompts
            (DualPrompt, arXiv 2204.04799). Evaluation never does.
        transductive: all rows of a batch take the prompts that most of them chose, as
            published code does by default. An answer then depends on the other rows.
    """
    check_sizes("pool", size=size, top=top)
    check_sizes("pool", 0, axis=axis)
    if top > size:
        raise ValueError(f"pool got top={top}, expected at most its size, {size}")

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        each = list(shape)
        each[axis], rest = divmod(shape[axis], top)
        if rest:
            raise ValueError(
                f"pool got a prompt of length {shape[axis]}, expected a multiple of "
                f"top={top}, the number of prompts that are joined"
            )
        width = context_width("a pool of prompts", scope)
        draw = lambda name, shape: initial(fold(key, name), shape, jnp.float32)
        own = {"keys": draw("keys", (size, width))}
        own["prompts"] = draw("prompts", (size, *each))
        return Params(own, _tasks(NO_TASK, top) if by_task else ())

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "B ..."]:
        near = unit(_context(scope)) @ unit(params.learnable["keys"]).T
        which = jax.lax.top_k(near, top)[1]
        if transductive:
            which = _voted(which, size)
        if by_task and scope.key is not None:
            which = _of_task(which, size, **params.fixed)
        if scope.index == 0:  # once for all sites that share the pool
            scope.tap("match", jnp.take_along_axis(near, which, axis=1).sum(1))
        chosen = jnp.moveaxis(params.learnable["prompts"][which], 1, 1 + axis)
        shape = list(chosen.shape)
        joined = shape[1 + axis] * shape.pop(2 + axis)
        return chosen.reshape(*shape[: 1 + axis], joined, *shape[2 + axis :])

    return Format(init, read)


def _tasks(task: int, share: int) -> dict[str, jax.Array]:
    """Fixed params: the present task's number, and how many prompts a task has."""
    return {"task": jnp.int32(task), "share": jnp.int32(share)}


def _context(scope: Scope) -> Float[Array, "B D"]:
    context_width("a pool of prompts", scope)
    return jnp.asarray(scope.context, jnp.float32)


def _voted(which: Int[Array, "B K"], size: int) -> Int[Array, "B K"]:
    """The K prompts that most rows chose; of equals the first."""
    votes = jnp.zeros(size, jnp.int32).at[which.ravel()].add(1)
    return jnp.broadcast_to(jax.lax.top_k(votes, which.shape[1])[1], which.shape)


def _of_task(
    which: Int[Array, "B K"], size: int, task: jax.Array, share: jax.Array
) -> Int[Array, "B K"]:
    """The task's own prompts; those by key where it has none (left)."""
    begin, count = task * share, which.shape[1]
    has = (task >= 0) & (begin + count <= size)
    return jnp.where(has, begin + jnp.arange(count), which)


def components(size: int, tasks: int = 1) -> Format:
    """A sum of `size` prompts, weighted by cos(context * attention, key) of each
    (CODA-Prompt, arXiv 2211.13218).

    Keys, attention and components start orthonormal (Gram-Schmidt). The tap
    "orthogonality" is the published penalty, a number: the mean square of A A^T - I,
    added up over the three.

    Args:
        tasks: T; each task has size / T components. Those of the present and of earlier
            tasks take part, and training changes only the present task's. `begin_task`
            goes on to the next one.
    """
    check_sizes("components", size=size, tasks=tasks)
    if size % tasks:
        raise ValueError(
            f"components got size={size} for tasks={tasks}, expected a multiple of it"
        )

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        width = context_width("a pool of prompts", scope)
        if size > width:
            raise ValueError(
                f"components got size={size} for a context of width {width}, expected "
                "at most that: more keys cannot be orthogonal"
            )
        each = {"attention": (width,), "components": shape, "keys": (width,)}
        none = {name: jnp.zeros((size, *own)) for name, own in each.items()}
        return Params(_drawn(none, key, 0, size // tasks), _tasks(0, size // tasks))

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "B ..."]:
        begin, number = params.fixed["task"] * params.fixed["share"], jnp.arange(size)
        earlier, taking = number < begin, number < begin + params.fixed["share"]
        own = {n: _held(a, earlier) for n, a in params.learnable.items()}
        if scope.index == 0:
            scope.tap("orthogonality", sum(_apart(a, taking) for a in own.values()))
        query = unit(_context(scope)[:, None] * own["attention"])
        weight = jnp.einsum("bmd,md->bm", query, unit(own["keys"]))
        return jnp.tensordot(jnp.where(taking, weight, 0), own["components"], 1)

    return Format(init, read)


def _held(rows: Float[Array, "M *D"], which: Bool[Array, "M"]) -> Float[Array, "M *D"]:
    """The same rows, some of them without a gradient."""
    which = which.reshape(-1, *(1,) * (rows.ndim - 1))
    return jnp.where(which, jax.lax.stop_gradient(rows), rows)


def _apart(rows: Float[Array, "M *D"], taking: Bool[Array, "M"]) -> Float[Array, ""]:
    """How far rows are from orthonormal."""
    flat = jnp.where(taking[:, None], rows.reshape(len(rows), -1), 0)
    return ((flat @ flat.T - jnp.diag(taking * 1.0)) ** 2).sum() / taking.sum() ** 2


def _drawn(rows: Any, key: Key, begin: Any, end: Any) -> dict[str, jax.Array]:
    """Rows from begin to end of each array drawn anew, of length 1, orthogonal to all
    rows before (which need not be orthogonal to each other)."""

    def one(name: str, array: Float[Array, "M *D"]) -> Float[Array, "M *D"]:
        own, flat = fold(key, name), array.reshape(len(array), -1)

        def place(k: Any, flat: Float[Array, "M N"]) -> Float[Array, "M N"]:
            row = jax.random.normal(jax.random.fold_in(own, k), flat.shape[1:])
            square = (flat**2).sum(1)
            before = (jnp.arange(len(flat)) < k) & (square > 1e-8)
            share = jnp.where(before, flat @ row / jnp.where(before, square, 1), 0)
            return flat.at[k].set(unit(row - share @ flat))

        return jax.lax.fori_loop(begin, end, place, flat).reshape(array.shape)

    return {name: one(name, array) for name, array in rows.items()}


def begin_task(params: Params, task: int, key: Key) -> Params:
    """The params of a program, prepared for the task of that number, from 0.

    DualPrompt's prompts of a task start where the previous task's ended, and
    CODA-Prompt's are orthogonal to all before, as in the published codes. Other sites
    stay as they are.
    """
    learnable, fixed = dict(params.learnable), dict(params.fixed)
    having = [n for n, own in fixed.items() if isinstance(own, dict) and "share" in own]
    if not having:
        raise ValueError(
            f"got the sites {[*fixed]} without tasks, expected params with a pool of "
            "by_task=True, or with components"
        )
    for name in having:
        own, share = learnable[name], int(fixed[name]["share"])
        begin, end = task * share, (task + 1) * share
        if "prompts" in own:
            learnable[name] = own | {"prompts": _copied(own["prompts"], begin, end)}
        else:
            learnable[name] = _begun(own, fold(key, name), begin, end)
        fixed[name] = _tasks(task, share)
    return Params(learnable, fixed)


def _copied(prompts: Float[Array, "M ..."], begin: int, end: int) -> Any:
    """The prompts of a task set to the previous task's, if the pool has them."""
    if not begin or end > len(prompts):
        return prompts
    return prompts.at[begin:end].set(prompts[2 * begin - end : begin])


def _begun(own: dict[str, jax.Array], key: Key, begin: int, end: int) -> dict[str, Any]:
    if end > len(own["keys"]):
        raise ValueError(
            f"got a task that needs the components {begin} to {end - 1} of "
            f"{len(own['keys'])}, expected tasks that have some; build the program "
            "for more tasks"
        )
    return _drawn(own, key, begin, end) if begin else own
