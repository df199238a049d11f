"""Additive operators: the prompt is added to the value, which keeps its shape.

Other operators use the helpers here. Arrays go by index, Tokens by position.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from reprojax.core import (
    Format,
    Given,
    Key,
    Manipulation,
    Params,
    PyTree,
    Scope,
    Tokens,
    bare,
    last_position,
    on_value,
)
from reprojax.core.faults import init_prompt, read_prompt
from reprojax.core.guards import check_sizes
from reprojax.core.slips import check_format

Width = int | tuple[int, int]


def cast_like(prompt: Any, value: Shaped[Given, "..."]) -> Shaped[Array, "..."]:
    """The prompt in the value's dtype, so that adding it keeps bfloat16 bfloat16."""
    prompt = jnp.asarray(prompt)
    floating = [jnp.issubdtype(a.dtype, jnp.floating) for a in (prompt, value)]
    if floating[0] and not floating[1]:
        raise ValueError(
            f"got a prompt of {prompt.dtype} for a value of {value.dtype}, expected a "
            "float value; put resize(size), or stateless(lambda v: v / 255), before it "
            "in a chain"
        )
    return prompt.astype(value.dtype)


def rows(
    prompt: Shaped[Array, "..."], value: Shaped[Given, "B *value"]
) -> Shaped[Array, "B ..."]:
    """A prompt [P ...], broadcast to each row [B P ...], or [B P ...] itself."""
    each = prompt.shape[prompt.ndim - (value.ndim - 1) :]
    check_prompt(prompt, (*each[:1], *value.shape[2:]), value)
    return jnp.broadcast_to(cast_like(prompt, value), (value.shape[0], *each))


def check_prompt(prompt: Any, each: tuple[int, ...], value: Any) -> None:
    """Raise unless a prompt is [*each], or one for each row of a value, [B *each].

    Other shapes (of width 1, or with more rows) would broadcast in silence.
    """
    shape, count = tuple(prompt.shape), value.shape[0]
    if shape not in (each, (count, *each)):
        raise ValueError(
            f"got a prompt of shape {shape} for a value of shape {tuple(value.shape)}, "
            f"expected {each}, or one for each of its {count} rows; let the "
            "format read that, or make the params by the program's init for this model"
        )


def by_position(
    prompt: Any, value: Tokens, length: int, at: int = 0
) -> tuple[Shaped[Array, "B L ..."], Bool[Array, "B L ..."]]:
    """(row i of the prompt for the token at position at + i, mask of those tokens)."""
    i = value.position - at
    hit = (i >= 0) & (i < length) & (value.weight > 0)
    pick = jax.vmap(lambda row, i: row[jnp.clip(i, 0, length - 1)])
    found = pick(rows(prompt, value.value), i)
    return found, hit.reshape(hit.shape + (1,) * (found.ndim - 2))


def check_rows(value: PyTree, needed: int, who: str) -> None:
    """Raise if an array [B L ...] has fewer rows L than needed; Tokens always pass."""
    if isinstance(value, Tokens):
        return
    if len(value.shape) < 2 or (
        len(value.shape) == 2 and jnp.issubdtype(value.dtype, jnp.floating)
    ):
        raise ValueError(
            f"{who} got a value of shape {tuple(value.shape)}, expected rows of "
            "vectors [B L ...]; take a site that has a sequence, or call add(format)"
        )
    if value.shape[1] < needed:
        raise ValueError(
            f"{who} needs {needed} rows, and the value has {value.shape[1]} (shape "
            f"{tuple(value.shape)}); expected [B L ...] with L >= {needed}; use a "
            "shorter prompt or a smaller at="
        )


def add(
    fmt: Format,
    length: int | None = None,
    mask: Callable[[tuple[int, ...]], Any] | None = None,
    at: int = 0,
) -> Manipulation:
    """value + mask(shape) * prompt.

    A prompt has the shape of one row of the batch: a watermark over an image [H W C].
    For Tokens it has the shape of one token [D] and is added to each (steering). With
    `length` it is [length D], added to that many tokens from the position `at` on.

    Args:
        mask: shape of the value -> an array that broadcasts to it, such as `frame(30)`.
            It is a function, because an array in a closure would become a constant in
            the compiled program.
    """
    check_format("add", fmt)
    check_sizes("add", length=length)
    check_sizes("add", 0, at=at)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        shape = bare(value).shape
        if length is not None:
            check_rows(value, at + length, f"add(length={length}, at={at})")
            return init_prompt(fmt, key, (length, *shape[2:]), scope)
        if len(shape) < 2:
            raise ValueError(
                f"add got a value of shape {tuple(shape)}, expected [B ...], a row for "
                "each of the batch; give one example as x[None]"
            )
        return init_prompt(
            fmt, key, shape[2:] if isinstance(value, Tokens) else shape[1:], scope
        )

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        prompt = read_prompt(fmt, params, value, scope)
        if length is not None:
            return add_first(prompt, value, at)
        inner = bare(value)
        each = inner.shape[2:] if isinstance(value, Tokens) else inner.shape[1:]
        check_prompt(prompt, each, inner)
        if isinstance(value, Tokens) and prompt.ndim == value.value.ndim - 1:
            prompt = prompt[:, None]  # one for each row
        weight = 1 if mask is None else mask(bare(value).shape)
        return on_value(lambda a: a + cast_like(weight * prompt, a), value)

    return Manipulation(init, apply)


def add_first(
    prompt: Shaped[Array, "*P D"], value: Shaped[Given, "B L D"] | Tokens, at: int = 0
) -> Shaped[Array, "B L D"] | Tokens:
    """A prompt [P D], or one for each row [B P D], added to P of L tokens from `at`."""
    length = prompt.shape[-2]
    if isinstance(value, Tokens):
        found, hit = by_position(prompt, value, length, at)
        return value._replace(value=value.value + found * hit.astype(found.dtype))
    value = jnp.asarray(value)
    check_prompt(prompt, (length, *value.shape[2:]), value)
    return value.at[:, at : at + length].add(cast_like(prompt, value))


def both_sides(widths: tuple[Width, ...]) -> list[tuple[int, int]]:
    """Each width as (before, after)."""
    sides = [(w, w) if isinstance(w, int) else (w[0], w[1]) for w in widths]
    for before, after in sides:
        check_sizes("a border", 0, before=before, after=after)
    return sides


def frame(*widths: Width) -> Callable[[tuple[int, ...]], Bool[Array, "..."]]:
    """A mask that is true in a border and false inside it.

    Args:
        widths: pixels, one width or (before, after) for each axis after the batch. A
            single width holds for the first two axes: `frame(30)` is a square border.
    """
    sides = both_sides(widths * 2 if len(widths) == 1 else widths)

    def mask(shape: tuple[int, ...]) -> Bool[Array, "..."]:
        out = jnp.zeros((1, *shape[1:]), bool)
        for axis, (before, after) in enumerate(sides, 1):
            i = jax.lax.broadcasted_iota(jnp.int32, (1, *shape[1:]), axis)
            out |= (i < before) | (i >= shape[axis] - after)
        return out

    return mask


def to_answers(fmt: Format) -> Manipulation:
    """Add a prompt [D] to the last token of the given text and to all generated ones,
    but to no other token (contrastive activation addition, arXiv 2312.06681)."""
    everywhere = add(fmt)

    def apply(params: Params, value: Tokens, scope: Scope) -> Tokens:
        moved = everywhere.apply(params, value, scope)
        chosen = value.position >= last_position(value)
        if not value.span.last:  # without the end: all is generated (STEP), or none is
            chosen = jnp.full(chosen.shape, not value.span.first)
        h = jnp.where(chosen[..., None], moved.value, value.value)
        return value._replace(value=h)

    return Manipulation(everywhere.init, apply)
