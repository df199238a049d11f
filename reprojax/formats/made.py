"""Prompts computed from other parameters: an MLP's output, a low-rank product."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import Format, Key, Params, PyTree, Scope
from reprojax.core.initial import dense, uniform


def reparametrised(hidden: int, start: Array | None = None) -> Format:
    """A prefix [n P H d] that an MLP makes from P learned vectors as wide as the keys.

    Training a prefix directly is unstable (arXiv 2101.00190, section 4.3).

    Args:
        hidden: units of the MLP's one hidden layer, with tanh.
        start: the initial prefix. The paper trains the MLP to it; here the last layer
            is its least-squares solution, exact where P <= hidden.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        n, length, heads, size = shape
        width = heads * size
        k = jax.random.split(key, 4)
        net: dict[str, Any] = {
            "vectors": jax.random.normal(k[0], (length, width)),
            "first": dense(k[1], width, (hidden,)),
            "second": dense(k[2], hidden, (n, heads, size)),
        }
        if start is not None:
            _check_start(start, shape)
            units = _units(net)
            solved = jnp.linalg.pinv(units) @ start.swapaxes(0, 1).reshape(length, -1)
            kernel = solved.reshape(hidden, n, heads, size)
            net["second"] = {"kernel": kernel, "bias": jnp.zeros((n, heads, size))}
        return Params(net)

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "n P H d"]:
        return made(params.learnable)

    return Format(init, read)


def _units(net: PyTree) -> Float[Array, "P h"]:
    first = net["first"]
    return jnp.tanh(net["vectors"] @ first["kernel"] + first["bias"])


def made(net: PyTree) -> Float[Array, "n P H d"]:
    """The prefix that the MLP with the params of `reparametrised` makes."""
    second = net["second"]
    rows = jnp.tensordot(_units(net), second["kernel"], 1) + second["bias"]
    return rows.swapaxes(0, 1)


def _check_start(start: Array, shape: tuple[int, ...]) -> None:
    if tuple(start.shape) != tuple(shape):
        raise ValueError(
            f"got a prefix of {tuple(start.shape)} as the start, expected "
            f"{tuple(shape)} (keys and values of each layer, length, heads, size); "
            "take a text of as many tokens as the prefix has, and this model's card"
        )


def low_rank(rank: int) -> Format:
    """A prompt [P D] = 8 / sqrt(rank) A B, with A [P rank] and B [rank D] learnable.

    B starts at zero (DePT, arXiv 2309.05173). The factor is the published code's. It
    matters: Adam's step size does not depend on the gradient's scale, so the factor
    sets how far the prompt moves at a given learning rate.
    """

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        length, width = shape
        if not 0 < rank <= min(shape):
            raise ValueError(
                f"got a rank of {rank} for {length} vectors {width} wide, expected 1 "
                f"to {min(shape)}"
            )
        left = uniform(rank)(key, (length, rank))
        return Params({"left": left, "right": jnp.zeros((rank, width))})

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "P D"]:
        own, scale = params.learnable, 8 / rank**0.5
        return scale * (own["left"] @ own["right"])

    return Format(init, read)


def low_rank_channels(rank: int, deviation: float = 0.01) -> Format:
    """A prompt [H W C] whose channels are products B A, with B [C H rank] at zero and
    A [C rank W] at N(0, deviation^2) (LoR-VP, arXiv 2502.00896)."""

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        height, width, channels = shape
        if not 0 < rank <= min(height, width):
            raise ValueError(
                f"got a rank of {rank} for images of {height} x {width}, expected 1 to "
                f"{min(height, width)}"
            )
        right = deviation * jax.random.normal(key, (channels, rank, width))
        return Params({"left": jnp.zeros((channels, height, rank)), "right": right})

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "H W C"]:
        own = params.learnable
        return jnp.einsum("chr,crw->hwc", own["left"], own["right"])

    return Format(init, read)
