"""Trees of arrays: their names, shapes, digests and rows, and how two differ."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reprojax.core.vocabulary import PyTree


def differences(came: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A line for each key whose value differs: the value got, and the one expected."""
    return [
        f"{key}: got {came.get(key, 'nothing')}, "
        f"expected {expected.get(key, 'nothing')}"
        for key in [*expected, *(key for key in came if key not in expected)]
        if key not in came or key not in expected or came[key] != expected[key]
    ]


def below(lines: Iterable[str]) -> str:
    """Lines in the form in which errors list them below their message."""
    return "".join(f"\n  {line}" for line in lines)


def named(tree: PyTree) -> dict[str, Any]:
    """{"learnable/input/scale": leaf}, in the tree's order."""
    named = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = [jax.tree_util.keystr((key,), simple=True) for key in path]
        name = "/".join(key.replace("~", "~0").replace("/", "~1") for key in keys)
        if name in named:
            raise ValueError(
                f"got two leaves named {name!r}, expected one; rename a key, or make "
                "the number a text"
            )
        named[name] = leaf
    return named


def plain_data(leaf: Any) -> jax.Array:
    """A leaf as an array; of a typed PRNG key its key data."""
    keys = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if keys else jnp.asarray(leaf)


def specs(tree: PyTree) -> dict[str, str]:
    """{"learnable/input/scale": "float32[3]"}: the shape and type of each leaf."""
    return {name: spec_text(leaf) for name, leaf in named(tree).items()}


def spec_text(leaf: Any) -> str:
    plain = jax.eval_shape(plain_data, leaf)
    return f"{plain.dtype.name}{list(plain.shape)}"


def tiled(tree: PyTree, count: int) -> PyTree:
    """The rows of each array [B ...] that many times, all of them before the next:
    [count*B ...]."""
    return jax.tree.map(lambda a: jnp.tile(a, (count, *(1 for _ in a.shape[1:]))), tree)


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
