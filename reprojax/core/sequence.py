"""The values at a decoder's sites. The rest of the core does not look at values."""

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
    """Which ends of the given sequence a value holds. Static: at most four traces."""

    first: bool = True
    """Whether it holds the beginning, where insertions at the front happen."""
    last: bool = True
    """Whether it holds the end, where insertions at the end happen."""


WHOLE = Span()
HEAD = Span(True, False)  # the text in front of every query
TAIL = Span(False, True)  # a query after a cached head
STEP = Span(False, False)  # generated tokens, after the end


class Tokens(NamedTuple):
    """A sequence ordered by `position`, not by index: padding may be anywhere.

    The span is a static node of the value, so it reaches nested programs without an
    argument. Operators treat arrays by index and Tokens by position.
    """

    value: PyTree
    """Ids [B L], vectors [B L D], or keys and values."""
    position: Array
    """[B L], the place in the stream at this site."""
    weight: Array
    """[B L]: 0 is padding, 1 a token; a key between them counts less in attention."""
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
    """Rows of ids as one Tokens, padded on a side to `length` (default: the longest).

    Raises:
        ValueError: a row longer than `length`.
    """
    longest = max(map(len, rows), default=0)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(
            f"got a row of {longest} ids, expected at most {length}; shorten it, or "
            "give a larger length"
        )
    ids = np.full((len(rows), length), fill, np.int32)
    weight = np.zeros((len(rows), length), np.float32)
    for i, row in enumerate(rows):
        first = 0 if side == "right" else length - len(row)
        ids[i, first : first + len(row)] = row
        weight[i, first : first + len(row)] = 1
    return tokens(jnp.asarray(ids), jnp.asarray(weight))


def bare(value: PyTree) -> Any:
    """The array in a Tokens; any other value unchanged."""
    return value.value if isinstance(value, Tokens) else value


def on_value(function: Callable[[Any], Any], value: PyTree) -> Any:
    """Apply a function to an array, or to the array in a Tokens."""
    if isinstance(value, Tokens):
        return value._replace(value=function(value.value))
    return function(value)


def last_position(value: Tokens) -> Int[Array, "B 1"]:
    """The position of the last real token, -1 where there is none."""
    real = jnp.where(value.weight > 0, value.position, -1)
    return jnp.max(real, 1, keepdims=True, initial=-1)


def last_value(value: Tokens | Shaped[Array, "B L ..."]) -> Shaped[Array, "B ..."]:
    """The value at each row's last real token; of an array, at its last index."""
    return last_token(value).value[:, 0] if isinstance(value, Tokens) else value[:, -1]


def last_token(value: Tokens) -> Tokens:
    """The last real token of each row, as Tokens of length 1."""
    place = jnp.where(value.weight > 0, value.position, -1).argmax(1)
    pick = jax.vmap(lambda row, i: row[i][None])
    return jax.tree.map(lambda leaf: pick(leaf, place), value)


def first_value(value: Tokens) -> Float[Array, "B D"]:
    """The value at each row's first real token, such as an encoder's [CLS]."""
    far = jnp.iinfo(jnp.int32).max
    place = jnp.where(value.weight > 0, value.position, far).argmin(1)
    return jax.vmap(lambda row, i: row[i])(value.value, place)
