"""A choice while it runs: its folder, its time, its phases."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from experiments import sweep
from experiments.choosing import schedule
from experiments.choosing.candidates import Candidate
from experiments.choosing.jobs import DEADLINE, Place, file_of, work
from experiments.choosing.schedule import Book, Clock, Cost, Plan
from experiments.choosing.settings import training
from experiments.choosing.sizes import Sizes, numbers, resized
from experiments.choosing.words import many
from reprojax.commands.settings import pace
from reprojax.data import Task
from reprojax.saving.files import write_file

Found = list[tuple[dict[str, Any], Any]]
"""Of jobs: (settings, result)."""


@dataclass
class Entry:
    """What is known about a candidate or a control."""

    title: str
    candidate: Candidate | None = None
    """None: it is a control."""
    rounds: int = 0
    """That it survived, the first one included."""
    epochs: int = 0
    validation: float = 0.0
    """In the last of them."""
    learnable: int | None = None
    cost: Cost | None = None
    seconds: float = 0.0
    images: int = 0
    """For training, in the search."""
    finals: dict[int, float] = field(default_factory=dict)
    """{seed: validation accuracy}"""
    last_images: int = 0
    """For training, in the finals."""

    def file(self, seed: int) -> str | None:
        """Where the program of a seed of the finals is, in the run's folder."""
        if self.candidate is None:
            return file_of(self.title, seed)
        return f"programs/{self.candidate.name}/seed-{seed}.safetensors"

    @property
    def slug(self) -> str:
        """Its name in those of jobs."""
        return self.candidate.name if self.candidate else self.title.replace(" ", "-")


class Choice:
    """A run: its folder, its time, and what its jobs have found."""

    def __init__(
        self,
        place: Place,
        clock: Clock,
        book: Book,
        identity: Mapping[str, Any],
        whole: Sizes,
    ) -> None:
        """whole: all images of a seed."""
        self.place, self.clock, self.book = place, clock, book
        self.whole, self.asks = whole, place.config.access == "logits"
        self.config, self.identity = place.config, identity
        self.pool: Any = None
        self.outcomes: dict[str, sweep.Outcome] = {}

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.config.minutes * 60 - self.clock.spent()

    def run(
        self, phase: str, jobs: Mapping[str, Any], seconds: float = math.inf
    ) -> Found:
        """Run the jobs of a phase until its seconds are over; what they found, in the
        order of the jobs, without those that failed.

        A resumed run has the jobs, and the ends of phases, that it had before.
        """
        given = {f"{phase}/{name}": own for name, own in jobs.items()}
        own = self.book.once(phase, lambda: {"jobs": given, "counted": None})
        self.book.save(self.clock.spent())
        closed = own["counted"] is not None
        jobs = {n: own["jobs"][n] for n in own["counted"]} if closed else own["jobs"]
        until, done = self.clock.spent() + seconds, set()
        self._tell_end(math.inf if closed else seconds)
        for name, outcome, new in self._outcomes(jobs):
            done.add(name)
            self.clock.tell(outcome.value or {})
            self.book.save(self.clock.spent())
            late = new and not closed and self.clock.spent() >= until
            if late and not self.clock.real:  # else jobs see for themselves
                break
        own["counted"] = [name for name in jobs if name in done]
        self.book.save(self.clock.spent())
        every = [self.outcomes[name] for name in own["counted"]]
        return [(o.settings, o.value) for o in every if o.error is None]

    def _outcomes(
        self, jobs: Mapping[str, Any]
    ) -> Iterator[tuple[str, sweep.Outcome, bool]]:
        """(name, outcome, whether the job ran just now)"""
        folder = self.config.out / "jobs"
        there = {n for n in jobs if (folder / "results" / f"{n}.json").exists()}
        how: dict[str, Any] = {"executor": self.pool, "identity": self.identity}
        place = self.place._replace(duplicates="keep")  # who starts them has told
        for name, outcome in sweep.run(partial(work, place), jobs, folder, **how):
            self.outcomes[name] = outcome
            yield name, outcome, name not in there

    def _tell_end(self, seconds: float) -> None:
        """Tell the jobs when to end."""
        path = self.config.out / DEADLINE
        path.unlink(missing_ok=True)
        if self.clock.real and seconds < math.inf:
            write_file(path, repr(time.time() + seconds).encode())


# -- phases


def controls(choice: Choice) -> dict[str, Entry]:
    """What needs no prompt, on the seeds of the finals."""
    seeds = choice.config.seeds
    job = {"kind": "controls", "seeds": seeds}
    found = choice.run("controls", {"all": job})
    entries = {}
    for name, scores in found[0][1].items() if found else ():
        own = dict(zip(seeds, scores, strict=True))
        entry = Entry(name, validation=scores[0], finals=own)
        entry.images = entry.last_images = choice.whole.train
        entries[name] = entry
    return entries


def trial(choice: Choice, compared: list[Candidate]) -> Cost | None:
    """What a run costs, by a few steps of the first method that can make them."""
    for method in dict.fromkeys(own.method for own in compared):
        first = next(own for own in compared if own.method == method)
        job = {"kind": "trial", "candidate": [*first], "seed": choice.config.seed}
        if found := choice.run(f"trial-{method}", {"steps": job}):
            return choice.clock.cost(found[0][1])
    return None


def planned(
    choice: Choice, task: Task, compared: list[Candidate], cost: Cost, end: float
) -> Plan:
    """The plan, printed.

    Returns:
        its "shares" as what the clock shows when each round should end.

    Raises:
        ValueError: the budget is too small for one candidate.
    """
    config, whole, asks = choice.config, choice.whole, choice.asks
    steps = pace(training(config, compared[0], 1, task), task)[1]
    how: dict[str, Any] = {"workers": config.workers, "seeds": config.finals}
    rounds = lambda n: resized(cost, whole, whole.part(n, asks), asks)
    last = lambda n: resized(cost, whole, whole._replace(train=n), asks)
    # Fewer images save little where to compile takes longer than their epoch.
    worth = lambda n: asks or rounds(n).epoch >= rounds(n).overhead
    every, *fewer = numbers(task, config.batch)
    how |= {"steps": steps, "images": [every, *filter(worth, fewer)]}

    def decide() -> dict[str, Any]:
        try:
            left = choice.left - end
            found = schedule.plan(len(compared), rounds, last, left, **how)
        except schedule.Short as short:
            least = math.ceil(10 * config.minutes + short.seconds / 6) / 10
            spent, one = choice.clock.spent(), last(short.images).of(1)
            part = of_images(short.images, whole.train)
            raise ValueError(
                f"got --minutes {config.minutes:g}, expected at least {least:.1f}: one "
                f"candidate takes about {one:.0f} seconds for an epoch{part} here, "
                f"besides {spent:.0f} for what needs no prompt and {end:.0f} for the "
                "end; give more --minutes and --resume, or fewer images"
            ) from short
        begun = choice.clock.spent()
        ends = [begun + share * found.left for share in found.shares]
        return found._asdict() | {"finals": [*found.finals], "shares": ends}

    own = choice.book.once("plan", decide)
    found = Plan(**own | {"finals": schedule.Finals(*own["finals"])})
    for line in lines(choice, found, len(compared), end):
        print(line, flush=True)
    return found


def lines(choice: Choice, found: Plan, compared: int, end: float) -> list[str]:
    """The plan as it is printed."""
    rounds = schedule.halved(found.candidates, found.epochs)
    told = ", ".join(f"{n} for {many(e, 'epoch')}" for n, e in rounds)
    size, whole = found.finals, choice.whole
    part = whole.part(found.images, choice.asks)
    told += of_images(part.train, whole.train)
    if part.validation < whole.validation:
        told += f", judged by {part.validation:,} of {whole.validation:,}"
    return [
        f"candidates: {compared}, of which the budget allows {found.candidates}",
        f"rounds: {told}; about {found.search / 60:.1f} minutes",
        f"finals: {many(size.finalists, 'program')} on {many(size.seeds, 'seed')} for "
        f"{many(size.epochs, 'epoch')}{of_images(size.images, whole.train)}; about "
        f"{found.trained / 60:.1f} minutes",
        f"test and page: about {end / 60:.1f} minutes; {choice.left / 60:.1f} of "
        f"{choice.config.minutes:.3g} are left",
    ]


def of_images(part: int, whole: int) -> str:
    """Behind a number of epochs; empty if they are of all training images."""
    return f" of {part:,} of {whole:,} images" if part < whole else ""


def search(choice: Choice, compared: list[Candidate], plan: Plan) -> dict[str, Entry]:
    """Successive halving on the seed of the search."""
    config, by_name = choice.config, {own.name: own for own in compared}
    part = sizes_of(choice.whole.part(plan.images, choice.asks), choice.whole)
    entries: dict[str, Entry] = {}
    alive, epochs, number = compared[: plan.candidates], plan.epochs, 1
    while True:
        jobs = {
            own.name: {
                "kind": "train",
                "candidate": [*own],
                "epochs": epochs,
                "seed": config.seed,
                **part,
            }
            for own in alive
        }
        print(
            f"round {number}: {many(len(jobs), 'candidate')} for "
            f"{many(epochs, 'epoch')}; "
            f"{choice.left / 60:.1f} minutes are left",
            flush=True,
        )
        end = plan.shares[min(number, len(plan.shares)) - 1]
        found = choice.run(f"round-{number}", jobs, end - choice.clock.spent())
        ranking = _round(choice, entries, found, number)
        epochs, number = min(2 * epochs, schedule.MOST), number + 1
        seconds = plan.shares[-1] - choice.clock.spent()
        costs = [e.cost for e in ranking if e.cost is not None]
        n = schedule.survivors(costs, epochs, seconds, config.workers)
        if f"round-{number}" not in choice.book.decided and (
            not n or len(ranking) <= schedule.KEPT
        ):
            return entries
        alive = [by_name[e.slug] for e in ranking[:n]]


def sizes_of(part: Sizes, whole: Sizes) -> dict[str, list[int]]:
    """In the settings of a job; nothing if it has all images."""
    return {} if part == whole else {"sizes": [*part]}


def _round(
    choice: Choice, entries: dict[str, Entry], found: Found, number: int
) -> list[Entry]:
    """Those of a round from best to worst, written into the entries."""
    here = []
    for settings, value in found:
        if value["validation"] is None:
            continue
        own = Candidate(*settings["candidate"])
        entry = entries.setdefault(own.name, Entry(own.title, own))
        entry.rounds, entry.epochs = number, value["epochs"]
        entry.images = settings.get("sizes", choice.whole)[0]
        entry.validation, entry.learnable = value["validation"], value["learnable"]
        entry.seconds += value["seconds"]
        entry.cost = choice.clock.cost(value)
        here.append(entry)
    return sorted(here, key=lambda entry: -entry.validation)


def finals(
    choice: Choice, task: Task, entries: Mapping[str, Entry], plan: Plan, end: float
) -> None:
    """Train the best programs on the seeds of the finals, judged by all validation
    images, as what needs no prompt is."""
    config, whole, asks = choice.config, choice.whole, choice.asks
    part = whole.part(plan.images, asks)
    own = distinct(entries)[: schedule.FINALISTS]
    if not own:
        return
    known = [entry.cost for entry in own if entry.cost is not None]
    of = lambda cost: lambda n: resized(cost, part, whole._replace(train=n), asks)
    seconds, epochs = choice.left - end, own[0].epochs
    how: dict[str, Any] = {"workers": config.workers, "seeds": config.finals}
    how["images"] = [n for n in numbers(task, config.batch) if n >= plan.images]
    decide = lambda: schedule.finals([*map(of, known)], seconds, epochs, **how)
    size = schedule.Finals(*choice.book.once("finals-size", decide))
    given = sizes_of(whole._replace(train=size.images), whole)
    jobs = {}
    for seed in config.seeds[: size.seeds]:
        for entry in own[: size.finalists]:
            job = {"kind": "train", "candidate": [*(entry.candidate or ())]}
            job |= {"epochs": size.epochs, "seed": seed, "file": entry.file(seed)}
            job |= given
            jobs[f"{entry.slug}/{seed}"] = job
    titles = " and ".join(entry.title for entry in own[: size.finalists])
    told = f"{many(size.epochs, 'epoch')}{of_images(size.images, whole.train)}"
    print(
        f"finals: {titles}, {many(size.seeds, 'seed')}, {told}; "
        f"{choice.left / 60:.1f} minutes are left",
        flush=True,
    )
    for settings, value in choice.run("finals", jobs, seconds):
        if value["validation"] is not None:
            entry = entries[Candidate(*settings["candidate"]).name]
            entry.finals[settings["seed"]] = value["validation"]
            entry.last_images = size.images
            entry.seconds += value["seconds"]


def distinct(entries: Mapping[str, Entry]) -> list[Entry]:
    """From best to worst, each program with the best of its rates."""
    found: dict[str, Entry] = {}
    for entry in sorted(entries.values(), key=lambda e: (-e.rounds, -e.validation)):
        found.setdefault(entry.title, entry)
    return [*found.values()]
