"""Log-probabilities of given continuations."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from reprojax.core import (
    STEP,
    Params,
    Program,
    PyTree,
    Tokens,
    last_position,
    last_value,
    tokens,
)
from reprojax.decoding.reading import Cache, answer, behind, prefill, repeat


def log_probabilities(program: Program) -> Callable[..., Float[Array, "B C T"]]:
    """apply(params, frozen, x, ids [B C T], weight [B C T], context, cache), to be
    jitted: log p of each token of C continuations of a prompt, from one prefill.

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
        if t > 1:  # the logits after the last token are not needed
            begun = repeat(last_position(x) + 1, c)[:, 0]
            asked = (a[..., :-1].reshape(b * c, t - 1) for a in (ids, weight))
            later = tokens(*asked, start=begun, span=STEP)
            edit, _ = behind(repeat(new, c))
            y = answer(program, params, frozen, later, repeat(context, c), edit)
            rest = y.value.reshape(b, c, t - 1, -1)
            logits = jnp.concatenate([first, rest], 2)
        logp = jax.nn.log_softmax(logits.astype(jnp.float32))
        return jnp.take_along_axis(logp, ids[..., None], -1)[..., 0] * weight

    return apply
