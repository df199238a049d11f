"""Layers of `models/` against the plain way to write them: what pays stays.

    python -m experiments.benchmarks.forms
    python -m experiments.benchmarks.forms --process     # where others use the machine

Each line: a layer, at a size of its network, forward and input gradient; seconds in the
form that `models/` has, and other forms over it (above 1: ours is faster), with the
interval of the median. Expected on a CPU: all above 1; docs/results.md has a table. One
minute.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.timing import interval, machine, paired, ratio
from reprojax.commands.outputs import command
from reprojax.models.vision.layers import Depthwise, Patches, Pointwise, Stem
from reprojax.models.vision.resnet import max_pool
from reprojax.models.vision.vit import MLP, Attention


@dataclass(frozen=True)
class Config:
    """Layers in two forms."""

    batch: int = 8
    repeats: int = 15
    process: bool = False
    """Count the process's own seconds instead of those on the wall."""


def main(config: Config) -> None:
    """Measure and print a layer at a time."""
    print(machine())
    clock = time.process_time if config.process else time.perf_counter
    for name, shape, ours, theirs in forms():
        x = jax.random.normal(jax.random.key(0), (config.batch, *shape))
        calls = {"ours": call(ours, x), **{k: call(f, x) for k, f in theirs.items()}}
        check(name, calls)
        seconds = paired(calls, config.repeats, clock)
        mine = seconds["ours"]
        print(f"{name:34}{1e3 * np.median(mine):8.1f} ms", end="")
        for other in theirs:
            low, high = interval(seconds[other], mine)
            print(f" | {other} {ratio(seconds[other], mine):.2f}", end="")
            print(f" [{low:.2f} {high:.2f}]", end="")
        print(flush=True)


Layer = Callable[[jax.Array], Any]
Form = nn.Module | Layer


def forms() -> Iterator[tuple[str, tuple[int, ...], Form, dict[str, Form]]]:
    """(layer, shape of a row, our form, other forms)."""
    scale = jnp.linspace(0.5, 1.5, 64)
    pooled = lambda pool: lambda x: nn.relu(pool(x * scale + 0.1))
    early = lambda pool: lambda x: pool(nn.relu(x * scale + 0.1))
    others = {
        "relu first": early(max_pool),
        "of nine": early(nine),
        "reduce_window": early(reduce_window),
    }
    yield "maxima of the stem", (112, 112, 64), pooled(max_pool), others
    stem = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False)
    yield "stem", (224, 224, 3), Stem(64), {"convolution": stem}
    for side, width, out, stride in ((56, 64, 256, 1), (14, 1024, 256, 1)):
        ours = Pointwise(out, stride, bias=False)
        conv = nn.Conv(out, (1, 1), stride, use_bias=False)
        name = f"1x1, {side} pixels, {width} to {out}"
        yield name, (side, side, width), ours, {"convolution": conv}
    conv = nn.Conv(144, (3, 3), padding=1, feature_group_count=144)
    shape = (56, 56, 144)
    yield "a filter a channel", shape, Depthwise(), {"convolution": conv}
    conv = nn.Conv(192, (16, 16), 16, padding="VALID")
    yield "patches", (224, 224, 3), Patches(16, 192), {"convolution": conv}
    softmax = {"jax.nn.dot_product_attention": Softmax(3)}
    yield "attention", (197, 192), Attention(3), softmax
    yield "MLP", (197, 192), MLP(768), {"jax.nn.gelu": Gelu(768)}


def nine(x: jax.Array) -> jax.Array:
    """The same pool, of nine at once."""
    n = x.shape[1] // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    starts = [(i, j) for i in range(3) for j in range(3)]
    first, *rest = (
        x[:, i : i + 2 * n - 1 : 2, j : j + 2 * n - 1 : 2] for i, j in starts
    )
    for value in rest:
        first = jnp.maximum(first, value)
    return first


def reduce_window(x: jax.Array) -> jax.Array:
    """The same pool, as XLA has it."""
    pads: Any = ((1, 1), (1, 1))  # any: flax declares a string
    return nn.max_pool(x, (3, 3), (2, 2), pads)


class Softmax(nn.Module):
    """`Attention` with jax.nn.dot_product_attention."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.heads, x.shape[-1] // self.heads)
        parts = [nn.DenseGeneral(shape, name=n)(x) for n in ("query", "key", "value")]
        mixed = jax.nn.dot_product_attention(*parts)
        return nn.Dense(x.shape[-1], name="out")(mixed.reshape(x.shape))


class Gelu(nn.Module):
    """`MLP` with jax.nn.gelu."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        up = nn.gelu(nn.Dense(self.hidden, name="up")(x), approximate=False)
        return nn.Dense(x.shape[-1], name="down")(up)


def weights(path: Any, leaf: Any) -> jax.Array:
    """Random ones that hang on a parameter's name and shape alone."""
    name = path[-1].key
    if name != "kernel":
        return jnp.full(leaf.shape, float(name in ("scale", "var")))
    fan_in = np.prod(leaf.shape[:-1])
    return jax.random.normal(jax.random.key(1), leaf.shape) * fan_in**-0.5


def drawn(layer: Form, x: jax.Array) -> tuple[Callable[..., Any], Any]:
    """(weights, x) -> y, and the weights of a layer; a function has none."""
    if not isinstance(layer, nn.Module):
        return lambda _, x: layer(x), ()
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    return layer.apply, jax.tree_util.tree_map_with_path(weights, shapes)


def call(layer: Form, x: jax.Array) -> Callable[[], Any]:
    """Value and input gradient, towards a fixed direction of the value."""
    apply, frozen = drawn(layer, x)
    shape = jax.eval_shape(apply, frozen, x).shape
    toward = jax.random.normal(jax.random.key(2), shape)

    @jax.jit
    def both(frozen: Any, x: jax.Array, toward: jax.Array) -> tuple[Any, Any]:
        value, back = jax.vjp(lambda x: apply(frozen, x), x)
        return value, back(toward)[0]

    return lambda: both(frozen, x, toward)


def check(name: str, calls: dict[str, Callable[[], Any]]) -> None:
    """Raise if two forms are not one function."""
    first, *rest = (np.ravel(call()[0]) for call in calls.values())
    for other in rest:
        if not np.allclose(first, other, rtol=1e-3, atol=1e-4):
            raise ValueError(f"{name}: the forms' values differ, expected one function")


if __name__ == "__main__":
    command(main, Config)
