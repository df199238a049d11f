"""Backbone cards: a frozen image model and what a recipe must know about it."""

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8

from reprojax.core import passthrough
from reprojax.locations import linen

PyTree = Any


class Backbone(NamedTuple):
    """A frozen image classifier. `roles` names its sites, so that recipes spell none:

    input      ("input", "normalized"): before and after normalisation
    embedding  the value that enters the first block
    blocks     the value that enters each block
    keys, values   [B L h d] of each block (transformers alone)
    features   one site: what the classifier reads, [B D]
    """

    name: str
    forward: Callable
    frozen: PyTree
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]


def images(
    module: nn.Module, size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable:
    """A linen classifier as forward(frozen, pixels, edit), pixels [B size size 3].

    Pixels are uint8, or floats in [0, 1]; the network runs in the dtype of `frozen`.
    Site "input" is the pixels as they came, "normalized" what the network gets.
    """
    network = linen(module)
    center, spread = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def forward(frozen, x, edit=passthrough):
        x = (_pixels(edit("input", x), size) - center) / spread
        x = x.astype(jax.tree.leaves(frozen)[0].dtype)

        def renamed(site, value):
            return edit("normalized" if site == "input" else site, value)

        return network(frozen, x, edit=renamed)

    return forward


def _pixels(x: ArrayLike, size: int) -> Float[Array, "B H W 3"]:
    shape, dtype = tuple(jnp.shape(x)), jnp.result_type(x)
    if len(shape) != 4 or shape[1:] != (size, size, 3):
        raise ValueError(
            f"images of shape {list(shape)} came to the model, expected "
            f"[batch, {size}, {size}, 3]; "
            f'put resize({size}) into a chain at "input"'
        )
    if dtype == jnp.uint8:
        return jnp.asarray(x, jnp.float32) / 255
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"images of dtype {dtype} came to the model, expected uint8 or floats in "
            "[0, 1]; call .astype(np.uint8) on pixels from 0 to 255"
        )
    return jnp.asarray(x, jnp.float32)


def fingerprint(frozen: PyTree) -> str:
    """sha256 over every leaf's path, dtype, shape and bytes, in the paths' order."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(frozen)[0]
    named = [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    for path, leaf in sorted(named, key=lambda pair: pair[0]):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def random(
    backbone: Backbone,
    key: Array,
    x: UInt8[Array | np.ndarray, "B H W 3"] | None = None,
) -> Backbone:
    """The same architecture with random weights: a control that says what training did.

    Kernels are normal by fan-in, biases 0, scales 1. In a convolutional net the batch
    statistics are then set on `x`, a batch of the model's size: without that, values
    grow or die with depth and the control says nothing. Where batch norm was folded
    into the convolutions, their kernels and biases are scaled so instead.
    """
    given: dict[str, Any] = flatten_dict(backbone.frozen, sep="/")
    flat = {path: _drawn(path, leaf, key) for path, leaf in given.items()}
    ends = _normalisers(backbone, flat)
    if ends and x is None:
        raise ValueError(
            f"no images came for the batch statistics of a random {backbone.name}, "
            "expected some of the task's; call random(backbone, key, x)"
        )
    if ends:
        flat = _set_on_data(backbone.forward, flat, ends, x)
    return backbone._replace(
        name=f"{backbone.name} (random weights)",
        frozen=unflatten_dict(flat, sep="/"),
    )


def _drawn(path: str, leaf: Any, key: Array) -> Array:
    key, name = jax.random.fold_in(key, zlib.crc32(path.encode())), path.split("/")[-1]
    if name == "kernel":  # dense kernels are [in, out ...]
        fan_in = np.prod(leaf.shape[:-1] if leaf.ndim == 4 else leaf.shape[:1])
        gain = 2.0 if leaf.ndim == 4 else 1.0
        init = jax.nn.initializers.normal((gain / fan_in) ** 0.5)
    elif name in ("bias", "mean"):
        init = jax.nn.initializers.zeros
    elif name in ("scale", "var", "gamma"):
        init = jax.nn.initializers.ones
    else:  # class tokens, positions
        init = jax.nn.initializers.normal(0.02)
    return init(key, leaf.shape, leaf.dtype)


def _normalisers(backbone: Backbone, flat: Mapping[str, Array]) -> dict[str, str]:
    """{site: frozen path}: where a value is to have mean 0 and variance 1."""
    norms = [p.removesuffix("/mean") for p in flat if p.endswith("/mean")]
    if norms:
        return {f"{p.removeprefix('params/')}:in": p for p in norms}
    if backbone.roles.get("keys"):  # layer norm needs no statistics
        return {}
    kernels = [p.removesuffix("/kernel") for p, v in flat.items() if v.ndim == 4]
    return {f"{p.removeprefix('params/')}:out": p for p in kernels}


def _set_on_data(forward, flat, ends, x):
    """One pass: each value is normalised where it is seen, so that the next sees it."""

    @jax.jit
    def statistics(flat, x):
        seen = {}

        def see(site, value):
            if site not in ends:
                return value
            wide = value.astype(jnp.float32)
            mean, var = wide.mean((0, 1, 2)), wide.var((0, 1, 2)) + 1e-5
            seen[ends[site]] = mean, var
            return ((wide - mean) * jax.lax.rsqrt(var)).astype(value.dtype)

        forward(unflatten_dict(flat, sep="/"), x, edit=see)
        return seen

    for path, (mean, var) in statistics(flat, x).items():
        if f"{path}/mean" in flat:
            new = {"mean": mean, "var": var - 1e-5}
        else:
            slope = jax.lax.rsqrt(var)
            new = {"kernel": flat[f"{path}/kernel"] * slope, "bias": -mean * slope}
        for name, value in new.items():
            leaf = flat[f"{path}/{name}"]
            flat[f"{path}/{name}"] = value.astype(leaf.dtype)
    return flat
