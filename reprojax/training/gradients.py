"""The gradient of a batch, whole or in parts, on one device or a mesh.

Parts and devices give sums of the loss, of its weights and of the gradient, and the
caller divides once. A mean of means would differ if rows are filler or have different
weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr
from jax.sharding import Mesh, PartitionSpec

from reprojax.core import Key, Params, Program, PyTree, estimation, record
from reprojax.data import Shared
from reprojax.data.rows import parted, unshared
from reprojax.training import parallel
from reprojax.training.losses import Loss, judge, summed


def forward(
    program: Program,
    loss: Loss,
    sites: tuple[str, ...],
    params: Params,
    frozen: PyTree,
    step: jax.Array,
    key: Key,
    x: PyTree,
    labels: jax.Array,
    context: PyTree = None,
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """Sums of the loss and of its weights over some rows, and the recorded values."""
    wanted = ("output", *estimation.raw_sites(program), *sites)
    call = record(program.apply, wanted, also=estimation.is_news)
    context = unshared(context)
    _, seen = call(params, frozen, x, context, key=key)
    found = judge(loss, seen, labels, params.learnable, x, context, key, step)
    return *summed(found, labels), seen


class Part(NamedTuple):
    """What some rows of a batch contribute; all fields but the params add up."""

    loss: jax.Array
    weight: jax.Array
    grads: PyTree  # of that sum, not of a mean
    sums: PyTree
    params: Params  # with new batch statistics


def gradient(
    program: Program,
    call: Callable[..., tuple],
    accumulate: int,
    mesh: Mesh | None,
    *rows: Any,
) -> Part:
    """The sums over a batch; `rows` are the arguments of `call`, a `forward`: params,
    frozen, step, key, x, labels and context."""
    part = partial(_part, program, call)
    if accumulate == 1:
        return part(*rows)
    if mesh is not None and mesh.shape[parallel.DATA] > 1 and _by_rows(call, *rows):
        return _each_device(part, accumulate, mesh, *rows)
    return _accumulated(part, accumulate, mesh, *rows)


def _part(
    program: Program,
    call: Callable[..., tuple],
    params: Params,
    *rows: Any,
) -> Part:
    def objective(learnable: PyTree) -> tuple[jax.Array, list]:
        total, *rest = call(params._replace(learnable=learnable), *rows)
        return total, rest

    pull = jax.value_and_grad(objective, has_aux=True)
    (total, (weight, seen)), grads = pull(params.learnable)
    sums = estimation.observe(program, params, seen, rows[-2])
    return Part(total, weight, grads, sums, estimation.put_news(params, seen))


def _accumulated(
    part: Callable[..., Part],
    count: int,
    mesh: Mesh | None,
    params: Params,
    frozen: PyTree,
    step: jax.Array,
    key: Key,
    x: PyTree,
    labels: jax.Array,
    context: PyTree,
) -> Part:
    """The sum over `count` parts of a batch. Batch statistics move once a part."""

    def add(total: Part, each: tuple) -> tuple[Part, None]:
        i, x, labels, own = each
        rows = x, labels, joined(own)
        new = part(total.params, frozen, step, jax.random.fold_in(key, i), *rows)
        sums = jax.tree.map(jnp.add, total[:-1], new[:-1])
        return Part(*sums, params=new.params), None

    rows, joined = parted(context)
    parts = parallel.micro_batches((x, labels, rows), count, mesh)
    *first, own = jax.tree.map(lambda a: a[0], parts)
    shapes = jax.eval_shape(part, params, frozen, step, key, *first, joined(own))
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes[:-1])
    start = Part(*zeros, params=params)
    return jax.lax.scan(add, start, (jnp.arange(count), *parts))[0]


def _each_device(part: Callable[..., Part], count: int, mesh: Mesh, *rows: Any) -> Part:
    """`_accumulated` on each device over its own rows, if no row depends on others. The
    devices' sums are added once, after the loop, instead of in each part."""

    def own(*rows: Any) -> Part:
        found = _accumulated(part, count, None, *rows)
        sums = jax.lax.psum(found[:-1], parallel.DATA)
        return Part(*sums, params=found.params)

    lies, everywhere = PartitionSpec(parallel.DATA), PartitionSpec()
    shared = lambda leaf: isinstance(leaf, Shared)
    one = lambda leaf: everywhere if shared(leaf) else lies
    context = jax.tree.map(one, rows[-1], is_leaf=shared)
    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(everywhere, everywhere, everywhere, everywhere, lies, lies, context),
        out_specs=everywhere,
        axis_names={parallel.DATA},
        check_vma=False,  # otherwise jax sums each part's gradient over the devices
    )(*rows)


def _by_rows(call: Callable[..., tuple], *rows: Any) -> bool:
    """Whether a program draws no random numbers and has no batch statistics. Both are
    computed over all rows of a part, so each device alone would get other ones."""
    args = jax.eval_shape(lambda *args: args, *rows)
    closed, out = jax.make_jaxpr(call, return_shape=True)(*args)
    used = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[1]
    owners = [i for i, tree in enumerate(args) for _ in jax.tree.leaves(tree)]
    random = any(live for i, live in zip(owners, used, strict=True) if i == 3)
    return not random and not any(map(estimation.is_news, out[2]))
