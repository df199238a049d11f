"""Prompts computed from other parameters: an MLP's output, a low-rank product."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from reprojax.core import Format, Key, Params, PyTree, Scope
from reprojax.core.guards import check_sizes
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


def projected(size: int, initial: Initializer) -> Format:
    """Prompts [n P D] of n sites, made by one linear layer of narrower vectors: VPT's
    projection (arXiv 2203.12119), which starts as the published code's.

    Each site reads its own [P D].

    Args:
        size: numbers of a vector.
        initial: of the vectors [n P size].
    """
    check_sizes("projected", size=size)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        k, width = jax.random.split(key, 3), shape[-1]
        net = {"prompts": initial(k[0], (*shape[:-1], size), jnp.float32)}
        net["kernel"] = jax.random.normal(k[1], (size, width)) * (2 / width) ** 0.5
        return Params(net | {"bias": uniform(size)(k[2], (width,))})

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "P D"]:
        own = params.learnable
        return own["prompts"][scope.index] @ own["kernel"] + own["bias"]

    return Format(init, read)


def pruned(pieces: int, initial: Initializer, *, learned: bool) -> Format:
    """Prompts [n P D] of n sites, times masks that the sites share: one for each of P
    tokens, and one for each of its pieces (E2VPT, arXiv 2307.13770).

    As in the published code, piece j of m holds the numbers j, j + m, j + 2m and so on
    of a token. Each site reads its own [P D].

    Args:
        pieces: m.
        initial: of the prompts. The masks start at one.
        learned: whether the masks are learnable or fixed.
    """
    check_sizes("pruned", pieces=pieces)

    def init(key: Key, shape: tuple[int, ...], scope: Scope) -> Params:
        length, width = shape[1:]
        if width % pieces:
            raise ValueError(
                f"got pieces={pieces} for prompts {width} wide, expected a divisor"
            )
        masks = {"tokens": jnp.ones(length), "pieces": jnp.ones((length, pieces))}
        own = {"prompts": initial(key, shape, jnp.float32)}
        return Params(own | masks) if learned else Params(own, masks)

    def read(params: Params, value: PyTree, scope: Scope) -> Float[Array, "P D"]:
        prompt = params.learnable["prompts"][scope.index]
        masks = params.learnable if learned else params.fixed
        each = jnp.tile(masks["pieces"], (1, prompt.shape[1] // pieces))
        return prompt * each * masks["tokens"][:, None]

    return Format(init, read)
