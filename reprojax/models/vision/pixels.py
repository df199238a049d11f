"""The input of image models, and a model with random weights as a control."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8

from reprojax.core import Forward, PyTree, passthrough
from reprojax.locations import linen
from reprojax.models.card import Model


class Pixels(NamedTuple):
    """Images [B size size 3], uint8 or floats in [0, 1]."""

    size: int
    mean: tuple[float, ...]
    """Mean of the training pixels in [0, 1], for normalisation; likewise `std`."""
    std: tuple[float, ...]

    def example(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, self.size, self.size, 3), jnp.uint8)

    def forward(self, network: nn.Module | Forward) -> Forward:
        return images(network, self.size, self.mean, self.std)


def images(
    network: nn.Module | Forward,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Forward:
    """A classifier as forward(frozen, pixels, edit), pixels [B size size 3].

    Pixels are uint8, or floats in [0, 1]; the network, a linen module or a forward,
    runs in the dtype of `frozen`. Site "input" has the pixels before normalisation,
    "normalized" the network's input.
    """
    network = linen(network) if isinstance(network, nn.Module) else network
    center, spread = _constants(mean, std)

    def forward(frozen, x, edit=passthrough):
        x = (_pixels(edit("input", x), size) - center) / spread
        x = x.astype(_dtype(frozen))

        def renamed(site, value):
            return edit("normalized" if site == "input" else site, value)

        return network(frozen, x, edit=renamed)

    return forward


def _constants(mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """(mean, std) as [2, 3] float32; raise unless both are three finite numbers."""
    try:
        both = np.asarray([mean, std], np.float32)
    except (TypeError, ValueError):
        both = np.empty(0)
    if both.shape != (2, 3) or not np.isfinite(both).all() or both[1].min() <= 0:
        raise ValueError(
            f"got mean {mean} and std {std}, expected three finite numbers each, the "
            "std positive; call load(..., mean=..., std=...), or Pixels(size, mean, "
            "std)"
        )
    return both


def _dtype(frozen: PyTree) -> Any:
    """The dtype of the weights, that of the first floating leaf (indices are not)."""
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(frozen))
    return next((d for d in dtypes if jnp.issubdtype(d, jnp.floating)), jnp.float32)


def _pixels(x: ArrayLike, size: int) -> Float[Array, "B H W 3"]:
    shape, dtype = tuple(jnp.shape(x)), jnp.result_type(x)
    if len(shape) != 4 or shape[1:] != (size, size, 3):
        raise ValueError(
            f"the model got images of shape {list(shape)}, expected "
            f"[batch, {size}, {size}, 3]; "
            f'put resize({size}) into a chain at "input"'
        )
    if dtype == jnp.uint8:
        return jnp.asarray(x, jnp.float32) / 255
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"the model got images of dtype {dtype}, expected uint8 or floats in "
            "[0, 1]; call .astype(np.uint8) on pixels from 0 to 255"
        )
    return jnp.asarray(x, jnp.float32)


def random(
    model: Model[Pixels],
    key: Array,
    x: UInt8[Array | np.ndarray, "B H W 3"] | None = None,
) -> Model[Pixels]:
    """The architecture with random weights: a control that shows what training gave.

    Kernels are normal by fan-in, biases 0, scales 1. A convolutional net then gets the
    batch statistics of `x`, a batch of the model's size; without this, values grow or
    vanish with depth and the control says nothing. If batch norm is folded into the
    convolutions, their kernels and biases are scaled instead.
    """
    if "texts" in model.frozen:  # their features would stay those of trained weights
        raise ValueError(
            f"got the classifier of a pair, {model.name}, expected an image model; "
            "call image_text.random(pair, key), and classifier(...) of what it gives"
        )
    given: dict[str, Any] = flatten_dict(model.frozen, sep="/")
    flat = {path: drawn(path, leaf, key) for path, leaf in given.items()}
    ends = _normalisers(model, flat)
    if ends and x is None:
        raise ValueError(
            f"got no images for the batch statistics of a random {model.name}, "
            "expected some of the task's; call random(model, key, x)"
        )
    if ends:
        flat = _set_on_data(model.forward, flat, ends, x)
    return model._replace(
        name=f"{model.name} (random weights)",
        frozen=unflatten_dict(flat, sep="/"),
    )


def drawn(path: str, leaf: Any, key: Array) -> Array:
    """A random leaf of a frozen tree, of a kind that its path tells."""
    # A key by path: the draw does not depend on the order or number of the leaves.
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


def _normalisers(model: Model[Pixels], flat: Mapping[str, Array]) -> dict[str, str]:
    """{site: frozen path}: values that should have mean 0 and variance 1."""
    norms = [p.removesuffix("/mean") for p in flat if p.endswith("/mean")]
    if norms:
        return {f"{p.removeprefix('params/')}:in": p for p in norms}
    layer_norm = any(p.endswith("/scale") for p in flat)
    if model.roles.get("keys") or layer_norm:  # which needs no statistics
        return {}
    kernels = [p.removesuffix("/kernel") for p, v in flat.items() if v.ndim == 4]
    return {f"{p.removeprefix('params/')}:out": p for p in kernels}


def _set_on_data(forward, flat, ends, x):
    """One pass that normalises each value where it is seen, before later layers."""

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
