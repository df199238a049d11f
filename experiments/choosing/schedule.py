"""How a budget is spent: rounds of successive halving, and finals.

A round trains each candidate for some epochs; the better third goes on, with twice the
epochs. Where an epoch of all training images is too long for several candidates, it is
of fewer. The finals train what is left on other seeds.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from reprojax.saving.files import read_json, write_json

FINALISTS = 2
ENOUGH = 8  # candidates, of which an epoch has all images; for fewer it has fewer
KEPT = 3  # one of three goes on
SEARCH = 0.55  # of the time between the trial and the test; the finals have the rest
STEPS = 50  # of a first round at least, unless they take longer than to compile
MOST = 64  # epochs
SPARE = 0.9  # of the time is planned for
ROWS = 3  # programs that read the test split: the winner, the next, the best control


class Cost(NamedTuple):
    """Seconds of a run."""

    overhead: float
    """Once: to compile, to load."""
    epoch: float
    row: float = 0.0
    """Of an image that is only answered."""

    def of(self, epochs: int) -> float:
        return self.overhead + epochs * self.epoch


Costs = Callable[[int], Cost]
"""What a run costs, by the number of its training images."""


class Clock(Protocol):
    """What a budget is measured in."""

    margin: float
    """For what is not planned: the tables, the page."""
    real: bool
    """Whether jobs can see on their own watch when to end."""

    def spent(self) -> float: ...
    def tell(self, value: Mapping[str, Any]) -> None:
        """A job has ended, with that result."""
        ...

    def cost(self, value: Mapping[str, Any]) -> Cost:
        """What a job of this kind takes, from the result of one."""
        ...


class Wall:
    """Seconds on the wall."""

    margin, real = 5.0, True

    def __init__(self, before: float = 0.0) -> None:
        self.before, self.since = before, time.time()

    def spent(self) -> float:
        return self.before + time.time() - self.since

    def tell(self, value: Mapping[str, Any]) -> None:
        pass

    def cost(self, value: Mapping[str, Any]) -> Cost:
        return Cost(*(value.get(name, 0.0) for name in Cost._fields))


class Round(NamedTuple):
    """That many candidates for so many epochs."""

    candidates: int
    epochs: int


class Finals(NamedTuple):
    """The size of the finals."""

    finalists: int
    seeds: int
    epochs: int
    images: int
    """For training, of each program."""


class Plan(NamedTuple):
    """What a budget allows, if each run takes what the trial did."""

    candidates: int
    epochs: int
    """Of the first round."""
    images: int
    """For training, of each candidate in all rounds."""
    search: float
    """Seconds of all rounds."""
    left: float
    """Seconds that they may take."""
    shares: list[float]
    """How much of these has passed when each round should end."""
    finals: Finals
    trained: float
    """Seconds of the finals."""


def plan(
    candidates: int,
    rounds: Costs,
    last: Costs,
    left: float,
    *,
    workers: int,
    seeds: int,
    steps: int,
    images: Sequence[int],
) -> Plan:
    """The widest search that fits, and then the longest.

    Args:
        rounds: what a run of the search costs.
        last: what a run of the finals costs.
        left: seconds for the rounds and the finals.
        seeds: of the finals.
        steps: an epoch of all images.
        images: how many a run may train on, from all to the fewest.

    Raises:
        Short: there is no time for a single candidate.
    """
    share = SEARCH * left

    def seconds(size: int, found: Sequence[Round]) -> float:
        return sum(n * rounds(size).of(e) for n, e in found) / workers

    def widest(size: int, epochs: int) -> int:
        fits = lambda n: seconds(size, halved(n, epochs)) <= share
        return next(filter(fits, range(candidates, 0, -1)), 0)

    fewest = images[-1]
    one = max(rounds(fewest).of(1) / SEARCH, last(fewest).of(1) / (1 - SEARCH))
    if one / workers > left:
        raise Short(one / workers - left, fewest)
    size, cost = images[0], rounds(images[0])
    least = min(math.ceil(cost.overhead / cost.epoch), math.ceil(STEPS / steps))
    epochs = max(1, least)
    epochs = epochs if widest(size, epochs) else 1
    n = widest(size, epochs)
    for fewer in images[1:]:
        if n >= min(ENOUGH, candidates):
            break
        if (more := widest(fewer, 1)) > n:
            n, epochs, size = more, 1, fewer
    while 2 * epochs <= MOST and seconds(size, halved(n, 2 * epochs)) <= share:
        epochs *= 2
    found = halved(n, epochs)
    search, own = seconds(size, found), [last] * min(FINALISTS, n)
    shares = [seconds(size, found[: i + 1]) / search for i in range(len(found))]
    more = [other for other in images if other >= size]
    how: dict[str, Any] = {"workers": workers, "seeds": seeds, "images": more}
    end = finals(own, left - search, found[-1].epochs, **how)
    trained = end.finalists * end.seeds * last(end.images).of(end.epochs) / workers
    return Plan(n, epochs, size, search, share, shares, end, trained)


class Short(ValueError):
    """The budget is too small."""

    def __init__(self, seconds: float, images: int) -> None:
        super().__init__(f"{seconds:.0f} seconds more are needed")
        self.seconds, self.images = seconds, images
        """By so many; for an epoch of so many images."""


def halved(candidates: int, epochs: int) -> list[Round]:
    """The rounds until the finals."""
    rounds = [Round(candidates, min(epochs, MOST))]
    while rounds[-1].candidates > KEPT:
        n, e = rounds[-1]
        rounds.append(Round(math.ceil(n / KEPT), min(2 * e, MOST)))
    return rounds


def survivors(costs: Sequence[Cost], epochs: int, left: float, workers: int) -> int:
    """How many of the ranked candidates go on: a third, if they can be trained in the
    seconds that are left."""
    n = math.ceil(len(costs) / KEPT)
    while n and sum(cost.of(epochs) for cost in costs[:n]) / workers > left:
        n -= 1
    return n


def finals(
    costs: Sequence[Costs],
    left: float,
    epochs: int,
    *,
    workers: int,
    seeds: int,
    images: Sequence[int],
) -> Finals:
    """The largest finals that fit: first all seeds and finalists with as many steps as
    the last round, on as many images as there is time for, and more epochs if there is
    time; else as few images, and fewer finalists, seeds, epochs.

    Args:
        epochs: of the last round.
        images: how many a run may train on, from all to those of the rounds.
    """
    fewest = images[-1]

    def fits(size: Finals) -> bool:
        runs = (cost(size.images).of(size.epochs) for cost in costs[: size.finalists])
        return size.seeds * sum(runs) / workers <= SPARE * left

    def longest(size: Finals) -> Finals:
        longer = (size._replace(epochs=e) for e in range(MOST, size.epochs, -1))
        return next(filter(fits, longer), size)

    for more in images:
        size = Finals(len(costs), seeds, math.ceil(epochs * fewest / more), more)
        if fits(size):
            return longest(size)
    counts = [(f, s) for s in range(seeds, 0, -1) for f in range(len(costs), 0, -1)]
    own = epochs
    while own >= 1:
        for finalists, count in counts:
            size = Finals(finalists, count, own, fewest)
            if fits(size):
                return longest(size)
        own //= 2
    return Finals(min(1, len(costs)), 1, 1, fewest)


def end(cost: Cost, images: int, seeds: int, workers: int, margin: float) -> float:
    """Seconds for the test split and the page."""
    return margin + ROWS * seeds * images * cost.row / workers


class Book:
    """What was decided, as a file, so that a resumed run follows it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        there = read_json(path, dict[str, Any]) if path.exists() else {}
        self.decided: dict[str, Any] = there.get("decided", {})
        self.before = float(there.get("spent", 0.0))

    def once(self, name: str, decide: Callable[[], Any]) -> Any:
        """What was decided under the name before, or else now."""
        if name not in self.decided:
            self.decided[name] = decide()
        return self.decided[name]

    def save(self, spent: float) -> None:
        write_json(self.path, {"decided": self.decided, "spent": spent})
