"""Concatenative operators: the prompt gets its own rows, pixels or keys."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

from reprojax.core import (
    HEAD,
    TAIL,
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
    stateless,
)
from reprojax.core.faults import init_prompt, read_prompt
from reprojax.core.guards import check_sizes
from reprojax.core.slips import check_format
from reprojax.operators.additive import (
    Width,
    both_sides,
    by_position,
    cast_like,
    check_prompt,
    check_rows,
    frame,
    rows,
)


def insert(fmt: Format, length: int, at: int | None = 0) -> Manipulation:
    """A prompt [length ...] before row `at` of a value [B L ...]; None: at the end.

    A negative `at` counts from the end. In Tokens, positions after the prompt move on;
    a span of the sequence without that place only moves. A prompt that is itself Tokens
    brings its own weights, for rows with fewer demonstrations than others.
    """
    check_format("insert", fmt)
    check_sizes("insert", length=length)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        check_rows(value, abs(at or 0), f"insert(at={at})")
        return init_prompt(fmt, key, (length, *bare(value).shape[2:]), scope)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        prompt = read_prompt(fmt, params, value, scope)
        if isinstance(value, Tokens):
            return _insert_tokens(value, prompt, length, at)
        return insert_rows(rows(prompt, value), value, at)

    return Manipulation(init, apply)


def insert_rows(
    prompt: Shaped[Array, "B P *D"], value: Shaped[Given, "B L *D"], at: int | None
) -> Shaped[Array, "B P+L *D"]:
    """Insert one prompt for each row before row `at` of the value; None: at the end.

    A negative `at` counts from the end."""
    value = jnp.asarray(value)
    i = value.shape[1] if at is None else at
    return jnp.concatenate([value[:, :i], prompt, value[:, i:]], axis=1)


def _insert_tokens(value: Tokens, prompt: Any, length: int, at: int | None) -> Tokens:
    weight = prompt.weight if isinstance(prompt, Tokens) else jnp.ones((1, length))
    weight = jnp.broadcast_to(weight, (value.weight.shape[0], length))
    count = (weight > 0).sum(1, keepdims=True)
    if at is None or at < 0:
        here, start = value.span.last, last_position(value) + 1 + (at or 0)
        generated = not (value.span.first or value.span.last)
        behind = generated | (here & (value.position >= start))
    else:
        here, start, behind = value.span.first, at, value.position >= at
    moved = value.position + count * behind
    if not here:
        return value._replace(position=moved)
    _check_end(value, at or 0)
    new = start + jnp.maximum(jnp.cumsum(weight > 0, 1) - 1, 0)

    def join(a: Any, b: Any) -> Any:
        return jnp.concatenate([a, b] if at is None else [b, a], axis=1)

    ids = join(value.value, rows(bare(prompt), value.value))
    return Tokens(ids, join(moved, new), join(value.weight, weight), value.span)


def _check_end(value: Tokens, at: int) -> None:
    """Raise if a part of a sequence does not hold the tokens beside the place."""
    found = value.weight.shape[1]
    if value.span == HEAD and found < at:
        raise ValueError(
            f"insert(at={at}) got a head of {found} tokens, expected the first {at} of "
            "every query in it; share them too, or insert at 0"
        )
    if value.span == TAIL and found < -at:
        raise ValueError(
            f"insert(at={at}) got a query of {found} tokens behind a shared head, "
            f"expected the last {-at} in it; share less"
        )


def replace(fmt: Format, length: int, at: int | None = 0) -> Manipulation:
    """A prompt [length ...] in place of rows, or of the tokens at positions, from `at`;
    None: of the last rows.

    VPT-deep replaces the outputs of the previous layer's prompt in this way.
    """
    check_format("replace", fmt)
    check_sizes("replace", length=length)
    check_sizes("replace", 0, at=at)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        if at is None and isinstance(value, Tokens):
            raise ValueError(
                "replace(at=None) got Tokens, expected an array [B L ...], whose last "
                "rows it replaces; name the first position of those to replace"
            )
        check_rows(value, (at or 0) + length, f"replace(length={length}, at={at})")
        return init_prompt(fmt, key, (length, *bare(value).shape[2:]), scope)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        prompt = read_prompt(fmt, params, value, scope)
        if isinstance(value, Tokens):
            found, hit = by_position(prompt, value, length, at or 0)
            return value._replace(value=jnp.where(hit, found, value.value))
        first = value.shape[1] - length if at is None else at
        return replace_rows(rows(prompt, value), value, first)

    return Manipulation(init, apply)


def replace_rows(
    prompt: Shaped[Array, "B P *D"], value: Shaped[Given, "B L *D"], at: int
) -> Shaped[Array, "B L *D"]:
    """Replace rows of the value from `at` by one prompt for each row of the batch."""
    return jnp.asarray(value).at[:, at : at + prompt.shape[1]].set(prompt)


def in_depth(fmt: Format, length: int, at: int = 0) -> Manipulation:
    """For a tuple of n sites one prompt [n length ...]: inserted before row `at` at the
    first site, and at each later one in place of what became of it (VPT-deep, arXiv
    2203.12119).

    The format reads the site's own part, that of `scope.index`.
    """
    first, later = insert(fmt, length, at), replace(fmt, length, at)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        specs = list(value.values()) if isinstance(value, dict) else [value]
        check_rows(specs[0], at, f"in_depth(at={at})")
        shape = (len(specs), length, *bare(specs[0]).shape[2:])
        return init_prompt(fmt, key, shape, scope)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        return (later if scope.index else first).apply(params, value, scope)

    return Manipulation(init, apply)


def prefix(fmt: Format, length: int) -> Manipulation:
    """Keys and values [length H d] before all others (arXiv 2101.00190).

    In Tokens at a "kv" site they have position -1, before every query. At a tuple of
    sites, one prompt [n length H d] serves all: n counts 2 for each kv site and 1 for
    each site of keys or of values alone.
    """
    check_format("prefix", fmt)
    check_sizes("prefix", length=length)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        specs = value if isinstance(value, dict) else {scope.site: value}
        pieces = jax.tree.leaves(bare(next(iter(specs.values()))))
        shape = (len(specs) * len(pieces), length, *pieces[0].shape[2:])
        return init_prompt(fmt, key, shape, scope)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        if isinstance(value, Tokens) and not value.span.first:
            return value  # a later span: the cache holds the prefix already
        prompt = read_prompt(fmt, params, value, scope)
        pieces, tree = jax.tree.flatten(bare(value))
        axis = prompt.ndim - pieces[0].ndim  # 1 if each row has its own prompt
        own = (
            jnp.take(prompt, scope.index * len(pieces) + i, axis=axis)
            for i in range(len(pieces))
        )
        joined = [
            insert_rows(rows(ahead, piece), piece, 0)
            for ahead, piece in zip(own, pieces, strict=True)
        ]
        if not isinstance(value, Tokens):
            return tree.unflatten(joined)
        ahead = ((0, 0), (length, 0))
        return value._replace(
            value=tree.unflatten(joined),
            position=jnp.pad(value.position, ahead, constant_values=-1),
            weight=jnp.pad(value.weight, ahead, constant_values=1),
        )

    return Manipulation(init, apply)


def shift(length: int, positions: int | None = None) -> Manipulation:
    """Move positions on by `length`, to make room for a prefix at the kv sites.

    Args:
        positions: how many the model has; a longer text raises ValueError.
    """
    check_sizes("shift", 0, length=length)

    def moved(x: Tokens) -> Tokens:
        asked = x.weight.shape[1]
        if positions is not None and asked + length > positions:
            raise ValueError(
                f"got {asked} tokens behind a prefix of {length}, expected at most "
                f"the model's {positions} positions together; shorten one of them, or "
                "pad less"
            )
        return x._replace(position=x.position + length)

    return stateless(moved)


def pad(fmt: Format, *widths: Width, overlap: bool = False) -> Manipulation:
    """The image [B h w C] with a border of prompt; the prompt has the canvas's shape.

    Args:
        widths: pixels of border, as in `frame`.
        overlap: add the prompt to the image, too, on a canvas that is zero around it.
    """
    check_format("pad", fmt)
    sides = both_sides(widths * 2 if len(widths) == 1 else widths)

    def canvas_of(value: Any) -> Any:
        pads = [(0, 0), *sides]
        return jnp.pad(value, pads + [(0, 0)] * (value.ndim - len(pads)))

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return init_prompt(fmt, key, jax.eval_shape(canvas_of, value).shape[1:], scope)

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        canvas = canvas_of(value)
        prompt = cast_like(read_prompt(fmt, params, value, scope), value)
        check_prompt(prompt, canvas.shape[1:], canvas)
        if overlap:
            return canvas + prompt
        return jnp.where(frame(*sides)(canvas.shape), prompt, canvas)

    return Manipulation(init, apply)
