r"""Reprogram a frozen image classifier for a task that it was never trained on.

    reprojax train
        the embedded net answers handwritten digits through a learned watermark
    reprojax train --method padding --map ilm
    reprojax train --backbone google/vit-base-patch16-224 --target my/photos \
        --method vpt-deep --out runs/photos
    reprojax train --backbone openai/clip-vit-base-patch32 --target my/photos \
        --method coop
        learned words around the names of the folders, beside zero-shot
    reprojax train --method bar --budget 200000
        without gradients: the model is only asked

Prints a table with the controls below, which row is best, by how much, and what to
take. Leaves in the run's folder `report.html`, `results.json` and three programs a seed
for `reprojax predict`: `seed-0.safetensors`, and its controls
`linear-probe-0.safetensors` and `map-only-0.safetensors` (`zero-shot-0.safetensors`
with a pair of an image and a text tower). A run that was stopped goes
on with --resume. `reprojax list` says what each method is.
"""

import contextlib
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax
import numpy as np

from reprojax import __version__, data, recipes
from reprojax.commands import listing, pairs
from reprojax.commands.controls import frozen_outputs
from reprojax.commands.kept import cards_of, judge, run_controls
from reprojax.commands.methods import read_methods
from reprojax.commands.outputs import writable
from reprojax.commands.runs import read_task, train, warn_of_unmeasured
from reprojax.commands.settings import (
    Config,
    alignment_name,
    check_backbone,
    check_config,
    check_room,
    for_pair,
    own_templates,
    pace,
    preset_of,
    sizes,
    templates,
    trainings,
)
from reprojax.commands.tables import (
    HEADER,
    comparisons,
    control_row,
    program_row,
    summary,
    text_table,
)
from reprojax.core import Params, Program
from reprojax.models import Model, Pixels
from reprojax.models.image_text import Pair
from reprojax.recipes import BlackBox
from reprojax.saving import programs
from reprojax.saving.files import write_json
from reprojax.taxonomy import describe
from reprojax.training import parallel
from reprojax.training.loop import Fitted
from reprojax.training.preflight import Preflight, preflight

METHODS_OF_IMAGES = (
    f"Methods, for --method. {listing.for_images()}\n\nMethods for a pair of towers. "
    f"{listing.for_pairs()}"
)
ABOUT = f"{__doc__}\n{METHODS_OF_IMAGES}"
"""What --help says above the settings."""


def main(
    config: Config,
    *,
    load_backbone: Callable[..., Model[Pixels] | Pair] = pairs.load,
    load_task: Callable[..., data.Task] = data.load,
    prog: str = "reprojax train",
    predict: str = "reprojax predict",
) -> dict[str, Any]:
    """Train, print and write everything; returns what results.json holds.

    Args:
        load_backbone: (name, **given) -> frozen model, or pair of towers.
        load_task: (name, **given) -> task.
        prog, predict: this command and the one that uses its files, for the report.
    """
    read_methods(config.methods)
    check_config(config)
    method = recipes.find_method(config.method)
    lead = jax.process_index() == 0
    writable(config.out)
    alignment_name(config)
    found = load_backbone(config.backbone, dtype=config.dtype)
    check_backbone(config, found)
    tasks = [read_task(config, seed, load_task) for seed in range(config.seeds)]
    texts, towers = (), None
    if isinstance(found, Pair):
        config, texts = for_pair(config), own_templates(config)
        backbone = pairs.bound(found, tasks[0].classes, texts)
        if config.controls:
            towers = pairs.towers(found, tasks[0].classes, templates(config))
    else:
        backbone = found
    name, given = alignment_name(config), sizes(config, tasks[0])
    targets = len(tasks[0].classes)
    program = recipes.build(config.method, backbone, targets, name, **given)
    if isinstance(found, Pair):
        check_room(config, found, program)
    seen = describe(
        program, backbone.frozen, tasks[0].train.x[:2], roles=backbone.roles
    )
    of_texts = method.needs.of_texts
    head = "" if of_texts else f" with {name or 'a linear head'}"
    title = f"{config.method}{head}"
    print(f"settings from {method.source}\n")
    print(f"{title}: {backbone.name} -> {tasks[0].name}\n\n{seen}\n")
    if texts:
        print(f"texts of the classes: {', '.join(map(repr, texts))}\n")
    print(f"{trainings(config)}\n", flush=True)
    warn_of_unmeasured(tasks[0])
    first = scores = None
    if config.controls:  # which read these outputs too
        first = frozen_outputs(backbone, tasks[0].train)
        scores = preflight(*first)
        print(f"{before_training(scores)}\n", flush=True)

    fits = [
        train(config, program, backbone, task, seed, f"seed-{seed}")
        for seed, task in enumerate(tasks)
    ]
    about = {"alignment": name, **given}, pairs.written(texts)
    cards = cards_of(config, backbone, tasks, *about)
    for card, fitted in zip(cards, fits, strict=True) if lead else ():
        own = card._replace(coordinates=(seen.coordinates,), metric=fitted.score)
        programs.save(config.out / f"seed-{card.seed}.safetensors", fitted.params, own)
    table: dict[str, dict[str, list[float]]] = {"program": summary(fits)}
    if config.controls:
        table |= run_controls(config, program, backbone, tasks, cards, first, towers)
    rows = [program_row(title, seen, fits)]
    rows += [control_row(control, table[control]) for control in list(table)[1:]]
    notes = comparisons(table)
    print("\n" + text_table(HEADER, rows) + "\n\n" + "\n".join(notes) + "\n")
    said, use = judge(config, title, seen, table, predict)
    print("\n".join(textwrap.fill(part, 100, break_on_hyphens=False) for part in said))
    print(use)
    paths: dict[str, Any] = {"out": str(config.out)}
    paths["profile"] = config.profile and str(config.profile)
    paths["methods"] = [*map(str, config.methods)]
    results: dict[str, Any] = {"config": asdict(config) | paths, "results": table}
    results |= {"coordinates": seen.coordinates, "learnable": seen.learnable}
    if scores is not None:
        results["preflight"] = {**scores._asdict(), "ratio": scores.ratio}
    if not lead:
        return results
    results |= {"notes": notes, "verdict": said}
    write_json(config.out / "results.json", results)
    page = {"title": f"{title}: {backbone.name} on {tasks[0].name}", "notes": notes}
    page |= {"description": str(seen), "header": HEADER, "rows": rows}
    page |= {"verdict": said, "use": use}
    page["command"] = f"{prog} {shlex.join(sys.argv[1:])}"
    report(config, program, backbone, tasks, fits, page, table)
    print(f"\n{config.out / 'report.html'}")
    return results


def before_training(scores: Preflight) -> str:
    """What one pass of the frozen model says, for the reader of a run."""
    leans = "a prompt" if scores.ratio > 0 else "a linear probe"
    said = (
        f"before training, of the first seed's training images: LogME "
        f"{scores.features:.3f} of the features and {scores.answers:.3f} of the "
        f"answers; their difference, the log-likelihood ratio {scores.ratio:+.3f}, "
        f"leans to {leans}; label overlap {scores.overlap:.2f} (0: each class has "
        "answers of its own; 1: all have the same)"
    )
    return textwrap.fill(said, 100, break_on_hyphens=False)


def report(
    config: Config,
    program: Program,
    backbone: Model[Pixels],
    tasks: Sequence[data.Task],
    fits: Sequence[Fitted],
    page: dict[str, Any],
    table: Mapping[str, Mapping[str, list[float]]],
) -> None:
    """report.html: the table, what it means, mistakes, pictures, curves, settings."""
    from reprojax.commands import pictures
    from reprojax.commands.report import RunReport, write_report

    seed = int(np.argmax(table["program"]["validation"]))
    params, task = fits[seed].params, tasks[seed]
    x, y = pictures.examples(task.test)
    images, prompt = pictures.pictures(program, params, backbone, x, y, task.classes)
    answers = pictures.answers_of(program, params, backbone, task.test)
    label_map, own = params.fixed.get("output"), page["rows"][0][1]
    baselines = {
        name: float(np.mean(table[name]["validation"])) for name in list(table)[1:]
    }
    write_report(
        config.out / "report.html",
        RunReport(
            curves=np.stack([fitted.curves for fitted in fits]),
            baselines=baselines,
            images=images,
            prompt=prompt,
            classes=pictures.by_class(task.test.y, answers, task.classes),
            mistakes=pictures.mistakes(task.test, answers, task.classes),
            shown=f"{len(task.test.y):,} test images, {own} of seed {seed}",
            label_map=np.asarray(label_map) if hasattr(label_map, "shape") else None,
            sources=backbone.classes,
            targets=task.classes,
            settings=facts(config, backbone, task, params),
            **page,
        ),
    )


def facts(
    config: Config, backbone: Model[Pixels], task: data.Task, params: Params
) -> list[tuple[str, str]]:
    """(name, value) of what a run is made of, for its reader."""
    method, preset = recipes.find_method(config.method), preset_of(config.method)
    batch, steps, rate = pace(config, task)
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    if isinstance(preset, BlackBox):
        length = f"{config.budget:,} queries a seed"
    else:
        length = f"{config.epochs or preset.epochs} epochs of {steps} steps a seed"
    parts = {n: len(getattr(task, n).y) for n in ("train", "validation", "test")}
    texts = "texts" in backbone.frozen
    of_texts = method.needs.of_texts
    head = "the pair's own answers" if of_texts else "a linear head on features"
    device = jax.devices()[0]
    file = (config.out / "seed-0.safetensors").stat().st_size
    rows = [
        ("method", f"{config.method}: {listing.summary(method)}"),
        ("label map", alignment_name(config) or f"none: {head}"),
        ("texts", ", ".join(map(repr, own_templates(config))) if texts else ""),
        ("settings from", method.source),
        ("sizes given", ", ".join(f"{n} {v}" for n, v in sizes(config).items())),
        ("frozen model", f"{backbone.name}, {count(backbone.frozen):,} numbers"),
        ("images", ", ".join(f"{n:,} {part}" for part, n in parts.items())),
        ("classes", f"{len(task.classes)} of {task.name}"),
        ("seeds", f"{config.seeds}"),
        ("training", f"{length}, {batch} images a step, learning rate {rate:g}"),
        ("learnable", f"{count(params.learnable):,} numbers"),
        ("file of a seed", f"{file:,} bytes"),
        (
            "device",
            f"{jax.device_count()} x {device.device_kind}, {platform.machine()}",
        ),
        (
            "versions",
            f"reprojax {__version__}, jax {jax.__version__}, numpy {np.__version__}, "
            f"Python {platform.python_version()}",
        ),
    ]
    return [(name, value) for name, value in rows if value]


def run(config: Config, **given: Any) -> None:
    """`main`, of one process or of several."""
    if config.distributed is not None:
        join(config.distributed)
    silent = open(os.devnull, "w") if jax.process_index() else None
    with contextlib.redirect_stdout(silent) if silent else contextlib.nullcontext():
        main(config, **given)


def join(given: str) -> None:
    """Join the other processes; those but the first write and print nothing."""
    parts = given.split(",")
    if given == "auto":
        parallel.start()
    elif len(parts) == 3 and all(part.isdecimal() for part in parts[1:]):
        parallel.start(parts[0], int(parts[1]), int(parts[2]))
    else:
        raise ValueError(
            f"--distributed {given}, expected auto, or HOST:PORT,PROCESSES,INDEX"
        )
