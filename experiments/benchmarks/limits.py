"""Matrix products: how many a device makes in a second, how many a call asks for."""

import time
from collections.abc import Callable
from math import prod
from typing import Any

import jax
from jax import lax

from experiments.benchmarks.timing import paired

# Dense operations a second in bfloat16, from data sheets; float32 runs in TF32 at half.
LIMITS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}


def product(
    dtype: str,
    clock: Callable[[], float] = time.perf_counter,
    size: int | None = None,
    times: int = 1,
) -> float:
    """Operations a second of one large matrix product, the best of ten.

    Args:
        size: rows and columns; by default 8192, on a CPU 2048.
        times: products a call, each of the last one's result: what a call takes to
            start is then shared among them.
    """
    n = size or (2048 if jax.default_backend() == "cpu" else 8192)

    @jax.jit
    def drawn() -> jax.Array:  # results stay as large as this
        return (jax.random.normal(jax.random.key(0), (n, n)) * n**-0.5).astype(dtype)

    multiply = jax.jit(lambda a: lax.fori_loop(0, times, lambda _, x: x @ a, a))
    a = drawn()
    seconds = paired({"product": lambda: multiply(a)}, 10, clock)["product"]
    return 2 * n**3 * times / float(seconds.min())


def known_limit(dtype: str) -> float | None:
    """What the device's data sheet says, if it is one of `LIMITS`."""
    kind = jax.devices()[0].device_kind
    found = next((limit for card, limit in LIMITS.items() if card in kind), None)
    return found and (found if dtype == "bfloat16" else found / 2)


def product_operations(jaxpr: Any) -> int:
    """Floating-point operations of the matrix products on which a jaxpr's results hang.

    A compiler's own count lacks the products that a GPU's library makes. Convolutions
    are not counted; those in a `while` are counted once.
    """
    return _count(jaxpr, [True] * len(jaxpr.outvars))


def _count(jaxpr: Any, wanted: list[bool]) -> int:
    live = {v for v, want in zip(jaxpr.outvars, wanted, strict=True) if want}
    total = 0
    for eqn in reversed(jaxpr.eqns):
        out = [v in live for v in eqn.outvars]
        if not any(out):  # such as a slope by a kernel that is not learned
            continue
        live.update(v for v in eqn.invars if not hasattr(v, "val"))
        if eqn.primitive.name == "dot_general":
            ((axes, _), _) = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * prod(shape[i] for i in axes)
        for inner in _inner(eqn):
            same = len(inner.outvars) == len(out)
            own = _count(inner, out if same else [True] * len(inner.outvars))
            total += own * eqn.params.get("length", 1)
    return total


def _inner(eqn: Any) -> list[Any]:
    """The jaxprs that an equation calls."""
    found = [getattr(value, "jaxpr", value) for value in eqn.params.values()]
    return [value for value in found if hasattr(value, "eqns")]
