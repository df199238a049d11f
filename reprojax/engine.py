"""Generation and scoring by a program of Tokens, on caches that are values.

A cache is {kv site: Tokens of (keys, values)}. The model knows of none: an edit outside
of all of the program's own hands a layer what stood there before. It sees keys and
values behind every manipulation, so each kind is right by itself: what is inserted
stands in the cache, and what is done to every token is done to new ones too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from reprojax.core import Key, Params, Program, PyTree
from reprojax.sequence import (
    HEAD,
    STEP,
    TAIL,
    WHOLE,
    Tokens,
    last_position,
    last_token,
    last_value,
    tokens,
)

Cache = dict[str, Tokens]
Edit = Callable[[str, PyTree], PyTree]


class Sampling(NamedTuple):
    """How a word is chosen: numbers, or one for each row [B]. None is compiled in."""

    temperature: Any = 0.0
    """0 is greedy."""
    top_k: Any = 0
    """Of the k likeliest; 0 is all."""
    top_p: Any = 1.0
    """Of the fewest whose mass is at least p, after the temperature."""


class State(NamedTuple):
    """Where decoding stands. A value: it can be kept, and gone on from twice."""

    cache: Cache
    """With room for what is to come."""
    slots: dict[str, Array]
    """Where each cache is written next: layers differ where a prompt enters late."""
    logits: Array
    """[B V], of the next word."""
    position: Array
    """[B 1], the next word's, in the coordinates of the query."""
    done: Array
    """[B]"""
    count: Array
    """Words so far: the n-th is drawn with the n-th key of its row."""


class Completion(NamedTuple):
    """What was written."""

    ids: Int[Array, "B T"]
    """`pad` behind the end."""
    logp: Float[Array, "B T"]
    """Under the model, whatever the sampling; 0 behind the end."""
    length: Int[Array, "B"]
    """The stop token included."""
    stopped: Bool[Array, "B"]
    """At a stop token; else it was cut."""


# -- caches, as edits


def _is_kv(site: str) -> bool:
    return site.endswith("/kv")


def behind(cache: Cache) -> tuple[Edit, Cache]:
    """An edit that puts cached keys [1 or B, P ...] before the new ones, and the cache
    of both, filled as the model runs."""
    new: Cache = {}

    def join(old: Array, now: Array) -> Array:
        old = jnp.broadcast_to(old, (now.shape[0], *old.shape[1:]))
        return jnp.concatenate([old.astype(now.dtype), now], 1)

    def edit(site: str, value: PyTree) -> PyTree:
        if not _is_kv(site):
            return value
        value = value._replace(span=WHOLE)  # a cache has one structure
        if site in cache:
            value = jax.tree.map(join, cache[site], value)
        new[site] = value
        return value

    return edit, new


def writing(cache: Cache, slots: Mapping[str, Array]) -> tuple[Edit, Cache]:
    """An edit that writes new keys into the cache at each site's slot; the layer sees
    all of it, and what is not yet written has weight 0."""
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
    """The cache with empty places behind."""

    def pad(a: Array) -> Array:
        return jnp.pad(a, ((0, 0), (0, extra)) + ((0, 0),) * (a.ndim - 2))

    return jax.tree.map(pad, cache)


def repeat(tree: PyTree, times: int) -> PyTree:
    """Each row `times` times, one behind the other."""
    return jax.tree.map(lambda a: jnp.repeat(a, times, 0), tree) if times > 1 else tree


def _answer(
    program: Program, params: Params, frozen: PyTree, x: Tokens, context: PyTree, edit
) -> Tokens:
    y = program.apply(params, frozen, x, context, edit=edit)
    if not isinstance(y, Tokens):
        raise ValueError(
            f"the program answered with {type(y).__name__}, expected Tokens of logits; "
            'call reprogram with nothing at "output"'
        )
    return y


# -- reading


def prefill(
    program: Program,
    params: Params,
    frozen: PyTree,
    x: Tokens,
    context: PyTree = None,
    cache: Cache | None = None,
    last: bool = False,
) -> tuple[Tokens, Cache]:
    """Read x in one pass -> (logits, cache). With a cache, x goes on behind it.

    Args:
        last: logits [B 1 V] of the last word alone. The head of a small model with a
            large vocabulary is a fifth of its work, and most of the memory.
    """
    if cache and x.span == WHOLE:
        x = x._replace(span=TAIL)
    edit, new = behind(cache or {})

    def look(site: str, value: PyTree) -> PyTree:
        value = edit(site, value)
        alone = last and site == "head:in" and isinstance(value, Tokens)
        return last_token(value) if alone else value

    y = _answer(program, params, frozen, x, context, look)
    if not new:
        raise ValueError(
            'the model has no site that ends in "/kv", expected one for each layer '
            "that attends to what came before; load one by models.language"
        )
    return y, new


def share(
    program: Program,
    params: Params,
    frozen: PyTree,
    ids: Tokens | Sequence[int] = (),
    context: PyTree = None,
) -> Cache:
    """The cache [1 ...] of what stands before every query, computed once: soft prompt,
    prefix, demonstrations, and `ids`, with which all queries begin.

    Queries then start at the position len(ids): `tokens(rest, weight, start=len(ids))`.
    Not for manipulations that look at the query (`scope.x`): they differ by the query.
    """
    if not isinstance(ids, Tokens):
        ids = tokens(jnp.asarray(ids, jnp.int32).reshape(1, -1))
    return prefill(program, params, frozen, ids._replace(span=HEAD), context)[1]


# -- writing


def start(y: Tokens, cache: Cache, x: Tokens, length: int, samples: int = 1) -> State:
    """The state behind a prefill, with room for `length` words; each row `samples`
    times, so that all of them share the one prefill."""
    rows = x.weight.shape[0] * samples
    slots = {site: jnp.int32(kv.weight.shape[1]) for site, kv in cache.items()}
    return State(
        repeat(room(cache, length), samples),
        slots,
        repeat(last_value(y), samples).astype(jnp.float32),
        repeat(last_position(x) + 1, samples),
        jnp.zeros(rows, bool),
        jnp.zeros((), jnp.int32),
    )


def decode(
    program: Program,
    params: Params,
    frozen: PyTree,
    state: State,
    keys: Key,
    sampling: Sampling,
    length: int,
    stop: Int[Array, "N"],
    limit: Any = None,
    pad: int = 0,
    context: PyTree = None,
) -> tuple[State, Completion]:
    """Write up to `length` words, until all rows are done -> (state, what was written).

    Args:
        keys: one for each row [B]; the same ones when a state is gone on from.
        stop: ids that end a row.
        limit: the most words of all calls on a state together, a number or [B].
    """
    rows = state.done.shape[0]
    sampling = Sampling(*(jnp.broadcast_to(a, (rows,)) for a in sampling))
    limit = jnp.iinfo(jnp.int32).max if limit is None else limit
    most = jnp.broadcast_to(limit, (rows,))
    stop = jnp.asarray(stop, jnp.int32).reshape(-1)

    def going(carry: Any) -> Array:
        t, state, _ = carry
        return (t < length) & ~state.done.all()

    def word(carry: Any) -> Any:
        t, state, out = carry
        now = jax.vmap(jax.random.fold_in, (0, None))(keys, state.count)
        ids = choose(now, state.logits, sampling)
        logp = jax.nn.log_softmax(state.logits)
        logp = jnp.take_along_axis(logp, ids[:, None], 1)[:, 0]
        done = state.done
        ids, logp = jnp.where(done, pad, ids), jnp.where(done, 0.0, logp)
        ends = ~done & (ids[:, None] == stop).any(1)
        out = Completion(
            out.ids.at[:, t].set(ids),
            out.logp.at[:, t].set(logp),
            out.length + ~done,
            out.stopped | ends,
        )
        done = done | ends | (state.count + 1 >= most)
        edit, cache = writing(state.cache, state.slots)
        x = Tokens(ids[:, None], state.position, jnp.ones((rows, 1)), STEP)
        y = _answer(program, params, frozen, x, context, edit)
        state = State(
            cache,
            {site: slot + 1 for site, slot in state.slots.items()},
            y.value[:, 0].astype(jnp.float32),
            state.position + 1,
            done,
            state.count + 1,
        )
        return t + 1, state, out

    blank = Completion(
        jnp.full((rows, length), pad, jnp.int32),
        jnp.zeros((rows, length)),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
    )
    state = state._replace(done=state.done | (state.count >= most))
    _, state, out = jax.lax.while_loop(going, word, (0, state, blank))
    return state, out


def generate(
    program: Program,
    length: int,
    stop: Sequence[int] = (),
    samples: int = 1,
    pad: int = 0,
) -> Callable[..., Completion]:
    """apply(params, frozen, x, keys [B], sampling, context, cache, limit): prefill and
    decode in one call, to be compiled.

    The rows b * samples and on are continuations of prompt b.
    """

    def apply(
        params: Params,
        frozen: PyTree,
        x: Tokens,
        keys: Key,
        sampling: Sampling = Sampling(),  # noqa: B008
        context: PyTree = None,
        cache: Cache | None = None,
        limit: Any = None,
    ) -> Completion:
        y, new = prefill(program, params, frozen, x, context, cache, last=True)
        state = start(y, new, x, length, samples)
        return decode(
            program,
            params,
            frozen,
            state,
            each(keys, samples),
            sampling,
            length,
            jnp.asarray(stop, jnp.int32),
            limit,
            pad,
            repeat(context, samples),
        )[1]

    return apply


def each(keys: Key, samples: int) -> Key:
    """Keys [B] -> [B samples], by the row's key and the number of the sample."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(keys, jnp.arange(samples)).reshape(-1)


def choose(
    keys: Key, logits: Float[Array, "B V"], sampling: Sampling
) -> Int[Array, "B"]:
    """One id a row; nothing is sorted or drawn where all rows are greedy."""

    def drawn() -> Array:
        z = jax.vmap(warp)(logits, *sampling)
        return jax.vmap(jax.random.categorical)(keys, z).astype(jnp.int32)

    best = logits.argmax(-1).astype(jnp.int32)
    warm = jnp.asarray(sampling.temperature) > 0
    found = jax.lax.cond(warm.any(), drawn, lambda: best)
    return jnp.where(warm, found, best)


def warp(
    logits: Float[Array, "V"], temperature: Any, top_k: Any, top_p: Any
) -> Float[Array, "V"]:
    """Logits to draw from; -inf where top-k or top-p leaves a word out."""
    down = jnp.sort(logits)[::-1]
    least = down[jnp.where(top_k > 0, jnp.minimum(top_k, down.size), down.size) - 1]
    scale = jnp.maximum(temperature, 1e-6)
    mass = jax.nn.softmax(jnp.where(down >= least, down, -jnp.inf) / scale)
    kept = jnp.cumsum(mass) - mass < top_p  # the first word always
    nucleus = jnp.min(jnp.where(kept & (down >= least), down, jnp.inf))
    return jnp.where(logits >= nucleus, logits, -jnp.inf) / scale


# -- judging


def score(program: Program) -> Callable[..., Float[Array, "B C T"]]:
    """apply(params, frozen, x, ids [B C T], weight [B C T], context, cache), to be
    jitted: log p of each word of C continuations of a prompt, from one prefill.

    Continuations are padded on the right; padding has log p 0.
    """

    def apply(
        params: Params,
        frozen: PyTree,
        x: Tokens,
        ids: Int[Array, "B C T"],
        weight: Shaped[Array, "B C T"],
        context: PyTree = None,
        cache: Cache | None = None,
    ) -> Float[Array, "B C T"]:
        b, c, t = ids.shape
        y, new = prefill(program, params, frozen, x, context, cache, last=True)
        first = jnp.repeat(last_value(y)[:, None, None], c, 1)
        logits = first
        if t > 1:  # what is behind the last word is asked of nobody
            begun = repeat(last_position(x) + 1, c)[:, 0]
            asked = (a[..., :-1].reshape(b * c, t - 1) for a in (ids, weight))
            later = tokens(*asked, start=begun, span=STEP)
            edit, _ = behind(repeat(new, c))
            y = _answer(program, params, frozen, later, repeat(context, c), edit)
            rest = y.value.reshape(b, c, t - 1, -1)
            logits = jnp.concatenate([first, rest], 2)
        logp = jax.nn.log_softmax(logits.astype(jnp.float32))
        return jnp.take_along_axis(logp, ids[..., None], -1)[..., 0] * weight

    return apply
