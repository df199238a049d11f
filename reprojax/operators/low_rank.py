"""Low-rank edits of hidden states."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reprojax.core import Key, Manipulation, Params, Scope, Tokens, fold, last_position
from reprojax.core.initial import dense


def low_rank_edit(
    rank: int, first: int, last: int, *, tied: bool = True
) -> Manipulation:
    """h + R^T (W h + b - R h) at some of a prompt's Tokens, R's rows orthonormal
    (LoReFT, arXiv 2404.03592).

    As in the authors' code (pyreft), min(L // 2, first) and min(L // 2, last) tokens of
    a prompt of L tokens are edited. Generated tokens are not.

    Args:
        rank: rows of R and W.
        first: how many of the prompt's first tokens.
        last: how many of its last tokens.
        tied: one R, W and b for both ends; otherwise each end has its own.
    """
    ends = ("both",) if tied else ("first", "last")

    def init(key: Key, value: Tokens, scope: Scope) -> Params:
        width = value.value.shape[-1]
        if not 0 < rank <= width:
            raise ValueError(
                f"got a rank of {rank}, expected 1 to {width}, the model's width"
            )
        nets = {end: _begin(fold(key, end), width, rank) for end in ends}
        return Params(nets["both"] if tied else nets)

    def apply(params: Params, value: Tokens, scope: Scope) -> Tokens:
        own, value = params.learnable, _checked(value, first, last)
        at_first, at_last = _chosen(value, first, last)
        if tied:
            return _edited(own, value, at_first | at_last)
        value = _edited(own["first"], value, at_first)
        return _edited(own["last"], value, at_last)

    return Manipulation(init, apply)


def _begin(key: Key, width: int, rank: int) -> dict[str, Any]:
    """Params with an orthonormal R. Adam's step has the size of the learning rate, so
    columns of a large norm, such as sqrt(D), would hardly turn."""
    k = jax.random.split(key)
    basis = orthonormal(jax.random.normal(k[0], (width, rank)))
    return {"basis": basis, "target": dense(k[1], width, (rank,))}


def orthonormal(basis: Float[Array, "D r"]) -> Float[Array, "D r"]:
    """Orthonormal columns that span the same space.

    This is the QR factor whose R has a positive diagonal. LAPACK's factor flips a
    column's sign when a diagonal entry crosses zero: the edit would jump in training.
    """
    columns, triangle = jnp.linalg.qr(basis)
    return columns * jnp.where(jnp.diagonal(triangle) < 0, -1.0, 1.0)


def _edited(net: dict[str, Any], value: Tokens, chosen: Bool[Array, "B L"]) -> Tokens:
    h = value.value
    rows = orthonormal(net["basis"])
    target = h @ net["target"]["kernel"] + net["target"]["bias"]
    edited = h + (target - h @ rows) @ rows.T
    return value._replace(value=jnp.where(chosen[..., None], edited.astype(h.dtype), h))


def _chosen(
    value: Tokens, first: int, last: int
) -> tuple[Bool[Array, "B L"], Bool[Array, "B L"]]:
    """Masks of the tokens edited as the prompt's first ones, and as its last ones."""
    place, real = value.position, value.weight > 0
    if not value.span.last:  # a head, whose prompt's length is unknown, or generated
        return real & (place < first) & value.span.first, jnp.zeros(real.shape, bool)
    length = last_position(value) + 1
    half = length // 2
    return (
        real & (place < jnp.minimum(half, first)),
        real & (place >= length - jnp.minimum(half, last)),
    )


def _checked(value: Tokens, first: int, last: int) -> Tokens:
    """The value, or NaN in rows whose shared head was edited wrongly: the whole prompt
    is too short for all of `first`, or some of its last tokens lie in the head."""
    if value.span.first or not value.span.last:
        return value
    real, far = value.weight > 0, jnp.iinfo(jnp.int32).max
    begin = jnp.where(real, value.position, far).min(1, keepdims=True)
    length = last_position(value) + 1
    wrong = jnp.minimum(begin, first) > length // 2
    wrong |= length - jnp.minimum(length // 2, last) < begin
    bad = (real & wrong)[..., None]
    return value._replace(value=jnp.where(bad, jnp.nan, value.value))
