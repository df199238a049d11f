"""Backbone cards: a frozen image model and what a recipe must know about it."""

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, UInt8

from reprojax.core import Forward, passthrough, sites
from reprojax.core.guards import nearest
from reprojax.core.slips import refuse_card
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
    forward: Forward
    frozen: PyTree
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    roles: Mapping[str, tuple[str, ...]]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            others = ("kind", "vocabulary", "positions", "width", "tokenizer")
            do = "take a recipe of images, such as padding, watermark or vpt_deep"
            refuse_card(self, name, (*others, "special"), do)


def images(
    network: nn.Module | Forward,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Forward:
    """A classifier as forward(frozen, pixels, edit), pixels [B size size 3].

    Pixels are uint8, or floats in [0, 1]; the network, a linen module or a forward,
    runs in the dtype of `frozen`. Site "input" is the pixels as they came, "normalized"
    what the network gets.
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
    """[2, 3] float32. ValueError if they are not three finite numbers each."""
    try:
        both = np.asarray([mean, std], np.float32)
    except (TypeError, ValueError):
        both = np.empty(0)
    if both.shape != (2, 3) or not np.isfinite(both).all() or both[1].min() <= 0:
        raise ValueError(
            f"mean {mean} and std {std} came, expected three finite numbers each, the "
            "std positive; call load(..., mean=..., std=...)"
        )
    return both


def _dtype(frozen: PyTree) -> Any:
    """Of the weights; a buffer of indices is none."""
    dtypes = (leaf.dtype for leaf in jax.tree.leaves(frozen))
    return next((d for d in dtypes if jnp.issubdtype(d, jnp.floating)), jnp.float32)


def card(
    network: nn.Module | Forward,
    frozen: PyTree,
    *,
    name: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    features: str,
    classes: Sequence[str] | None = None,
    **roles: str | Sequence[str],
) -> Backbone:
    """The card of one's own image classifier, checked without running it.

    Args:
        network: a linen module, or a forward from normalised [B size size 3] to logits;
            its own "input" is the card's "normalized".
        mean, std: of the pixels in [0, 1] that the model was trained with.
        classes: its class names in order; numbers unless given.
        features: the site of what the classifier reads, [B D].
        roles: sites by role: "blocks", "keys", "values", as in `Backbone`. A star
            stands for any part of one name: "block_*:in", in the order of calls.
    """
    center, spread = tuple(map(float, mean)), tuple(map(float, std))
    forward = images(network, size, center, spread)
    x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    shapes = sites(forward, frozen, x)
    count = shapes["output"][-1] if len(shapes["output"]) == 2 else None
    names = tuple(map(str, range(count or 0) if classes is None else classes))
    if len(names) != count:
        raise ValueError(
            f"{name} answers {shapes['output']} to two images, expected (2, S) for "
            f"{len(names) or 'S'} classes; give as many names, or a forward that "
            "returns the logits alone: linen(module, lambda m, x: m(x).logits)"
        )
    found = {
        role: _matching(given, shapes, role)
        for role, given in {"features": features, **roles}.items()
    }
    if len(shapes[found["features"][0]]) != 2 or len(found["features"]) > 1:
        raise ValueError(
            f"features={features!r} gives {[(s, shapes[s]) for s in found['features']]}"
            ", expected one site of [B D]; sites(forward, frozen, x) lists them"
        )
    found |= {"input": ("input", "normalized")}
    if "blocks" in found:
        found.setdefault("embedding", found["blocks"][:1])
    return Backbone(name, forward, frozen, size, center, spread, names, found)


def _matching(
    given: str | Sequence[str], shapes: Mapping[str, Any], role: str
) -> tuple[str, ...]:
    """The sites that a role's pattern, or each of its names, stands for."""
    patterns = [given] if isinstance(given, str) else list(given)
    out = []
    for pattern in patterns:
        form = re.escape(pattern).replace(r"\*", "[^/:]*")
        hits = [site for site in shapes if re.fullmatch(form, site)]
        if not hits:
            raise ValueError(
                f"{role} is {pattern!r}, but the model has no such site"
                f"{nearest(pattern, shapes)}; sites(forward, frozen, x) lists them"
            )
        out += hits
    return tuple(out)


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
