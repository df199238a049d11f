r"""Which manipulation is best for your model and images, chosen within a given time.

    python -m experiments.choose --minutes 4
        the embedded net and handwritten digits
    python -m experiments.choose --backbone google/vit-base-patch16-224 \
        --target my/photos --minutes 20 --out runs/photos
    python -m experiments.choose --target my/photos --access logits
        only methods that need no more of the model than its answers

Compared are the registered methods with each label map that fits and four rates each;
and, without training, a linear probe, the label maps alone and nearest neighbours. A
few steps are timed, then the plan is printed: successive halving, where the better
third of the candidates on the validation images goes on with twice the epochs. Where an
epoch of all training images is too long for eight candidates, it is of fewer. The two
that are left are trained on new seeds, each with its own training and validation
images, all of them if there is time. Validation alone chooses. The test images are read
once, at the end, for the winner, the one behind it, and the best of the other kind
(with a prompt, or without).

It ends with a table, `report.html`, two sentences, and `winner.safetensors`, a program
for `python -m experiments.predict`; where the probe wins, it is the probe. A run that
was stopped goes on with --resume, and follows the schedule in its folder. The exit
status is 1 if a job failed; the choice is made among the others.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from experiments import sweep
from experiments.choosing import run, schedule
from experiments.choosing.candidates import Candidate, candidates
from experiments.choosing.jobs import Place
from experiments.choosing.result import report
from experiments.choosing.run import Choice, Entry
from experiments.choosing.schedule import Book, Clock, Wall
from experiments.choosing.settings import Config, check
from experiments.choosing.sizes import Sizes
from experiments.shared import assets
from reprojax import __version__, data, models
from reprojax.commands.methods import read_methods
from reprojax.commands.outputs import command, writable
from reprojax.commands.runs import warn_of_unmeasured
from reprojax.data import Task
from reprojax.models import Model, Pixels
from reprojax.saving.folders import claim

FORMAT = "reprojax choice 2"


def main(
    config: Config,
    *,
    load_backbone: Callable[..., Model[Pixels]] = models.load,
    load_task: Callable[..., Task] = data.load,
    clock: Clock | None = None,
    pool: Any = None,
    after: Callable[[Choice, Mapping[str, Entry]], None] | None = None,
) -> dict[str, Any]:
    """Choose, print and write everything; returns what results.json holds.

    Args:
        load_backbone: (name) -> frozen model.
        load_task: (name, **sizes and seeds) -> task.
        clock: what the budget is measured in; by default seconds.
        pool: an executor for the jobs; by default processes.
        after: called when the choice has been made and written.
    """
    begun = Wall()
    check(config)
    own = read_methods(config.methods)
    writable(config.out)
    book = Book(config.out / "schedule.json")
    begun.before = book.before
    place = Place(config, load_backbone, load_task, duplicates="warn")
    task = place.task(config.seed)
    compared, left_out = candidates(place.backbone, task, config.access, own)
    warn_of_unmeasured(task)
    identity = config.identity | {"format": FORMAT, "reprojax": __version__}
    identity["weights"] = place.backbone.fingerprint
    identity |= {
        "data": data.digest(task),
        "candidates": [one.name for one in compared],
    }
    claim(config.out, identity, resume=config.resume)
    for why in dict.fromkeys(left_out.values()):
        titles = [title for title in left_out if left_out[title] == why]
        print(f"left out {' and '.join(titles)}: {why}")
    choice = Choice(place, clock or begun, book, identity, Sizes.of(task))
    if pool is not None:
        choice.pool = pool
        return phases(choice, task, compared, after)
    given = config.workers, read_methods, config.methods
    with sweep.processes(*given) as choice.pool:
        return phases(choice, task, compared, after)


def phases(
    choice: Choice,
    task: Task,
    compared: list[Candidate],
    after: Callable[[Choice, Mapping[str, Entry]], None] | None,
) -> dict[str, Any]:
    """From the controls to the page; jobs that failed set the exit status."""
    config, clock = choice.config, choice.clock
    entries = run.controls(choice)
    cost = run.trial(choice, compared)
    if cost is not None:
        given = cost, len(task.test.y), config.finals, config.workers
        end = schedule.end(*given, clock.margin)
        plan = run.planned(choice, task, compared, cost, end)
        entries = run.search(choice, compared, plan) | entries
        run.finals(choice, task, entries, plan, end)
    if not any(entry.finals for entry in entries.values()):
        sys.exit(sweep.failures(choice.outcomes))
    found = report(choice, entries, task)
    if after is not None and found is not None:
        after(choice, entries)
    if failed := sweep.failures(choice.outcomes):
        sys.exit(failed)
    assert found is not None  # only a job that failed leaves it out
    return found


if __name__ == "__main__":
    given = {"load_backbone": assets.load_backbone, "load_task": assets.load_task}
    command(
        partial(main, **given),
        Config,
        prog="python -m experiments.choose",
        about=__doc__,
    )
