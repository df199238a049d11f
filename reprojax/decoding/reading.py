"""Prefill and caches, which are edits outside all of a program's own."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jax import Array

from reprojax.core import (
    HEAD,
    TAIL,
    WHOLE,
    Edit,
    Params,
    Program,
    PyTree,
    Tokens,
    last_token,
    tokens,
)

Cache = dict[str, Tokens]


def _is_kv(site: str) -> bool:
    return site.endswith("/kv")


def behind(cache: Cache) -> tuple[Edit, Cache]:
    """An edit that puts cached keys [1 or B, P ...] before the new ones, and the joint
    cache, which is filled while the model runs."""
    new: Cache = {}

    def join(old: Array, now: Array) -> Array:
        old = jnp.broadcast_to(old, (now.shape[0], *old.shape[1:]))
        return jnp.concatenate([old.astype(now.dtype), now], 1)

    def edit(site: str, value: PyTree) -> PyTree:
        if not _is_kv(site):
            return value
        value = value._replace(span=WHOLE)  # one tree structure for all caches
        if site in cache:
            value = jax.tree.map(join, cache[site], value)
        new[site] = value
        return value

    return edit, new


def writing(cache: Cache, slots: Mapping[str, Array]) -> tuple[Edit, Cache]:
    """An edit that writes new keys into the cache at each site's slot, and the new
    cache. The layer gets the whole cache, where empty places have weight 0."""
    new = dict(cache)

    def edit(site: str, value: PyTree) -> PyTree:
        if site not in cache:
            return value

        def put(old: Array, now: Array) -> Array:
            start = slots[site]
            return jax.lax.dynamic_update_slice_in_dim(
                old, now.astype(old.dtype), start, 1
            )

        new[site] = jax.tree.map(put, cache[site], value._replace(span=WHOLE))
        return new[site]

    return edit, new


def room(cache: Cache, extra: int) -> Cache:
    """The cache with `extra` empty places at the end."""

    def pad(a: Array) -> Array:
        return jnp.pad(a, ((0, 0), (0, extra)) + ((0, 0),) * (a.ndim - 2))

    return jax.tree.map(pad, cache)


def repeat(tree: PyTree, times: int) -> PyTree:
    """Each row repeated `times` times in succession."""
    return jax.tree.map(lambda a: jnp.repeat(a, times, 0), tree) if times > 1 else tree


def answer(
    program: Program, params: Params, frozen: PyTree, x: Tokens, context: PyTree, edit
) -> Tokens:
    y = program.apply(params, frozen, x, context, edit=edit)
    if not isinstance(y, Tokens):
        raise ValueError(
            f"the program answered with {type(y).__name__}, expected Tokens of logits; "
            'call reprogram with nothing at "output"'
        )
    return y


def prefill(
    program: Program,
    params: Params,
    frozen: PyTree,
    x: Tokens,
    context: PyTree = None,
    cache: Cache | None = None,
    last: bool = False,
) -> tuple[Tokens, Cache]:
    """Read x in one pass -> (logits, cache). With a cache, x continues after it.

    Args:
        last: give logits [B 1 V] of the last token only. In a small model with a large
            vocabulary the head is a fifth of the work, and most of the memory.
    """
    if cache and x.span == WHOLE:
        x = x._replace(span=TAIL)
    edit, new = behind(cache or {})

    def look(site: str, value: PyTree) -> PyTree:
        value = edit(site, value)
        alone = last and site == "head:in" and isinstance(value, Tokens)
        return last_token(value) if alone else value

    y = answer(program, params, frozen, x, context, look)
    if not new:
        raise ValueError(
            'the model has no site that ends in "/kv", expected one for each layer '
            "that attends to earlier tokens; load one by models.language"
        )
    return y, new


def share(
    program: Program,
    params: Params,
    frozen: PyTree,
    ids: Tokens | Sequence[int] = (),
    context: PyTree = None,
) -> Cache:
    """The cache [1 ...] of the common beginning of all queries, computed once: soft
    prompt, prefix, demonstrations, and `ids`.

    Queries then start at the position len(ids): `tokens(rest, weight, start=len(ids))`.
    Not for manipulations that read the query (`scope.x`), which differ by query.
    """
    if not isinstance(ids, Tokens):
        ids = tokens(jnp.asarray(ids, jnp.int32).reshape(1, -1))
    return prefill(program, params, frozen, ids._replace(span=HEAD), context)[1]
