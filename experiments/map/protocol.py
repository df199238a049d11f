"""One cell of the map, under the protocol that all cells share.

    python -m experiments.map.protocol --bench figures \
        --cell learnable input additive statistical

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

from experiments.map.cells import CELLS, Entry, entries, learned_numbers
from experiments.map.tasks import BENCHES, Bench
from reprojax.commands.intervals import mean_of
from reprojax.commands.outputs import command
from reprojax.core import Params
from reprojax.data import Task
from reprojax.taxonomy import Cell
from reprojax.training.loop import Fitted
from reprojax.training.metrics import calibration_error
from reprojax.training.population import fit_population


@dataclass(frozen=True)
class Protocol:
    """What is the same for all cells."""

    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    """Of Adam, from low to high. The middle one, or the upper of two, compares a fixed
    prompt's candidates."""
    epochs: int = 12
    batch: int = 32
    choosing: tuple[int, ...] = (0, 1)
    """Seeds that choose, and are not reported."""
    reported: tuple[int, ...] = (2, 3, 4, 5, 6)
    sizes: dict[str, int] = field(default_factory=dict)
    """{split: examples} where they differ from the bench's own."""


class Place(NamedTuple):
    """A cell of a bench under a protocol."""

    bench: str
    cell: Cell
    protocol: Protocol

    def at(self, seed: int) -> tuple[Bench, Entry]:
        """The model and the programs, with the examples of a seed."""
        sizes = tuple(sorted(self.protocol.sizes.items()))
        bench = _bench(self.bench, seed, sizes)
        return bench, _entry(self.bench, seed, sizes, self.cell)


@lru_cache(maxsize=8)
def _bench(name: str, seed: int, sizes: tuple[tuple[str, int], ...]) -> Bench:
    return BENCHES[name](seed=seed, **dict(sizes))


@lru_cache(maxsize=8)
def _entry(
    name: str, seed: int, sizes: tuple[tuple[str, int], ...], cell: Cell
) -> Entry:
    (entry,) = entries(_bench(name, seed, sizes), [cell])
    return entry


def place_of(settings: Mapping[str, Any]) -> Place:
    """Settings as JSON keeps them, checked.

    Args:
        settings: "bench", a name of `BENCHES`; "cell", its four words; "protocol", the
            fields of `Protocol` that differ from the defaults.
    """
    cell, bench = Cell(*settings["cell"]), settings["bench"]
    if cell not in CELLS:
        raise ValueError(f"got the cell {cell}, expected one of the 72: {CELLS[0]}, …")
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
    return Place(bench, cell, protocol)


def measured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Choose and report one cell: a job of `experiments.sweep`.

    Returns:
        for a cell without a program "why_not" alone; else "candidate" and "rate", which
        were chosen, "validation" {what was compared: mean accuracy}, "runs" [one for
        each reported seed], and the size of the program: learnable numbers of the
        "prompt", of the "alignment", and "bytes" of all that is stored.
    """
    place = place_of(settings)
    bench, entry = place.at(place.protocol.choosing[0])
    if not entry.programs:
        return {"why_not": entry.why_not}
    name, rate, compared = choose(place)
    runs = [reported(place, name, rate, seed) for seed in place.protocol.reported]
    found = {"candidate": name, "rate": rate, "validation": compared, "runs": runs}
    prompt, params = learned_numbers(bench, entry), _shapes(place, name)
    return found | {
        "prompt": prompt,
        "alignment": _count(params.learnable) - prompt,
        "bytes": sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(params)),
    }


def choose(place: Place) -> tuple[str, float | None, dict[str, float]]:
    """(candidate, rate or None if nothing is learned, {what was compared: accuracy}).

    Of equal ones the first is taken: the earlier candidate, the lower rate.
    """
    rates = place.protocol.rates
    names = [*place.at(place.protocol.choosing[0])[1].programs]
    compared = {}
    if len(names) > 1:
        middle = [rates[len(rates) // 2]]
        compared = {name: validated(place, name, middle)[0] for name in names}
    name = max(names, key=lambda own: compared.get(own, 0.0))
    if not _count(_shapes(place, name).learnable):
        return name, None, compared
    scores = validated(place, name, rates)
    for rate, score in zip(rates, scores, strict=True):
        compared[f"{name} at {rate:g}"] = score
    return name, rates[int(np.argmax(scores))], compared


def validated(place: Place, name: str, rates: Sequence[float]) -> list[float]:
    """Mean validation accuracy over the choosing seeds, for each rate. A run whose loss
    diverged counts as 0."""
    every = [
        [fitted.score["validation"] for fitted in _trained(place, name, rates, seed)]
        for seed in place.protocol.choosing
    ]
    return np.nan_to_num(np.array(every), nan=0.0).mean(0).tolist()


def reported(
    place: Place, name: str, rate: float | None, seed: int
) -> dict[str, float]:
    """Of a seed: accuracies, and the expected calibration error on the test split."""
    rates = [] if rate is None else [rate]
    (fitted,) = _trained(place, name, rates, seed, test=True)
    return {
        "seed": seed,
        "test": float(fitted.score["test"]),
        "validation": float(fitted.score["validation"]),
        "calibration error": float(fitted.metrics[calibration_error.name]),
        "seconds a step": fitted.seconds_per_step,
    }


def _trained(
    place: Place, name: str, rates: Sequence[float], seed: int, test: bool = False
) -> list[Fitted]:
    """A run for each rate; of a program that learns nothing, one pass in all."""
    bench, entry = place.at(seed)
    learned = _count(_shapes(place, name).learnable) > 0
    own = list(rates) if learned else [0.0]
    fits = fit_population(
        entry.programs[name],
        bench.model.frozen,
        entry.task if test else without_test(entry.task),
        optimizer=optax.inject_hyperparams(optax.adam)(learning_rate=own[0]),
        epochs=place.protocol.epochs if learned else 1,
        batch=place.protocol.batch,
        seeds=[seed] * len(own),
        settings=[{"learning_rate": rate} for rate in own],
        metrics=(calibration_error,),
        refresh="epoch" if learned else "once",
        progress=False,
    )
    return fits if learned else fits * max(1, len(rates))


def without_test(task: Task) -> Task:
    """The task with its validation split in the place of the test split, so that a run
    that chooses cannot read the test split."""
    return task._replace(test=task.validation)


def _shapes(place: Place, name: str) -> Params:
    bench, entry = place.at(place.protocol.choosing[0])
    x = jax.tree.map(lambda a: a[:1], entry.task.train.x)
    program, key = entry.programs[name], jax.random.key(0)
    return jax.eval_shape(program.init, key, bench.model.frozen, x)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


# -- the command


@dataclass(frozen=True)
class Config:
    """Which cell."""

    bench: str = "figures"
    """A name of `experiments.map.tasks.BENCHES`."""
    cell: tuple[str, str, str, str] = ("learnable", "input", "additive", "statistical")
    """Configuration, location, operator and alignment."""
    protocol: Protocol = Protocol()


def main(config: Config) -> None:
    """Print what a job of that cell finds, and the mean over the reported seeds."""
    own = {"bench": config.bench, "cell": config.cell}
    found = measured(own | {"protocol": asdict(config.protocol)})
    print(json.dumps(found, indent=2, ensure_ascii=False))
    if runs := found.get("runs"):
        print("test accuracy", mean_of([run["test"] for run in runs]))


if __name__ == "__main__":
    command(main, Config)
