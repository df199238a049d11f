"""Durations that can be compared: paired, in one run, as medians."""

import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np


def paired(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """{name: seconds [repeats]}: in each round every call once, after one unmeasured.

    The calls of a round see the same machine, so their ratios are steadier than they.
    Every other round runs backwards, so that none always follows the same one. Where
    others use the machine too, the clock `time.process_time` counts this process alone,
    its seconds on all cores together.
    """
    for call in calls.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for i in range(repeats):
        for name in order[:: -1 if i % 2 else 1]:
            start = clock()
            jax.block_until_ready(calls[name]())
            seconds[name].append(clock() - start)
    return {name: np.array(each) for name, each in seconds.items()}


def ratio(above: np.ndarray, below: np.ndarray) -> float:
    """The median of the rounds' own ratios."""
    return float(np.median(above / below))


def interval(above: np.ndarray, below: np.ndarray) -> tuple[float, float]:
    """Where `ratio` lies with 95 % (bootstrap over the rounds, the same each call)."""
    rows = np.random.default_rng(0).integers(0, len(above), (2000, len(above)))
    low, high = np.quantile(np.median((above / below)[rows], 1), (0.025, 0.975))
    return float(low), float(high)


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if "model name" in x)
    except (OSError, StopIteration):  # not Linux: the short name will do
        return platform.processor() or platform.machine()


def machine(*packages: str) -> str:
    """The processor's name, what JAX runs on, and the versions of it and `packages`."""
    devices = jax.devices()
    kind = f"{len(devices)} {devices[0].platform} device(s), {devices[0].device_kind}"
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", *packages))
    return f"{processor()}; {kind}; {versions}"
