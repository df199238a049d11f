r"""What one GPU or TPU makes of the library, in one command of less than 8 minutes.

    python -m experiments.benchmarks.accelerator --out runs/accelerator

It needs what the library needs and no file. First the operations a second of a large
matrix product. Then, on ViT-B/16 at 224 pixels and on SmolLM2-135M's shapes, with
random weights, in bfloat16 and float32: the floor, which is forward and input gradient
of the bare model, and over it a step of `fit` of padding with BLM, VPT-deep, prompt
tuning (20 tokens) and prefix tuning (10, no MLP); then one step of 1, 4 and 16 programs
by vmap, and PyTorch's compiled step of the first program, where PyTorch and
transformers are there and run on the same device.

A line: seconds, the median of several rounds of calls that are queued as in `fit`; the
median of the rounds' ratios to the floor; images or words a second; the share of the
large product's operations a second, where only matrix products count as operations;
memory of the compiled call, and the device's own highest point since the start (of
PyTorch's lines, its process's); seconds to trace and compile. float32 is what the
device makes of it by default: products in TF32 on NVIDIA's cards (in PyTorch too), in
bfloat16 on TPUs.

Before a case it compares the time left with what the case before took, and skips what
would not fit; at --limit it stops for good. The table (table.md) and results.json are
whole after each line. On a CPU sizes are tiny, for a test, unless --full is given.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks import accelerator_torch
from experiments.benchmarks.limits import product, product_operations
from experiments.benchmarks.steppers import Stepper, whole
from experiments.benchmarks.timing import machine, paired, ratio
from experiments.benchmarks.workloads import FULL, KINDS, TINY, Sizes, Workload
from reprojax.saving.files import write_file, write_json

DTYPES = ("bfloat16", "float32")
MARGIN = 15.0
"""Seconds of the limit for imports, before the clock runs, and for the end."""
FIRST = {"product": 20.0, "floor": 45.0, "step": 45.0, "population": 60.0}
FIRST["PyTorch"] = 120.0
"""What a case of a kind may take, before one was seen."""


class Row(NamedTuple):
    """A line of the table; None where there is no such number."""

    model: str
    dtype: str
    case: str
    seconds: float | None = None
    over: float | None = None
    """The floor of the same model and type."""
    rate: float | None = None
    """Images or words a second."""
    share: float | None = None
    """Of the operations a second of a large product."""
    memory: int | None = None
    """Bytes of the compiled call."""
    peak: int | None = None
    """Bytes that the device held at most, since the start."""
    compiling: float | None = None
    note: str = ""


class Case(NamedTuple):
    """One that is still to be measured."""

    kind: str
    model: str
    dtype: str
    name: str
    run: Callable[[], Row]

    def without(self, note: str) -> Row:
        """The row of a case that has no numbers."""
        return Row(self.model, self.dtype, self.name, note=note)


class Report:
    """The rows so far, in files that are whole after each one."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        self.rows: list[Row] = []
        self._out, self._about, self._lock = out, about, threading.RLock()
        print("\n".join(heading(about)), flush=True)

    def add(self, row: Row) -> None:
        """Print a row, and write all."""
        with self._lock:
            self.rows.append(row)
            print(line(row), flush=True)
            table = "\n".join([*heading(self._about), *map(line, self.rows), ""])
            write_file(self._out / "table.md", table.encode())
            found = {**self._about, "rows": [row._asdict() for row in self.rows]}
            write_json(self._out / "results.json", found)


class Bench:
    """How each case is measured."""

    def __init__(self, sizes: Sizes, left: Callable[[], float]) -> None:
        self.sizes, self.left = sizes, left
        self.limits: dict[str, float] = {}
        self.floors: dict[tuple[str, str], Callable[[], Any]] = {}
        self.seconds: dict[tuple[str, str, str], float] = {}
        self.workload: Callable[[str, str], Workload] = cache(
            lambda model, dtype: KINDS[model][1](sizes, dtype)
        )
        # A call is one step on a CPU; elsewhere some are queued, as `fit` does.
        self._queued = 1 if jax.default_backend() == "cpu" else 5

    def product(self, dtype: str) -> Row:
        """Operations a second of a large matrix product."""
        size = self.sizes.matrix
        self.limits[dtype] = found = product(dtype, size=size, times=self._queued * 2)
        note = f"{found / 1e12:.3g} TFLOP/s, {size} rows and columns"
        case = "matrix product", 2 * size**3 / found
        return Row("", dtype, *case, share=1.0, peak=peak(), note=note)

    def floor(self, model: str, dtype: str) -> Row:
        """Forward and input gradient of the bare model."""
        its, start = self.workload(model, dtype), time.perf_counter()
        traced: Any = its.floor.trace(*its.given)
        compiled = traced.lower().compile()
        took = time.perf_counter() - start
        call = self._call(lambda: compiled(*its.given))
        self.floors[model, dtype] = call
        seconds = paired({"floor": call}, rounds(call))["floor"]
        row = self._row(model, dtype, "floor", seconds, traced.jaxpr, compiled)
        return row._replace(over=1.0, compiling=took)

    def step(self, model: str, dtype: str, name: str) -> Row:
        """`fit`'s own step, in turns with the floor."""
        its = self.workload(model, dtype)
        stepper = Stepper(its.programs[name], its.frozen, its.x, its.y)
        calls = {"step": self._call(stepper.step)}
        if (model, dtype) in self.floors:  # it may not have fitted in memory
            calls["floor"] = self.floors[model, dtype]
        seconds = paired(calls, rounds(calls["step"]))
        about = seconds["step"], stepper.jaxpr, stepper.compiled
        row = self._row(model, dtype, name, *about)._replace(compiling=stepper.seconds)
        if "floor" not in seconds:
            return row
        return row._replace(over=ratio(seconds["step"], seconds["floor"]))

    def population(self, model: str, dtype: str, name: str, programs: int) -> Row:
        """One step of K programs that see the same rows, by vmap."""
        its = self.workload(model, dtype)
        given = its.programs[name], its.frozen, *its.first_rows()
        stepper = Stepper(*given, programs=programs)
        call = self._call(stepper.step)
        seconds = paired({"step": call}, rounds(call))["step"]
        about = seconds, stepper.jaxpr, stepper.compiled, programs * its.each
        case = population_name(name, programs)
        row = self._row(model, dtype, case, *about)
        one = self.seconds.get((model, dtype, population_name(name, 1)))
        note = f"{its.each} rows each"
        if one and row.seconds and programs > 1:
            note += f"; a program {row.seconds / programs / one:.2f} of K = 1"
        return row._replace(compiling=stepper.seconds, note=note)

    def torch(self, model: str, dtype: str, name: str) -> Row:
        """PyTorch's step of the same program, in a process of its own."""
        tiny, its = self.sizes is TINY, self.workload(model, dtype)
        found = accelerator_torch.ask(model, dtype, tiny, self.left())
        row = Row(model, dtype, torch_name(name))
        if "absent" in found:
            return row._replace(note=found["absent"])
        seconds, note = found["seconds"], found["form"]
        ours, floor = (self.seconds.get((model, dtype, n)) for n in (name, "floor"))
        if ours:
            note += f"; ours takes {ours / seconds:.2f} of it"
        return row._replace(
            seconds=seconds,
            over=floor and seconds / floor,
            rate=len(its.y) * its.units / seconds,
            peak=found["peak"],
            compiling=found["compiling"],
            note=note,
        )

    def _call(self, once: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> Any:
            for _ in range(self._queued - 1):
                once()
            return once()

        return call

    def _row(
        self,
        model: str,
        dtype: str,
        case: str,
        seconds: np.ndarray,
        jaxpr: Any,
        compiled: Any,
        rows: int | None = None,
    ) -> Row:
        its, middle = self.workload(model, dtype), float(np.median(seconds))
        each = self.seconds[model, dtype, case] = middle / self._queued
        rate = (rows or len(its.y)) * its.units / each
        limit = self.limits.get(dtype)
        done = product_operations(jaxpr.jaxpr) / each
        share = done / limit if limit else None
        numbers = each, None, rate, share, whole(compiled), peak()
        return Row(model, dtype, case, *numbers)


def population_name(name: str, programs: int) -> str:
    """Of a case."""
    return f"{name}, K = {programs}"


def torch_name(name: str) -> str:
    """Of a case."""
    return f"{name}, PyTorch"


def rounds(call: Callable[[], Any], most: int = 10, seconds: float = 3.0) -> int:
    """How often a call is measured: at least three times. It is warm afterwards."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    return max(3, min(most, int(seconds / (time.perf_counter() - start))))


def peak() -> int | None:
    """Bytes that the device held at most since the process began, if it says so."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def cases(bench: Bench, dtypes: Sequence[str], torch: bool) -> list[Case]:
    """All there are, what matters most first."""
    found = []

    def put(run: Callable[..., Row], model: str, dtype: str, case: str, *given: Any):
        kind = run.__name__.replace("torch", "PyTorch")
        args = (dtype,) if not model else (model, dtype, *given)
        found.append(Case(kind, model, dtype, case, partial(run, *args)))

    names = {"ViT-B/16": ("padding", "VPT-deep")}
    names["SmolLM2-135M"] = ("prompt tuning", "prefix tuning")
    for dtype in dtypes:
        put(bench.product, "", dtype, "matrix product")
    for dtype in dtypes:
        for model in KINDS:
            put(bench.floor, model, dtype, "floor")
            for name in names[model]:
                put(bench.step, model, dtype, name, name)
    for dtype in dtypes:
        for model in KINDS:
            first, _ = names[model]
            if torch:
                put(bench.torch, model, dtype, torch_name(first), first)
            for programs in bench.sizes.programs:
                name = population_name(first, programs)
                put(bench.population, model, dtype, name, first, programs)
    return found


HEAD = ("model", "type", "case", "ms", "over the floor", "images or words a second")
HEAD += ("of the product", "MB", "highest MB", "compiled in s", "")


def heading(about: dict[str, Any]) -> list[str]:
    """What stands above the rows."""
    names, rule = " | ".join(HEAD), "|".join("---" for _ in HEAD)
    return [about["machine"], "", f"| {names} |", f"|{rule}|"]


def line(row: Row) -> str:
    """A row of the table."""

    def shown(form: str, value: float | None, unit: float = 1) -> str:
        return "" if value is None else format(value / unit, form)

    cells = [
        *(row.model, row.dtype, row.case),
        shown(".3f", row.seconds, 1e-3),
        shown(".3f", row.over),
        shown(",.0f", row.rate),
        shown(".0%", row.share),
        shown(",.0f", row.memory, 1e6),
        shown(",.0f", row.peak, 1e6),
        shown(".1f", row.compiling),
        row.note,
    ]
    return f"| {' | '.join(cells)} |"


def run(todo: Sequence[Case], report: Report, left: Callable[[], float]) -> bool:
    """Measure what there is time for; whether all of that went well."""
    took: dict[tuple[str, str], float] = {}
    well, done = True, 0

    def stop() -> None:  # what runs, such as a compiler, cannot be asked to end
        try:
            for i, case in enumerate(todo[done:]):
                report.add(case.without("skipped" if i else "cut off at the limit"))
        finally:
            os._exit(0)

    guard = threading.Timer(left(), stop)
    guard.daemon = True
    guard.start()
    try:
        for case in todo:
            need = 1.3 * took.get((case.kind, case.model), FIRST[case.kind] / 1.3)
            if left() < need:
                note = f"skipped: {max(left(), 0):.0f} s left, about {need:.0f} needed"
                row = case.without(note)
            else:
                before = left()
                row, fine = tried(case)
                well, took[case.kind, case.model] = well and fine, before - left()
            report.add(row)
            done += 1
    finally:
        guard.cancel()
    return well


def tried(case: Case) -> tuple[Row, bool]:
    """A case's row; one that fails leaves the others theirs."""
    try:
        return case.run(), True
    except Exception as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            return case.without("more memory than there is"), True
        first = (str(error).splitlines() or [""])[0][:200].replace("|", "/")
        return case.without(f"failed: {type(error).__name__}: {first}"), False


def main(argv: Sequence[str] | None = None) -> Report:
    """Measure, print and write; exit status 1 if a case failed."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("runs/accelerator"))
    parser.add_argument("--limit", type=float, default=480.0, help="seconds in all")
    parser.add_argument("--no-torch", action="store_true", help="leave PyTorch out")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--tiny", action="store_true", help="sizes of a test")
    size.add_argument("--full", action="store_true", help="not tiny on a CPU either")
    args = parser.parse_args(argv)
    if args.limit <= MARGIN:
        parser.error(f"got --limit {args.limit:g}, expected more than {MARGIN:g} s")
    # PyTorch, in its own process, needs some of the card's memory too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    tiny = args.tiny or (jax.default_backend() == "cpu" and not args.full)
    sizes = TINY if tiny else FULL
    left = lambda: args.limit - MARGIN - (time.monotonic() - start)
    about = {
        "machine": machine("jaxlib", "flax") + ("; tiny sizes" if tiny else ""),
        "device": jax.devices()[0].device_kind,
        "sizes": {**sizes._asdict(), "vit": str(sizes.vit), "llama": {**sizes.llama}},
    }
    report = Report(args.out, about)
    todo = cases(Bench(sizes, left), args.dtypes, not args.no_torch)
    if not run(todo, report, left):
        sys.exit(1)
    return report


if __name__ == "__main__":
    main()
