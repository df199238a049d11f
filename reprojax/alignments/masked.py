"""Where a masked model answers."""

import jax
import jax.numpy as jnp

from reprojax.core import Key, Manipulation, Params, PyTree, Scope, Tokens


def at_mask(mask: int) -> Manipulation:
    """Of Tokens [B P+L ...] the one [B 1 ...] at the task's own word `mask`.

    The P in front are a prompt's. `last()` behind it gives a masked model's answer. At
    the site of the features it leaves the head one word a row to judge. A row with no
    such word, or with several, is NaN.
    """

    def init(key: Key, value: Tokens, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: Tokens, scope: Scope) -> Tokens:
        own: Tokens = scope.x
        hit = (own.value == mask) & (own.weight > 0)
        place = hit.argmax(1) + value.weight.shape[1] - hit.shape[1]
        one = hit.sum(1) == 1

        def pick(leaf: jax.Array) -> jax.Array:
            found = jax.vmap(lambda row, i: row[i][None])(leaf, place)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                return found
            known = one.reshape(-1, *(1,) * (found.ndim - 1))
            return jnp.where(known, found, jnp.nan)

        picked: PyTree = jax.tree.map(pick, value.value)
        where = place[:, None]
        position = jnp.take_along_axis(value.position, where, 1)
        weight = jnp.take_along_axis(value.weight, where, 1)
        return Tokens(picked, position, weight, value.span)

    return Manipulation(init, apply)
