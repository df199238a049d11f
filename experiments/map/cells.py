"""The 72 cells of the taxonomy, and the programs that stand in each of them.

    python -m experiments.map.cells                     # both embedded models
    python -m experiments.map.cells --bench figures     # one task, each candidate

A cell is a configuration, a location, an operator and an alignment. In this map:

learnable: set by gradients. Every learnable cell of a model has the same number of
learnable numbers within 10 %; a linear alignment is counted apart.
fixed: written, drawn, or computed from the training examples in one pass of the model.
Of up to eight candidates, validation chooses one.
identity: the model's own classes are the task's, and the answer is read as it is, among
all of them. So it needs a task in the model's own label space.
rule: one of the model's classes for each of the task's: its own, or the first ones.
statistical: a centred Bayesian map, BLM+, of the 50 most probable classes.
linear: a learned map of the features that the model's own head reads, standardised.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, NamedTuple

import jax
import tyro

from experiments.map import images, words
from experiments.map.tasks import BENCHES, EMBEDDED, Bench, in_own_classes, said
from reprojax.alignments import bayesian_plus, centred, columns, last, linear
from reprojax.commands.outputs import command
from reprojax.core import Forward, Manipulation, Program, chain, reprogram, until
from reprojax.data import Task
from reprojax.models import Pixels, role
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell

CELLS = tuple(Cell(*at) for at in product(FORMATS, LOCATIONS, OPERATORS, OMEGAS))
MOST = 50  # probable classes that the statistical alignment counts
OUTSIDE = (
    "The task's classes are none of the model's own, so that its answer as it is names "
    "no class of the task."
)


class Entry(NamedTuple):
    """What stands in a cell, for one model and one task."""

    programs: dict[str, Program]
    """Candidates by name: one in a learnable cell, up to eight in a fixed one."""
    task: Task
    """With the labels that these programs answer by."""
    why_not: str = ""
    """Where there is no program, one sentence that says why."""


def entries(
    bench: Bench, chosen: Iterable[Cell] = CELLS, made: "Prompts | None" = None
) -> dict[Cell, Entry]:
    """{cell: its programs, or why there are none}.

    Args:
        made: what `prompts_of(bench)` gave: it runs the model on all training examples.
    """
    prompts, impossible = made or prompts_of(bench)
    found = {}
    for cell in chosen:
        at, why_not = prompts.get(cell[:3], {}), impossible.get(cell[:3], "")
        if cell.omega == "identity" and not bench.own:
            why_not = why_not or OUTSIDE
        if why_not:
            found[cell] = Entry({}, bench.task, why_not)
            continue
        found[cell] = Entry(*behind(bench, at, cell.omega))
    return found


def behind(
    bench: Bench, at: Mapping[str, Any], omega: str
) -> tuple[dict[str, Program], Task]:
    """{candidate: program} of prompts by candidate, with one alignment; their task."""
    forward, align = aligned(bench, omega)
    programs = {name: reprogram(forward, own, align) for name, own in at.items()}
    own = omega == "identity"
    return programs, in_own_classes(bench.task, bench.own) if own else bench.task


def without_prompt(bench: Bench, omega: str) -> Entry:
    """An alignment alone."""
    if omega == "identity" and not bench.own:
        return Entry({}, bench.task, OUTSIDE)
    return Entry(*behind(bench, {"no prompt": bench.sized}, omega))


Prompts = tuple[dict[Any, dict[str, Any]], dict[Any, str]]


def prompts_of(bench: Bench) -> Prompts:
    """{(configuration, location, operator): candidates}, and why others have none."""
    if isinstance(bench.model.input, Pixels):
        return images.prompts(bench), {}
    return words.prompts(bench), words.IMPOSSIBLE


def aligned(bench: Bench, omega: str) -> tuple[Forward, Manipulation | None]:
    """What of the model a program runs, and the manipulation of "output"."""
    forward, targets = bench.model.forward, len(bench.task.classes)
    if omega == "identity":
        return said(forward), None
    if omega == "rule":
        return forward, columns(bench.own or range(targets))
    if omega == "statistical":
        classes = len(bench.model.classes) or bench.model.input.vocabulary
        return forward, centred(bayesian_plus(targets, k=min(MOST, classes)))
    (site,) = role(bench.model, "features", "the linear alignment")
    head = linear(targets, standardised=True)
    if not isinstance(bench.model.input, Pixels):
        head = chain(last=last(), head=head)
    return until(forward, site), head


# -- the list


@dataclass(frozen=True)
class Config:
    """Which list is printed."""

    bench: Annotated[
        str,
        tyro.conf.arg(
            help=f"one of {', '.join(BENCHES)}; by default {', '.join(EMBEDDED)}"
        ),
    ] = ""
    train: int = 16
    """Examples that fixed prompts are computed from, for the list."""


def lines(bench: Bench, found: Mapping[Cell, Entry]) -> Iterator[str]:
    """A line for each kind of prompt: learnable numbers, alignments, candidates."""
    by_prompt: dict[tuple[str, ...], dict[str, Entry]] = {}
    for cell, entry in found.items():
        by_prompt.setdefault(cell[:3], {})[cell.omega] = entry
    yield f"{'prompt':34}{'learnable':>9}  {'alignments':40}candidates"
    for at, own in by_prompt.items():
        whole = {omega: e for omega, e in own.items() if e.programs}
        one = next(iter(whole.values()), None)
        names = ", ".join(one.programs) if one else ""
        count = learned_numbers(bench, one) if one else 0
        omegas = ", ".join(whole) or "none"
        yield f"{' '.join(at):34}{count or '':>9}  {omegas:40}{names}".rstrip()


def learned_numbers(bench: Bench, entry: Entry) -> int:
    """Learnable numbers of a cell's first program, those of "output" not counted."""
    program = next(iter(entry.programs.values()))
    x = jax.tree.map(lambda a: a[:1], entry.task.train.x)
    params = jax.eval_shape(program.init, jax.random.key(0), bench.model.frozen, x)
    own = {s: t for s, t in params.learnable.items() if s != "output"}
    return sum(a.size for a in jax.tree.leaves(own))


def main(config: Config) -> None:
    """Print the list of cells."""
    if config.bench and config.bench not in BENCHES:
        raise ValueError(
            f"got the bench {config.bench!r}, expected one of {', '.join(BENCHES)}"
        )
    for name in [config.bench] if config.bench else EMBEDDED:
        bench = BENCHES[name](train=config.train)
        found = entries(bench)
        count = sum(len(e.programs) for e in found.values())
        print(
            f"\n{name}: {bench.model.name} on {bench.task.name}, {count} programs in "
            f"{sum(bool(e.programs) for e in found.values())} of {len(CELLS)} cells"
        )
        print("\n".join(lines(bench, found)))
        reasons = [e.why_not for e in found.values() if e.why_not]
        for why in dict.fromkeys(reasons):
            print(f"{reasons.count(why)} cells without: {why}")


if __name__ == "__main__":
    command(main, Config)
