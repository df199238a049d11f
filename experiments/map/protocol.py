"""One cell of the map, or one of its controls, under the protocol that all share.

    python -m experiments.map.protocol --bench figures \
        --cell learnable input additive statistical
    python -m experiments.map.protocol --bench figures --control fine-tuning

The runs of two seeds choose: of a fixed prompt's candidates the one, and of the rates
the one with the best mean accuracy on validation examples. They never see the test
split. Five other seeds are then reported: each draws its own training and validation
examples and its own initial values, and reads the test split once. The test examples
are the same for all seeds and cells.

A program without learnable numbers (a fixed prompt whose alignment is none, a rule or
estimated) makes one pass over the training examples instead of training.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.map import images, measures, words
from experiments.map.cells import CELLS, Entry, Prompts, entries, prompts_of
from experiments.map.controls import (
    COMPUTED,
    CONTROLS,
    SLOWER,
    computed,
    trained,
)
from experiments.map.tasks import BENCHES, SLOW, Bench
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.core import Params, Program, PyTree
from reprojax.data import Task
from reprojax.models import Pixels
from reprojax.taxonomy import OMEGAS, Cell
from reprojax.training.caches import cached
from reprojax.training.loop import Fitted
from reprojax.training.metrics import calibration_error
from reprojax.training.population import How, fit_population


@dataclass(frozen=True)
class Protocol:
    """What is the same for all cells."""

    rates: tuple[float, ...] = (0.005, 0.03, 0.15)
    """Of Adam, from low to high. The middle one, or the lower of two, compares a fixed
    prompt's candidates."""
    epochs: int = 6
    batch: int = 32
    choosing: tuple[int, ...] = (0, 1)
    """Seeds that choose, and are not reported."""
    reported: tuple[int, ...] = (2, 3, 4, 5, 6)
    sizes: dict[str, int] = field(default_factory=dict)
    """{split: examples} where they differ from the bench's own."""


class Place(NamedTuple):
    """A cell of a bench, or one of its controls, under a protocol."""

    bench: str
    what: Cell | str
    protocol: Protocol

    def at(self, seed: int) -> tuple[Bench, Entry]:
        """The model and the programs, with the examples of a seed."""
        sizes = tuple(sorted(self.protocol.sizes.items()))
        return _made(self.bench, seed, sizes, self.what)

    @property
    def rates(self) -> tuple[float, ...]:
        slower = SLOWER.get(self.what, 1.0) if isinstance(self.what, str) else 1.0
        return tuple(rate * slower for rate in self.protocol.rates)


LOOPS = ("fine-tuning", *(Cell("learnable", "input", "parametric", o) for o in OMEGAS))
"""Whose members have kernels of their own for convolutions of several pixels, which the
form vmap computes slowly on CPUs."""
Sizes = tuple[tuple[str, int], ...]


@lru_cache(maxsize=8)
def _bench(name: str, seed: int, sizes: Sizes) -> Bench:
    return BENCHES[name](seed=seed, **dict(sizes))


@lru_cache(maxsize=8)  # the model sees the training examples once, for all cells
def _prompts(name: str, seed: int, sizes: Sizes) -> Prompts:
    return prompts_of(_bench(name, seed, sizes))


@lru_cache(maxsize=8)
def _made(name: str, seed: int, sizes: Sizes, what: Cell | str) -> tuple[Bench, Entry]:
    bench = _bench(name, seed, sizes)
    if isinstance(what, str):
        return trained(bench, what, seed)
    return bench, entries(bench, [what], _prompts(name, seed, sizes))[what]


def place_of(settings: Mapping[str, Any]) -> Place:
    """Settings as JSON keeps them, checked.

    Args:
        settings: "bench", a name of `BENCHES`; "cell", its four words, or "control", a
            name of `CONTROLS`; "protocol", the fields of `Protocol` that differ from
            the defaults.
    """
    bench, control = settings["bench"], settings.get("control")
    what: Any = control or Cell(*settings["cell"])
    if what not in (CONTROLS if control else CELLS):
        raise ValueError(
            f"got {what}, expected one of the controls {CONTROLS}"
            if control
            else f"got the cell {what}, expected one of the 72: {CELLS[0]}, …"
        )
    if bench not in BENCHES:
        raise ValueError(f"got the bench {bench!r}, expected one of {[*BENCHES]}")
    given = dict(settings.get("protocol", {}))
    names = [own.name for own in fields(Protocol)]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"got {unknown} in the protocol, expected some of {names}")
    listed: dict[str, Any] = {
        n: tuple(v) if isinstance(v, list) else v for n, v in given.items()
    }
    protocol = Protocol(**listed)
    if both := {*protocol.choosing} & {*protocol.reported}:
        raise ValueError(
            f"got the seeds {sorted(both)} to choose by and to report, expected others "
            "to report: what chose is no measure of the choice"
        )
    if not (protocol.rates and protocol.choosing and protocol.reported):
        raise ValueError(f"got {protocol}, expected rates, and seeds of both kinds")
    return Place(bench, what, protocol)


def measured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Choose and report one cell or control: a job of `experiments.sweep`.

    Returns:
        of a cell without a program "why_not" alone; else "candidate" and "rate", which
        were chosen, "validation" {what was compared: mean accuracy}, and "runs" [one
        for each reported seed]. Then the program's size: learnable numbers of the
        "prompt", of the "alignment", and "bytes" of all that is stored; and what the
        first of the runs shows, as in `experiments.map.measures`.
    """
    place = place_of(settings)
    if place.what in COMPUTED:
        return {"runs": [_computed(place, seed) for seed in place.protocol.reported]}
    bench, entry = place.at(place.protocol.choosing[0])
    if not entry.programs:
        return {"why_not": entry.why_not}
    name, rate, compared = choose(place)
    found = {"candidate": name, "rate": rate, "validation": compared}
    seeds, fits = place.protocol.reported, _reported(place, name, rate)
    each = zip(seeds, fits, strict=True)
    found["runs"] = [run(place, name, seed, fitted) for seed, fitted in each]
    found |= _size(fits[0].params)
    return found | _further(place, name, seeds[0], fits[0])


def _computed(place: Place, seed: int) -> dict[str, Any]:
    sizes = tuple(sorted(place.protocol.sizes.items()))
    return {"seed": seed} | computed(_bench(place.bench, seed, sizes), str(place.what))


def _size(params: Params) -> dict[str, int]:
    every = _count(params.learnable)
    prompt = every - _count(params.learnable.get("output", ()))
    stored = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params))
    return {"prompt": prompt, "alignment": every - prompt, "bytes": stored}


def _further(place: Place, name: str, seed: int, fitted: Fitted) -> dict[str, Any]:
    """Costs, the table and pictures of a cell's first reported run."""
    if place.what == "fine-tuning":
        return {}
    bench, entry = place.at(seed)
    own = bench, entry.programs[name], fitted.params
    found = measures.costs(*own) | {"tokens": measures.tokens(*own)}
    if isinstance(place.what, str):
        return found
    site = {**_sites(bench), "input": "normalized"}[place.what.location]
    return found | {
        "sites": measures.table(*own[:2]),
        "pictures": measures.pictures(*own, site),
    }


def _sites(bench: Bench) -> dict[str, str]:
    find = images.places if isinstance(bench.model.input, Pixels) else words.places
    return dict(zip(("embedding", "hidden"), find(bench), strict=True))


def choose(place: Place) -> tuple[str, float | None, dict[str, float]]:
    """(candidate, rate or None if nothing is learned, {what was compared: accuracy}).

    Of equal ones the first is taken: the earlier candidate, the lower rate.
    """
    rates = place.rates
    names = [*place.at(place.protocol.choosing[0])[1].programs]
    compared = {}
    if len(names) > 1:
        middle = [rates[(len(rates) - 1) // 2]]
        compared = {name: validated(place, name, middle)[0] for name in names}
    name = max(names, key=lambda own: compared.get(own, 0.0))
    if not _count(_shapes(place, name, place.protocol.choosing[0]).learnable):
        return name, None, compared
    scores = validated(place, name, rates)
    for rate, score in zip(rates, scores, strict=True):
        compared[f"{name} at {rate:g}"] = score
    return name, rates[int(np.argmax(scores))], compared


def validated(place: Place, name: str, rates: Sequence[float]) -> list[float]:
    """Mean validation accuracy over the choosing seeds, for each rate. A run whose loss
    diverged counts as 0."""
    pairs = [(seed, rate) for rate in rates for seed in place.protocol.choosing]
    fits = _trained(place, name, pairs)
    each = np.array([fitted.score["validation"] for fitted in fits])
    return np.nan_to_num(each, nan=0.0).reshape(len(rates), -1).mean(1).tolist()


def _reported(place: Place, name: str, rate: float | None) -> list[Fitted]:
    pairs = [(seed, rate or 0.0) for seed in place.protocol.reported]
    return _trained(place, name, pairs, test=True)


def run(place: Place, name: str, seed: int, fitted: Fitted) -> dict[str, Any]:
    """Of a seed: accuracies, also under shifts; the expected calibration error on the
    test split; and how long training took, evaluation left out."""
    bench, entry = place.at(seed)
    own = bench, entry.programs[name], fitted.params
    steps = len(fitted.curves) * -(-len(entry.task.train.y) // place.protocol.batch)
    return {
        "seed": seed,
        "test": float(fitted.score["test"]),
        "validation": float(fitted.score["validation"]),
        "calibration error": float(fitted.metrics[calibration_error.name]),
        "training seconds": fitted.seconds_per_step * steps,
        "shifted": measures.shifted(*own, in_own=not entry.task.classes),
    }


def _trained(
    place: Place, name: str, pairs: Sequence[tuple[int, float]], test: bool = False
) -> list[Fitted]:
    """A run for each (seed, rate); one pass of a program that learns nothing.

    The runs are one population where its members have the same shapes: the programs of
    two seeds differ in their initial values alone. Demonstrations differ in length.
    Members of a slow model run one after another: together they take more memory, and
    no less time.
    """
    seeds = dict.fromkeys(seed for seed, _ in pairs)
    shapes = {seed: _shapes(place, name, seed) for seed in seeds}
    alike = len({_of_shapes(shape) for shape in shapes.values()}) == 1
    alike &= place.what != "random-weights"  # another frozen tree for each seed
    learned = _count(shapes[pairs[0][0]].learnable) > 0
    slow = place.bench in SLOW
    how: How = "loop" if slow or place.what in LOOPS else "vmap"
    given: dict[str, Any] = {
        "epochs": place.protocol.epochs if learned else 1,
        "batch": place.protocol.batch,
        "metrics": (calibration_error,),
        "refresh": "epoch" if learned else "once",
        "progress": False,
    }

    def run(own: Sequence[tuple[int, float]]) -> list[Fitted]:
        kept = {
            seed: _examples(place, name, seed, test, slow and learned)
            for seed in dict.fromkeys(seed for seed, _ in own)
        }
        parts = [kept[seed] for seed, _ in own]
        program, frozen, _ = parts[0]
        return fit_population(
            program,
            frozen,
            [task for *_, task in parts],
            optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=own[0][1]),
            seeds=[seed for seed, _ in own],
            settings=[{"learning_rate": rate} for _, rate in own],
            inits=[part[0].init for part in parts],
            how=how,
            **given,
        )

    return run(pairs) if alike else [fit for pair in pairs for fit in run([pair])]


def _examples(
    place: Place, name: str, seed: int, test: bool, once: bool
) -> tuple[Program, PyTree, Task]:
    """The program, the model and the examples of a seed.

    Args:
        once: take the values below the program's lowest edit in the place of the
            examples. The model computes them once for all rates and epochs.
    """
    bench, entry = place.at(seed)
    task = entry.task if test else without_test(entry.task)
    own = entry.programs[name], bench.model.frozen, task
    if isinstance(place.what, Cell):  # a learnable prompt in pixels has nothing below
        above = place.what[:2] != ("learnable", "input")
    else:
        above = place.what != "fine-tuning"
    if once and above:
        return cached(*own, progress=False)
    return own


def without_test(task: Task) -> Task:
    """The task with its validation split in the place of the test split, so that a run
    that chooses cannot read the test split."""
    return task._replace(test=task.validation)


def _shapes(place: Place, name: str, seed: int) -> Params:
    bench, entry = place.at(seed)
    x = jax.tree.map(lambda a: a[:1], entry.task.train.x)
    program, key = entry.programs[name], jax.random.key(0)
    return jax.eval_shape(program.init, key, bench.model.frozen, x)


def _of_shapes(params: Params) -> tuple[Any, ...]:
    leaves, tree = jax.tree.flatten(params)
    return tree, *((leaf.shape, leaf.dtype) for leaf in leaves)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# -- the command


@dataclass(frozen=True)
class Config:
    """Which cell, or which control."""

    bench: str = "figures"
    """A name of `experiments.map.tasks.BENCHES`."""
    cell: tuple[str, str, str, str] = ("learnable", "input", "additive", "statistical")
    """Configuration, location, operator and alignment."""
    control: str | None = None
    """A control in place of a cell: see `experiments.map.controls`."""
    protocol: Protocol = Protocol()


def main(config: Config) -> None:
    """Print what a job of that cell finds, and the mean over the reported seeds."""
    own = {"bench": config.bench, "cell": config.cell, "control": config.control}
    found = measured(own | {"protocol": asdict(config.protocol)})
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if runs := found.get("runs"):
        print("test accuracy", mean_of([run["test"] for run in runs]))


if __name__ == "__main__":
    command(main, Config)
