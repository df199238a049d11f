"""What the sites of a decoder hold. The core never looks at values, and needs none."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from reprojax.core.vocabulary import PyTree


@jax.tree_util.register_static
@dataclass(frozen=True)
class Span:
    """Which part of the given sequence a value holds. Static: four traces at most."""

    first: bool = True
    """Its beginning: insertions at the front happen here."""
    last: bool = True
    """Its end: insertions at the end happen here."""


WHOLE = Span()
HEAD = Span(True, False)  # what stands before every query
TAIL = Span(False, True)  # a query behind a cached head
STEP = Span(False, False)  # what is generated behind the end


class Tokens(NamedTuple):
    """A sequence whose order is `position`, not the index: padding may be anywhere.

    The span rides in the value as a static node, so it reaches nested programs and
    needs no argument. Operators treat arrays by index and Tokens by position.
    """

    value: PyTree
    """Ids [B L], vectors [B L D], or keys and values."""
    position: Array
    """[B L], place in the stream at this site."""
    weight: Array
    """[B L]: 0 is padding, 1 a token, between them a key that counts less."""
    span: Span = WHOLE


jax.export.register_namedtuple_serialization(Tokens, serialized_name="reprojax.Tokens")
jax.export.register_pytree_node_serialization(
    Span,
    serialized_name="reprojax.Span",
    serialize_auxdata=lambda span: bytes([span.first, span.last]),
    deserialize_auxdata=lambda raw: Span(*map(bool, raw)),
)


def tokens(
    ids: Int[Array, "B L"],
    weight: Shaped[Array, "B L"] | None = None,
    start: int | Int[Array, "B"] = 0,
    span: Span = WHOLE,
) -> Tokens:
    """Ids and weights [B L] as Tokens; positions count the real tokens from `start`."""
    weight = jnp.ones(ids.shape) if weight is None else weight
    weight = weight.astype(jnp.float32)
    count = jnp.maximum(jnp.cumsum(weight > 0, 1) - 1, 0)
    return Tokens(ids, count + jnp.reshape(jnp.asarray(start), (-1, 1)), weight, span)


def padded(
    rows: Sequence[Sequence[int]],
    side: Literal["left", "right"] = "right",
    length: int | None = None,
    fill: int = 0,
) -> Tokens:
    """Rows of ids as one Tokens, each with padding on a side up to `length`, which is
    the longest row's where none is given."""
    longest = max(map(len, rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(
            f"a row of {longest} ids came, expected at most {length}; shorten it, or "
            "pad to more"
        )
    ids = np.full((len(rows), length), fill, np.int32)
    weight = np.zeros((len(rows), length), np.float32)
    for i, row in enumerate(rows):
        first = 0 if side == "right" else length - len(row)
        ids[i, first : first + len(row)] = row
        weight[i, first : first + len(row)] = 1
    return tokens(jnp.asarray(ids), jnp.asarray(weight))


def bare(value: PyTree) -> Any:
    """What a Tokens holds; any other value is itself."""
    return value.value if isinstance(value, Tokens) else value


def on_value(function: Callable[[Any], Any], value: PyTree) -> Any:
    """One function for arrays and for what a Tokens holds."""
    if isinstance(value, Tokens):
        return value._replace(value=function(value.value))
    return function(value)


def last_position(value: Tokens) -> Int[Array, "B 1"]:
    """The position of the last real token, -1 where there is none."""
    real = jnp.where(value.weight > 0, value.position, -1)
    return jnp.max(real, 1, keepdims=True, initial=-1)


def last_value(value: Tokens | Shaped[Array, "B L ..."]) -> Shaped[Array, "B ..."]:
    """What stands at the last real token of each row; of an array at its last index."""
    return last_token(value).value[:, 0] if isinstance(value, Tokens) else value[:, -1]


def last_token(value: Tokens) -> Tokens:
    """The last real token of each row alone."""
    place = jnp.where(value.weight > 0, value.position, -1).argmax(1)
    pick = jax.vmap(lambda row, i: row[i][None])
    return jax.tree.map(lambda leaf: pick(leaf, place), value)


def first_value(value: Tokens) -> Float[Array, "B D"]:
    """What stands at the first real token of each row: an encoder's [CLS]."""
    far = jnp.iinfo(jnp.int32).max
    place = jnp.where(value.weight > 0, value.position, far).argmin(1)
    return jax.vmap(lambda row, i: row[i])(value.value, place)
