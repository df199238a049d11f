"""What is measured of a cell's program besides its accuracy.

Operations and latency are those of one answer, of the program and of the bare model in
the same run. Tokens are those that enter a language model's last block.
"""

import statistics
import time
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.map.tasks import Bench
from reprojax.commands.figures import png
from reprojax.core import Forward, Params, Program, PyTree, bare, record, reprogram
from reprojax.models import Pixels, role
from reprojax.taxonomy import describe
from reprojax.training.compilation import Compiled

ROWS = 50  # examples a call
TIMES = 30  # of one answer, by turns with the bare model's


def shifted(
    bench: Bench, program: Program, params: Params, in_own: bool = False
) -> dict[str, float]:
    """{shift: accuracy}, among the answers that the program can give.

    Args:
        in_own: the program answers with the model's own classes.
    """
    run = Compiled(_chosen, program)
    found = {}
    for name, (x, labels) in bench.shifts.items():
        y = np.asarray(bench.own)[labels] if in_own else labels
        answers = [run(params, bench.model.frozen, part) for part in chunks(x)]
        found[name] = float((np.concatenate(answers)[: len(y)] == y).mean())
    return found


def _chosen(program: Program, params: Params, frozen: PyTree, x: PyTree) -> jax.Array:
    y = program.apply(params, frozen, x)
    return y.argmax(-1).reshape(-1)


def chunks(x: PyTree) -> list[PyTree]:
    """Rows in parts of `ROWS`; the last part is filled with the first rows again."""
    number = len(bare(x))
    rows = np.arange(-(-number // ROWS) * ROWS) % number
    take = lambda part: jax.tree.map(lambda a: a[part], x)
    return [take(part) for part in rows.reshape(-1, ROWS)]


# -- the cost of one answer


def costs(bench: Bench, program: Program, params: Params) -> dict[str, Any]:
    """ "operations" and "latency" [seconds], each {"bare", "program"}."""
    own = _compiled(program, params, bench.model.frozen, first(bench.task.train.x))
    calls = {"bare": _bare(bench), "program": own}
    flops = {name: call.cost_analysis()["flops"] for name, (call, _) in calls.items()}
    return {"operations": flops, "latency": _by_turns(calls)}


Call = tuple[Any, tuple[Any, ...]]


def _by_turns(calls: dict[str, Call]) -> dict[str, float]:
    """Median seconds of each, called by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call, given in calls.values():
        jax.block_until_ready(call(*given))
    for _ in range(TIMES):
        for name, (call, given) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*given))
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _compiled(program: Program, *given: PyTree) -> Call:
    return jax.jit(program.apply).lower(*given).compile(), given


_kept: dict[Forward, Call] = {}  # the bare model is compiled once


def _bare(bench: Bench) -> Call:
    if bench.model.forward not in _kept:
        x = first(bench.task.train.x)
        given = (*without_prompt(bench, x), bench.model.frozen, x)
        _kept[bench.model.forward] = _compiled(*given)
    return _kept[bench.model.forward]


def without_prompt(bench: Bench, x: PyTree) -> tuple[Program, Params]:
    """The bare model on examples of the task's own size."""
    program = reprogram(bench.model.forward, bench.sized)
    return program, program.init(jax.random.key(0), bench.model.frozen, x)


def first(x: PyTree) -> PyTree:
    """One example [1 ...]."""
    return jax.tree.map(lambda a: jnp.asarray(a[:1]), x)


def tokens(bench: Bench, program: Program, params: Params) -> float | None:
    """That enter a language model's last block, mean over some training texts."""
    if isinstance(bench.model.input, Pixels):
        return None
    site = role(bench.model, "blocks")[-1]
    x = chunks(bench.task.train.x)[0]
    weight = jax.jit(partial(_weight, program, site))(params, bench.model.frozen, x)
    return float(weight)


def _weight(
    program: Program, site: str, params: Params, frozen: PyTree, x: PyTree
) -> jax.Array:
    _, seen = record(program.apply, [site])(params, frozen, x)
    return seen[site].weight.sum(1).mean()


# -- to look at


def table(bench: Bench, program: Program) -> str:
    """The program's rows in the taxonomy, as `describe` prints them."""
    x = jax.tree.map(lambda a: a[:2], bench.task.train.x)
    return str(describe(program, bench.model.frozen, x, roles=bench.model.roles))


def pictures(
    bench: Bench, program: Program, params: Params, site: str
) -> list[tuple[str, str]]:
    """[(what it shows, a PNG in base 64)] of an image model: the first training image
    at a site, without the program and with it. Of what is no picture, the mean of its
    channels at each place."""
    if not isinstance(bench.model.input, Pixels):
        return []
    x = first(bench.task.train.x)
    own = without_prompt(bench, x), (program, params)
    seen = [_at(bench, site, x, *each) for each in own]
    named = zip((f"{site}, bare", f"{site}, with the prompt"), seen, strict=True)
    if site == "normalized":
        mean, std = bench.model.input.mean, np.asarray(bench.model.input.std)
        return [(name, _text(value * std + mean)) for name, value in named]
    means = [(name, value.mean(-1)) for name, value in named]
    low = min(value.min() for _, value in means)
    high = max(value.max() for _, value in means)
    scaled = lambda a: (a - low) / max(high - low, 1e-9)
    return [(name, _text(_grey(scaled(value)))) for name, value in means]


def _at(
    bench: Bench, site: str, x: PyTree, program: Program, params: Params
) -> np.ndarray:
    run: Callable[..., Any] = jax.jit(record(program.apply, [site]))
    _, seen = run(params, bench.model.frozen, x)
    return np.asarray(bare(seen[site])[0], np.float32)


def _grey(value: np.ndarray) -> np.ndarray:
    """[h w], or [l] as one line, as a grey picture."""
    plane = value if value.ndim == 2 else value[None]
    return np.repeat(plane[..., None], 3, -1)


def _text(pixels: np.ndarray) -> str:
    return b64encode(png(pixels)).decode()
