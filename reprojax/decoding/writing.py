"""Generation token by token, from a state that is a value."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from reprojax.core import (
    STEP,
    Key,
    Params,
    Program,
    PyTree,
    Tokens,
    last_position,
    last_value,
)
from reprojax.decoding.reading import Cache, answer, prefill, repeat, room, writing
from reprojax.decoding.sampling import Sampling, sample


class DecodingState(NamedTuple):
    """The state of decoding. As a value it can be kept, and continued twice."""

    cache: Cache
    """With room for the tokens to come."""
    slots: dict[str, Array]
    """Next place to write in each cache; layers differ if a prompt enters late."""
    logits: Array
    """[B V], for the next token."""
    position: Array
    """[B 1], the next token's, in the coordinates of the query."""
    done: Array
    """[B]"""
    count: Array
    """Tokens so far; the n-th is drawn with the n-th key of its row."""


class Written(NamedTuple):
    """Generated tokens."""

    ids: Int[Array, "B T"]
    """Filled with `pad` after the end."""
    logp: Float[Array, "B T"]
    """Under the model, independent of the sampling; 0 after the end."""
    length: Int[Array, "B"]
    """Including the stop token."""
    stopped: Bool[Array, "B"]
    """Whether it ended at a stop token; otherwise it was cut."""


def begin_writing(
    y: Tokens, cache: Cache, x: Tokens, length: int, samples: int = 1
) -> DecodingState:
    """The state after a prefill, with room for `length` tokens; each row occurs
    `samples` times, and all of these share the one prefill."""
    rows = x.weight.shape[0] * samples
    slots = {site: jnp.int32(kv.weight.shape[1]) for site, kv in cache.items()}
    return DecodingState(
        repeat(room(cache, length), samples),
        slots,
        repeat(last_value(y), samples).astype(jnp.float32),
        repeat(last_position(x) + 1, samples),
        jnp.zeros(rows, bool),
        jnp.zeros((), jnp.int32),
    )


def decode_words(
    program: Program,
    params: Params,
    frozen: PyTree,
    state: DecodingState,
    keys: Key,
    sampling: Sampling,
    length: int,
    stop: Int[Array, "N"],
    limit: Any = None,
    pad: int = 0,
    context: PyTree = None,
) -> tuple[DecodingState, Written]:
    """Generate up to `length` tokens, until all rows are done -> (state, tokens).

    Args:
        keys: one for each row [B]; the same ones when a state is continued.
        stop: ids that end a row.
        limit: the most tokens of all calls on a state together, a number or [B].
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
        ids = sample(now, state.logits, sampling)
        logp = jax.nn.log_softmax(state.logits)
        logp = jnp.take_along_axis(logp, ids[:, None], 1)[:, 0]
        done = state.done
        ids, logp = jnp.where(done, pad, ids), jnp.where(done, 0.0, logp)
        ends = ~done & (ids[:, None] == stop).any(1)
        out = Written(
            out.ids.at[:, t].set(ids),
            out.logp.at[:, t].set(logp),
            out.length + ~done,
            out.stopped | ends,
        )
        done = done | ends | (state.count + 1 >= most)
        edit, cache = writing(state.cache, state.slots)
        x = Tokens(ids[:, None], state.position, jnp.ones((rows, 1)), STEP)
        y = answer(program, params, frozen, x, context, edit)
        state = DecodingState(
            cache,
            {site: slot + 1 for site, slot in state.slots.items()},
            y.value[:, 0].astype(jnp.float32),
            state.position + 1,
            done,
            state.count + 1,
        )
        return t + 1, state, out

    blank = Written(
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
    positions: int | None = None,
) -> Callable[..., Written]:
    """apply(params, frozen, x, keys [B], sampling, context, cache, limit): prefill and
    decode in one call, to be jitted.

    The rows from b * samples on are continuations of prompt b. `positions` is the
    model's number; more keys, with prompts and padding, raise ValueError.
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
    ) -> Written:
        y, new = prefill(program, params, frozen, x, context, cache, last=True)
        state = begin_writing(y, new, x, length, samples)
        used = max(kv.weight.shape[1] for kv in new.values())
        if positions is not None and used + length > positions:
            raise ValueError(
                f"got {used} tokens, padding among them, and {length} new ones, "
                f"expected at most the model's {positions} positions; shorten it, "
                "pad less, or generate less"
            )
        return decode_words(
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
    """Keys [B] -> [B samples], folded by the number of the sample."""
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(keys, jnp.arange(samples)).reshape(-1)
