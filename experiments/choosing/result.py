"""What a choice ends with: the winner's file, the tables, the words, the page."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from html import escape
from typing import Any

import jax
import numpy as np

from experiments.choosing.run import Choice, Entry
from experiments.choosing.words import Row, sentences, trained_on
from reprojax import __version__, models
from reprojax.commands.intervals import mean_of
from reprojax.commands.page import (
    command_line,
    plain_table,
    results,
    verdict_box,
    write_page,
)
from reprojax.commands.tables import text_table
from reprojax.data import Task
from reprojax.recipes import registry
from reprojax.saving import programs
from reprojax.saving.files import write_json
from reprojax.taxonomy import describe

FINAL = ("test", "method", "validation", "images", "numbers")
TRIED = ("validation", "method", "rate", "rounds", "epochs", "images", "numbers")
TRIED += ("seconds",)
PREDICT = "python -m experiments.predict"
WINNER = "winner.safetensors"


def finalists(entries: Mapping[str, Entry]) -> tuple[list[Entry], list[int]]:
    """(those of the finals from best to worst by mean validation accuracy, the seeds
    that all of them have). Of equal ones, the one without a prompt is before."""
    own = [e for e in entries.values() if e.finals]
    own = sorted(own, key=lambda e: e.candidate is not None)
    seeds = sorted(set.intersection(*(set(e.finals) for e in own)))
    mean = {e.slug: float(np.mean([e.finals[s] for s in seeds])) for e in own}
    return sorted(own, key=lambda e: -mean[e.slug]), seeds


def read_by_the_test(ranking: list[Entry]) -> list[Entry]:
    """The winner, the next, the best of the other kind, and the best in a file."""
    winner = ranking[0]
    other = (e for e in ranking if (e.candidate is None) != (winner.candidate is None))
    filed = (e for e in ranking if e.file(0) is not None)
    rows = [*ranking[:2], *list(other)[:1], *list(filed)[:1]]
    return [e for e in ranking if e in rows]


def tests(
    choice: Choice, entries: list[Entry], seeds: list[int], phase: str = "test"
) -> list[Row]:
    """Read the test split, once; without those whose test failed."""
    jobs = {}
    for entry in entries:
        for seed in seeds:
            own = {"kind": "test", "entry": entry.slug, "seed": seed}
            own |= {"control": None if entry.candidate else entry.title}
            jobs[f"{entry.slug}/{seed}"] = own | {"file": entry.file(seed)}
    found: dict[str, dict[int, Any]] = {}
    for settings, value in choice.run(phase, jobs):
        found.setdefault(settings["entry"], {})[settings["seed"]] = value
    rows = []
    for entry in entries:
        values = found.get(entry.slug, {})
        if len(values) == len(seeds):
            scores = [values[seed]["test"] for seed in seeds]
            right = np.array([values[seed]["right"] for seed in seeds])
            prompt, title = entry.candidate is not None, said(entry)
            rows.append(Row(title, prompt, scores, right, entry.file(seeds[0])))
    return rows


def said(entry: Entry) -> str:
    """As a sentence names it."""
    names = {"nearest pixels, no model": "the nearest training image"}
    if entry.candidate is not None:
        return entry.title
    return names.get(entry.title, f"the {entry.title}")


def keep(choice: Choice, entry: Entry, row: Row, seeds: list[int]) -> str:
    """Write the winner's file, of the seed that validation chose; the command that uses
    it."""
    config, backbone = choice.config, choice.place.backbone
    at = int(np.argmax([entry.finals[seed] for seed in seeds]))
    file = entry.file(seeds[at])
    assert file is not None  # the caller has chosen one with a file
    saved = programs.load(config.out / file)
    program, params = registry.rebuild(saved, backbone)
    x = choice.place.task(config.seed).train.x[:2]
    seen = describe(program, backbone.frozen, x, roles=backbone.roles)
    scores = {"validation": entry.finals[seeds[at]], "test": row.test[at]}
    card = saved.card._replace(metric=scores, coordinates=(seen.coordinates,))
    programs.save(config.out / WINNER, params, card)
    path = str(config.out / WINNER)
    words = [*PREDICT.split(), "--program", path, "--images", "FOLDER"]
    if config.backbone not in models.names():
        words += ["--backbone", config.backbone]
    if config.methods:
        words += ["--methods", *map(str, config.methods)]
    return shlex.join(words)


def report(
    choice: Choice, entries: Mapping[str, Entry], task: Task
) -> dict[str, Any] | None:
    """Read the test split, keep the winner, print and write everything; what
    results.json holds. None if the winner's test failed."""
    ranking, seeds = finalists(entries)
    chosen = read_by_the_test(ranking)
    rows = tests(choice, chosen, seeds)
    own = {row.title: row for row in rows}
    if said(ranking[0]) not in own:
        return None
    said_ = sentences(rows[0], rows[1:], len(task.validation.y))
    fewest = min(e.last_images for e in chosen)
    said_ += trained_on(fewest, choice.whole.train)
    filed = next(e for e in chosen if e.file(0) is not None and said(e) in own)
    use = keep(choice, filed, own[said(filed)], seeds)
    final = [final_line(own[said(e)], e, seeds) for e in chosen if said(e) in own]
    tried = [tried_line(e) for e in ordered(entries)]
    print(f"\n{text_table(FINAL, final)}\n\n{text_table(TRIED, tried)}\n")
    print("\n".join([*said_, "", use]))
    config = choice.config
    results_ = {
        "winner": ranking[0].slug,
        "kept": filed.slug,
        "sentences": said_,
        "seeds": seeds,
        "test": {row.title: row.test for row in rows},
        "validation": {e.slug: e.finals for e in ranking},
        "search": [asdict(e) for e in entries.values()],
        "config": config.identity | {"minutes": config.minutes},
        "spent": choice.clock.spent(),
        "failed": [n for n, o in choice.outcomes.items() if o.error is not None],
    }
    write_json(config.out / "results.json", results_)
    page(choice, task, said_, use, final, tried)
    spent = choice.clock.spent() / 60
    print(f"\n{config.out / 'report.html'}, after {spent:.1f} minutes")
    return results_


def ordered(entries: Mapping[str, Entry]) -> list[Entry]:
    """As the table of all that was tried has them."""
    return sorted(entries.values(), key=lambda e: (-e.rounds, -e.validation))


def final_line(row: Row, entry: Entry, seeds: list[int]) -> tuple[str, ...]:
    validation = mean_of([entry.finals[seed] for seed in seeds])
    images = f"{entry.last_images:,}"
    return str(mean_of(row.test)), entry.title, str(validation), images, _numbers(entry)


def tried_line(entry: Entry) -> tuple[str, ...]:
    own, images = entry.candidate, f"{entry.images:,}"
    if own is None:
        return f"{entry.validation:.3f}", entry.title, "", "", "", images, "", ""
    rounds = str(entry.rounds), str(entry.epochs), images, _numbers(entry)
    rate, seconds = f"{own.rate:g}", f"{entry.seconds:.1f}"
    return f"{entry.validation:.3f}", entry.title, rate, *rounds, seconds


def _numbers(entry: Entry) -> str:
    return "" if entry.learnable is None else f"{entry.learnable:,}"


def page(
    choice: Choice,
    task: Task,
    said_: list[str],
    use: str,
    final: list[tuple[str, ...]],
    tried: list[tuple[str, ...]],
) -> None:
    """report.html"""
    config, name = choice.config, choice.place.backbone.name
    title = f"The best manipulation of {name} for {task.name}"
    sizes = {n: len(getattr(task, n).y) for n in ("train", "validation", "test")}
    facts = [
        ("frozen model", name),
        ("access", config.access),
        ("images", ", ".join(f"{size:,} {part}" for part, size in sizes.items())),
        ("classes", f"{len(task.classes)} of {task.name}"),
        ("budget", f"{config.minutes:g} minutes"),
        ("spent", f"{choice.clock.spent() / 60:.1f} minutes"),
        ("seeds", f"{config.seed} for the search; finals {config.seeds}"),
        ("versions", f"reprojax {__version__}, jax {jax.__version__}"),
    ]
    note = (
        "Mean over the seeds of the finals, with 95 % intervals. The first row has the "
        "best mean on validation, which alone chose; the test images were read once, "
        "at the end, for these rows. The images are those for training."
    )
    how = (
        "<h2>Everything that was tried</h2>\n<p class='soft'>Validation accuracy in "
        "the last round that a candidate survived; controls, which have no rate, on "
        "the first seed of the finals. Accuracies after other numbers of epochs, or of "
        "other numbers of training images, cannot be compared.</p>\n"
    )
    sections = [
        f"<h1>{escape(title)}</h1>",
        verdict_box(said_, use),
        results(FINAL, final, [note], "The finals"),
        how + plain_table(TRIED, tried),
        "<h2>Settings</h2>\n"
        + command_line(f"python -m experiments.choose {shlex.join(sys.argv[1:])}")
        + plain_table(("setting", "value"), facts),
    ]
    write_page(config.out / "report.html", title, sections)
