"""Parametric operators: learned parameters change a value, or another prompt."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from reprojax.core import (
    Format,
    Key,
    Manipulation,
    Params,
    PyTree,
    Scope,
    bare,
    fold,
    inside,
    merge,
    on_value,
    part,
)
from reprojax.core.faults import init_prompt, read_prompt
from reprojax.core.guards import check_sizes
from reprojax.core.slips import check_format, check_manipulation
from reprojax.operators.additive import cast_like, check_prompt, rows


def scale_and_shift() -> Manipulation:
    """scale * value + shift for each channel [D] (SSF, arXiv 2210.08823)."""

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        width = bare(value).shape[-1]
        return Params({"scale": jnp.ones(width), "shift": jnp.zeros(width)})

    def affine(value: Shaped[Array, "*L D"], own: dict) -> Shaped[Array, "*L D"]:
        scale, shift = cast_like(own["scale"], value), cast_like(own["shift"], value)
        for prompt in (scale, shift):
            check_prompt(prompt, value.shape[-1:], value)
        return scale * value + shift

    def apply(params: Params, value: PyTree, scope: Scope) -> PyTree:
        return on_value(lambda a: affine(a, params.learnable), value)

    return Manipulation(init, apply)


def dropout(rate: float) -> Manipulation:
    """Zero entries at the given rate and scale up the rest; only with a key."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout got a rate of {rate}, expected 0 <= rate < 1")

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return Params()

    def apply(
        params: Params, value: Float[Array, "*V"], scope: Scope
    ) -> Float[Array, "*V"]:
        if scope.key is None or rate == 0:
            return value
        keep = jax.random.bernoulli(scope.key, 1 - rate, value.shape)
        return jnp.where(keep, value / (1 - rate), 0)

    return Manipulation(init, apply)


def mlp(width: int) -> Manipulation:
    """tanh(v W) U, which reparametrises a prefix (Li & Liang, arXiv 2101.00190)."""
    check_sizes("mlp", width=width)

    def init(key: Key, value: Any, scope: Scope) -> Params:
        keys, size = jax.random.split(key), value.shape[-1]
        down = jax.random.normal(keys[0], (size, width)) / size**0.5
        up = jax.random.normal(keys[1], (width, size)) / width**0.5
        return Params({"down": down, "up": up})

    def apply(
        params: Params, value: Float[Array, "*P D"], scope: Scope
    ) -> Float[Array, "*P D"]:
        return jnp.tanh(value @ params.learnable["down"]) @ params.learnable["up"]

    return Manipulation(init, apply)


def network(module: nn.Module) -> Manipulation:
    """A linen module as a part, called as module(value, train).

    Its "params" are learnable. Every other collection (batch statistics) is fixed; in
    training the tap "fixed" emits its new values, which `fit` stores.
    """

    def init(key: Key, value: Any, scope: Scope) -> Params:
        out = dict(module.init(key, jnp.zeros(value.shape, value.dtype), False))
        return Params(out.pop("params"), out)

    def apply(params: Params, value: Any, scope: Scope) -> Any:
        tree = {"params": params.learnable, **params.fixed}
        if scope.key is None:
            return module.apply(tree, value, False)
        rngs, mutable = {"dropout": scope.key}, list(params.fixed)
        y, news = module.apply(tree, value, True, rngs=rngs, mutable=mutable)
        scope.tap("fixed", dict(news))
        return y

    return Manipulation(init, apply)


def masked_add(fmt: Format, net: Manipulation) -> Manipulation:
    """value [B ...] + net(value) * prompt: each row has its own mask of the prompt.

    With a `network` as `net`: sample-specific masks (Cai et al., arXiv 2406.03150).
    """
    check_format("masked_add", fmt)
    check_manipulation("masked_add", net)

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        prompt = init_prompt(
            fmt, fold(key, "prompt"), value.shape[1:], inside(scope, "prompt")
        )
        mask = net.init(fold(key, "mask"), value, inside(scope, "mask"))
        return merge({"prompt": prompt, "mask": mask})

    def apply(params: Params, value: Array, scope: Scope) -> Array:
        prompt = read_prompt(
            fmt, part(params, "prompt"), value, inside(scope, "prompt")
        )
        mask = net.apply(part(params, "mask"), value, inside(scope, "mask"))
        check_prompt(prompt, value.shape[1:], value)
        return value + cast_like(mask * prompt, value)

    return Manipulation(init, apply)


def dropped(fmt: Format, rate: float, by_row: bool = False) -> Format:
    """A prompt with dropout; its params are those of the prompt without dropout.

    Args:
        by_row: other numbers are dropped in each row of the batch.
    """
    drop = dropout(rate)

    def read(params: Params, value: PyTree, scope: Scope) -> Array:
        prompt = fmt.read(params, value, scope)
        if by_row and rate:
            prompt = rows(prompt, bare(value))
        return drop.apply(Params(), prompt, scope)

    return fmt._replace(read=read)
