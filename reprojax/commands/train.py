r"""Reprogram a frozen image classifier for a task that it was never trained on.

    reprojax train
        the embedded net answers handwritten digits through a learned watermark
    reprojax train --method padding --map ilm
    reprojax train --backbone google/vit-base-patch16-224 --target my/photos \
        --method vpt-deep --out runs/photos
    reprojax train --method bar --budget 200000
        without gradients: the model is only asked

Prints a table with the controls below, which row is best, by how much, and what to
take. Leaves in the run's folder `report.html`, `results.json` and three programs a seed
for `reprojax predict`: `seed-0.safetensors`, and its controls
`linear-probe-0.safetensors` and `map-only-0.safetensors`. A run that was stopped goes
on with --resume. `reprojax list` says what each method is.
"""

import contextlib
import math
import os
import platform
import shlex
import sys
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
import tyro

from reprojax import __version__, data, models, recipes
from reprojax.commands import controls, listing
from reprojax.commands.methods import read_methods
from reprojax.commands.outputs import writable
from reprojax.commands.tables import (
    HEADER,
    comparisons,
    control_row,
    program_row,
    summary,
    text_table,
)
from reprojax.commands.verdict import verdict
from reprojax.core import Params, Program, fingerprint
from reprojax.core.estimation import Refresh
from reprojax.core.guards import find
from reprojax.data.checks import listed
from reprojax.models import Model, Pixels
from reprojax.recipes import BlackBox
from reprojax.saving import programs
from reprojax.saving.files import write_json
from reprojax.taxonomy import Description, describe
from reprojax.training import parallel
from reprojax.training.black_box import (
    evaluate,
    fit_black_box,
    in_process,
    only_answers,
)
from reprojax.training.caches import cached
from reprojax.training.loop import Fitted, fit

METHODS = ", ".join(recipes.methods(Pixels))
MAPS = ", ".join(recipes.ALIGNMENTS)
FILES = {"linear probe": "linear-probe", "best map without prompt": "map-only"}
"""{control: how its files' names begin}"""
MORE = f"Methods, for --method. {listing.for_images()}"
"""What --help says below the docstring."""
ESTIMATED = recipes.Preset(lambda *_: optax.sgd(0.0), 0.0, epochs=1, batch=50)
"""Of a method that learns nothing: one pass over the training images, for its map."""


@dataclass(frozen=True)
class Config:
    """Reprogram a frozen image classifier for a task it was never trained on."""

    method: Annotated[str, tyro.conf.arg(help=f"one of: {METHODS}")] = "watermark"
    methods: tuple[Path, ...] = ()
    """Python files that register methods of your own, which --method then names."""
    map: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"one of: {MAPS}, blm+K (K probabilities); by default the method's"
        ),
    ] = None
    backbone: Annotated[
        str,
        tyro.conf.arg(
            help=f"{', '.join(models.names())}, a .safetensors file, a folder, or a "
            "Hugging Face name such as google/vit-base-patch16-224"
        ),
    ] = "glyphs"
    target: str = "digits"
    """digits, letters-behind-glass, an .npz file, a folder of images, or tfds:NAME"""
    seeds: int = 3
    """Runs: each draws its own training and validation images, on one test split."""
    train: int | None = None
    """Training images; by default all that are left."""
    validation: int | None = None
    """Validation images; by default a fifth of the others, or the set's own."""
    test: int | None = None
    """Test images; by default a fifth of all, or the set's own."""
    resplit: bool = False
    """Draw the test split anew for each seed too."""
    lazy: bool = False
    """Leave the images of a folder in their files until a batch needs them."""
    learning_rate: float | None = None
    """By default the paper's."""
    epochs: int | None = None
    """By default the paper's."""
    batch: int | None = None
    """Images a step; by default the paper's."""
    refresh: Refresh | None = None
    """When label maps are estimated again; by default as their paper does."""
    budget: int | None = None
    """Queries a run, each an image sent, of a method whose model only answers (bar,
    blackvip): it searches until they are spent, without gradients and epochs."""
    inner: int | None = None
    """Side of the image inside a border, in pixels (padding, ar, bar)."""
    length: int | None = None
    """Tokens a block (vpt-shallow, vpt-deep)."""
    layers: int | None = None
    """Layers of the mask network (smm); by default 6 for a ViT, else 5."""
    augment: bool = False
    """A random crop and a mirror in training, as published (watermark, smm)."""
    cache: bool = False
    """Train on the values below the lowest edit, computed once (vpt-*)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen model; what is learned stays float32."""
    accumulate: int = 1
    """Into how many parts a batch is cut, to fit the memory."""
    profile: Path | None = None
    """A folder for a profile of a few steps, for TensorBoard."""
    distributed: str | None = None
    """One of several processes: "auto" on clusters that jax knows (Slurm, TPU pods),
    else HOST:PORT,PROCESSES,INDEX. All devices of all processes are used."""
    controls: bool = True
    """Also maps without prompt, a linear probe, random weights, nearest pixels."""
    random_weights: int | None = None
    """For how many seeds the program is trained on random weights too; default: all."""
    out: Path = Path("runs/visual_reprogramming")
    """A folder for checkpoints, programs, results.json and report.html."""
    resume: bool = False
    """Go on with the run in that folder, to the same bits."""


def main(
    config: Config,
    *,
    load_backbone: Callable[..., Model[Pixels]] = models.load,
    load_task: Callable[..., data.Task] = data.load,
    prog: str = "reprojax train",
    predict: str = "reprojax predict",
) -> dict[str, Any]:
    """Train, print and write everything; returns what results.json holds.

    Args:
        load_backbone: (name, **given) -> frozen model.
        load_task: (name, **given) -> task.
        prog, predict: this command and the one that uses its files, for the report.
    """
    read_methods(config.methods)
    check_config(config)
    method = recipes.find_method(config.method)
    name = alignment_name(config)
    lead = jax.process_index() == 0
    writable(config.out)
    backbone = load_backbone(config.backbone, dtype=config.dtype)
    tasks = [read_task(config, seed, load_task) for seed in range(config.seeds)]
    targets = len(tasks[0].classes)
    program = recipes.build(config.method, backbone, targets, name, **sizes(config))
    seen = describe(
        program, backbone.frozen, tasks[0].train.x[:2], roles=backbone.roles
    )
    title = f"{config.method} with {name or 'a linear head'}"
    print(f"settings from {method.source}\n")
    print(f"{title}: {backbone.name} -> {tasks[0].name}\n\n{seen}\n")
    print(f"{trainings(config)}\n", flush=True)
    warn_of_unmeasured(tasks[0])

    fits = [
        train(config, program, backbone, task, seed, f"seed-{seed}")
        for seed, task in enumerate(tasks)
    ]
    if lead:
        for seed, (task, fitted) in enumerate(zip(tasks, fits, strict=True)):
            given = {"alignment": name, **sizes(config)}
            card = card_of(config, backbone, task, seed, config.method, given)
            card = card._replace(coordinates=(seen.coordinates,), metric=fitted.score)
            programs.save(config.out / f"seed-{seed}.safetensors", fitted.params, card)
    table: dict[str, dict[str, list[float]]] = {"program": summary(fits)}
    if config.controls:
        table |= run_controls(config, program, backbone, tasks)
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


def alignment_name(config: Config) -> str | None:
    """The map that was asked for, or the paper's own; None for a head on features."""
    own = recipes.find_method(config.method).alignment
    if config.map is not None and own is None:
        raise ValueError(
            f"got --map {config.map} with {config.method}, which has a linear head of "
            "its own on features; leave --map out"
        )
    name = config.map or own
    if name is not None:
        check_probable(config.method, name)
    return name


def check_probable(method: str, name: str) -> None:
    """Raise for a map that gives no log probabilities to a loss that needs them."""
    needed = recipes.find_method(method).probable
    if needed and not recipes.find_alignment(name).probable:
        fit_for = [n for n, a in recipes.ALIGNMENTS.items() if a.probable]
        raise ValueError(
            f"--method {method} got --map {name}, whose answers are no probabilities "
            f"of source classes; expected one of {', '.join(fit_for)}"
        )


def preset_of(method: str) -> recipes.Preset | BlackBox:
    """The paper's settings of a method."""
    known = recipes.methods(Pixels)
    if method in recipes.METHODS and method not in known:
        raise ValueError(
            f"got --method {method}, which is not for images, expected one of "
            f"{', '.join(known)}"
        )
    found = find("method", method, known, "; --methods FILE registers your own")
    return found.preset or ESTIMATED


def only_asks(config: Config) -> bool:
    """Whether the method's model only answers."""
    return isinstance(preset_of(config.method), BlackBox)


def untrained(config: Config) -> int:
    """For how many seeds the program is trained on random weights too."""
    if not config.controls:
        return 0
    return config.seeds if config.random_weights is None else config.random_weights


def trainings(config: Config) -> str:
    """How many programs the run trains: it takes that many times as long as one."""
    said = f"programs to train: {config.seeds + untrained(config)}"
    if not untrained(config):
        return said
    return (
        f"{said} ({config.seeds} on the model's weights; {untrained(config)} on random "
        "weights, a control that --random-weights 0 leaves out)"
    )


def warn_of_unmeasured(task: data.Task) -> None:
    """Warn of classes without an image in a split by which programs are judged."""
    found = []
    for name in ("validation", "test"):
        y = getattr(task, name).y
        none = [c for i, c in enumerate(task.classes) if not (y == i).any()]
        found += [f"no {name} image of {listed(none)}"] if none else []
    if found and task.answers == "class":
        warnings.warn(
            f"got {' and '.join(found)}, expected some of each class: the accuracies "
            "say nothing about a class without; add images of it",
            stacklevel=2,
        )


def check_config(config: Config) -> None:
    """Raise for settings that the method does not have, and for wrong numbers."""
    check_access(config)
    check_sizes(config)
    for name in ("seeds", "epochs", "batch", "budget"):
        if (value := getattr(config, name)) is not None and value < 1:
            raise ValueError(f"got --{name} {value}, expected at least 1")
    if not 0 <= untrained(config) <= config.seeds:
        raise ValueError(
            f"got --random-weights {config.random_weights}, expected 0 to "
            f"{config.seeds}, the number of --seeds"
        )
    rate = config.learning_rate
    if rate is not None and not 0 < rate < math.inf:
        raise ValueError(f"got --learning-rate {rate}, expected a number above 0")


def check_sizes(config: Config) -> None:
    """Raise for a size that the method's recipe does not take."""
    parameters = {n: signature(m.build).parameters for n, m in recipes.METHODS.items()}
    for name, value in sizes(config).items():
        if name not in parameters[config.method]:
            taken = [n for n in recipes.methods(Pixels) if name in parameters[n]]
            raise ValueError(
                f"got --{name} {value} with --method {config.method}, which has no "
                f"{name}; expected one of {', '.join(taken)}; leave --{name} out"
            )


def check_access(config: Config) -> None:
    """Raise for arguments of gradients where there are none, and the reverse."""
    if not only_asks(config):
        if config.budget is not None:
            raise ValueError(
                f"got --budget {config.budget} with {config.method}, which trains by "
                "gradients; expected a method whose model only answers: bar, blackvip; "
                "leave --budget out"
            )
        return
    if config.budget is None:
        raise ValueError(
            f"got no --budget with {config.method}, which asks a model that only "
            "answers; expected a number of queries, such as --budget 200000 (an image "
            "is one)"
        )
    plain = Config()
    of_gradients = ("epochs", "accumulate", "cache", "profile", "distributed")
    if given := [n for n in of_gradients if getattr(config, n) != getattr(plain, n)]:
        raise ValueError(
            f"got --{given[0]} with {config.method}, which has no gradients and no "
            "epochs; expected --budget, --batch and --learning-rate; leave it out"
        )


def read_task(
    config: Config, seed: int, load_task: Callable[..., data.Task] = data.load
) -> data.Task:
    """The target with this seed's training and validation images."""
    return load_task(
        config.target,
        train=config.train,
        validation=config.validation,
        test=config.test,
        seed=seed,
        test_seed=seed if config.resplit else None,
        lazy=config.lazy,
    )


def sizes(config: Config) -> dict[str, int]:
    """The arguments of the method's recipe that were given."""
    given = {n: getattr(config, n) for n in ("inner", "length", "layers")}
    given["augment"] = config.augment or None
    return {n: value for n, value in given.items() if value is not None}


def train(
    config: Config,
    program: Program,
    backbone: Model[Pixels],
    task: data.Task,
    seed: int,
    folder: str,
) -> Fitted:
    """One run, with the paper's settings where none were given."""
    preset = preset_of(config.method)
    if isinstance(preset, BlackBox):
        return train_black_box(config, preset, backbone, task, seed, folder)
    refresh, identity = map_refresh(config), identity_of(config, backbone)
    epochs = config.epochs or preset.epochs
    batch, steps, rate = pace(config, task)
    print(
        f"{folder}: {epochs} epochs of {steps} steps, learning rate {rate:g}",
        flush=True,
    )
    given = program, backbone.frozen, task
    fitted = fit(
        *(cached(*given, batch=batch) if caches(config) else given),
        optimizer=_optimizer(config.method, rate, steps, epochs),
        epochs=epochs,
        batch=batch,
        seed=seed,
        loss=preset.loss,
        refresh=refresh,
        mesh=parallel.mesh() if jax.device_count() > 1 else None,
        accumulate=config.accumulate,
        out=config.out / folder,
        resume=config.resume,
        identity=identity,
        profile=config.profile,
    )
    # Off the mesh: what follows (pictures, files) is each process's own.
    own = jax.device_get(fitted[:2])
    return fitted._replace(params=own[0], last=own[1])


def pace(config: Config, task: data.Task) -> tuple[int, int, float]:
    """(images a step, steps an epoch, learning rate)"""
    preset = preset_of(config.method)
    given = config.learning_rate
    batch = config.batch or preset.batch
    steps = -(-len(task.train.y) // min(batch, len(task.train.y)))
    return batch, steps, preset.learning_rate if given is None else given


def caches(config: Config) -> bool:
    """Whether the model's values are computed once: for a head on features always."""
    return config.cache or config.method == "linear-probe"


def map_refresh(config: Config) -> Refresh:
    """When the label map is estimated: as asked for, or as its paper does."""
    name = alignment_name(config)
    own = recipes.find_alignment(name).refresh if name else "once"
    return config.refresh or own


def identity_of(config: Config, backbone: Model[Pixels]) -> dict[str, Any]:
    """What else makes a run itself."""
    preset, given = preset_of(config.method), config.learning_rate
    return {
        "method": config.method,
        "map": alignment_name(config),
        "sizes": sizes(config),
        "learning_rate": preset.learning_rate if given is None else given,
        "backbone": fingerprint(backbone.frozen),
    }


def train_black_box(
    config: Config,
    preset: BlackBox,
    backbone: Model[Pixels],
    task: data.Task,
    seed: int,
    folder: str,
) -> Fitted:
    """One run of a method whose model only answers: the backbone is asked, no more."""
    oracle, targets = in_process(backbone), len(task.classes)
    card = only_answers(
        oracle, backbone.input.size, backbone.input.mean, backbone.input.std
    )
    given = alignment_name(config), sizes(config)
    program = recipes.build(config.method, card, targets, given[0], **given[1])
    batch, steps, rate = pace(config, task)
    print(
        f"{folder}: {config.budget:,} queries, {batch} images a step, learning rate "
        f"{rate:g}; what is answered is kept in {folder}.log",
        flush=True,
    )
    found = fit_black_box(
        program,
        oracle,
        task,
        preset.search(rate, steps),
        budget=config.budget or 0,
        batch=batch,
        seed=seed,
        loss=preset.loss(task.train.y, targets),
        refresh=map_refresh(config),
        log=config.out / f"{folder}.log",
        identity=identity_of(config, backbone),
    )
    test = lambda params: evaluate(program, params, oracle, task.test)
    accuracy = {"test": test(found.params), "last": test(found.last)}
    accuracy |= {"validation": found.accuracy["validation"]}
    return Fitted(found.params, found.last, accuracy, found.curve[:, 1:], np.nan)


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


@cache  # one optimiser for all seeds, so that they share what was compiled
def _optimizer(
    method: str, rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    preset = preset_of(method)
    assert not isinstance(preset, BlackBox)  # `train` sends these to `train_black_box`
    return preset.optimizer(rate, steps, epochs)


def run_controls(
    config: Config,
    program: Program,
    backbone: Model[Pixels],
    tasks: Sequence[data.Task],
) -> dict[str, dict[str, list[float]]]:
    """{name: accuracies by seed} of what the learned prompt has to beat."""
    print("controls", flush=True)
    alone = controls.maps_alone(len(tasks[0].classes), len(backbone.classes))
    found: dict[str, dict[str, list[float]]] = {}
    observed: dict[str, str] = {}

    def add(name: str, scores: Mapping[str, float]) -> None:
        slot = found.setdefault(name, {"test": [], "validation": []})
        for split in slot:
            slot[split].append(scores[split])

    test = None
    for seed, task in enumerate(tasks):
        if test is None or config.resplit:  # else all seeds have the same test images
            test = controls.frozen_outputs(backbone, task.test)
        seen = {
            "train": controls.frozen_outputs(backbone, task.train),
            "validation": controls.frozen_outputs(backbone, task.validation),
            "test": test,
        }
        best, scores = controls.best_map(alone, seen, seed)
        add("best map without prompt", scores[best])
        add("random map without prompt", scores["rlm"])
        probed, probe = controls.logistic_probe(seen)
        add("linear probe", probed)
        if jax.process_index() == 0:
            keep = partial(keep_control, config, backbone, task, seed, observed)
            head = controls.probe_params(probe, len(task.classes))
            keep("linear-probe", head, probed)
            own = controls.estimated(alone[best], seen["train"], seed)
            keep("map-only", own, scores[best], best)
        if not config.lazy:  # it compares with all images at once
            add("nearest pixels, no model", controls.nearest_pixels(task))
    for seed, task in enumerate(tasks[: untrained(config)]):
        drawn = controls.random_weights(backbone, task, seed)
        fitted = train(config, program, drawn, task, seed, f"random-weights-{seed}")
        add("same program, random weights", fitted.score)
    return found


def card_of(
    config: Config,
    backbone: Model[Pixels],
    task: data.Task,
    seed: int,
    method: str,
    arguments: Mapping[str, Any],
) -> programs.Card:
    """What a program's file says about itself."""
    card = programs.Card.of(
        backbone,
        method=method,
        arguments=arguments,
        image=tuple(task.train.x.shape[1:]),
        classes=task.classes,
        split={"name": task.name, "digest": data.digest(task), "seed": seed},
        seed=seed,
    )
    return card._replace(backbone=config.backbone)  # what `models.load` finds it by


def keep_control(
    config: Config,
    backbone: Model[Pixels],
    task: data.Task,
    seed: int,
    observed: dict[str, str],
    method: str,
    head: Params,
    scores: Mapping[str, float],
    alignment: str | None = None,
) -> None:
    """A control that is a program, as a file beside the learned one.

    Args:
        observed: {alignment, or else method: coordinates}, to which it adds its own:
            they are the same for every seed, and take seconds to observe.
        head: what its alignment holds, under "output"; nothing else in it has params.
    """
    program = recipes.build(method, backbone, len(task.classes), alignment)
    x = task.train.x[:2]
    drawn = jax.eval_shape(program.init, jax.random.key(seed), backbone.frozen, x)
    params = Params(
        {**drawn.learnable, **head.learnable}, {**drawn.fixed, **head.fixed}
    )
    if (kind := alignment or method) not in observed:
        seen = describe(program, backbone.frozen, x, roles=backbone.roles)
        observed[kind] = seen.coordinates
    card = card_of(config, backbone, task, seed, method, {"alignment": alignment})
    metric = {name: scores[name] for name in ("validation", "test")}
    card = card._replace(coordinates=(observed[kind],), metric=metric)
    path = config.out / f"{method}-{seed}.safetensors"
    programs.save(path, params, card)
    print(f"{path}: {alignment or 'logistic regression'}, test {metric['test']:.3f}")


def judge(
    config: Config,
    title: str,
    seen: Description,
    table: Mapping[str, Mapping[str, list[float]]],
    predict: str,
) -> tuple[list[str], str]:
    """(what the table means, the command line that uses what it says to take)."""
    scores = {title if n == "program" else n: s["test"] for n, s in table.items()}
    files = {title: "seed", **FILES}
    found = verdict(
        scores, files.keys(), prompt=not seen.coordinates.startswith("no prompt")
    )
    if found.take is None:
        return found.sentences, ""
    own = table["program" if found.take == title else found.take]["validation"]
    seed = int(np.argmax(own))
    path = config.out / f"{files[found.take]}-{seed}.safetensors"
    words = [*predict.split(), "--program", str(path), "--images", "FOLDER"]
    if config.backbone not in models.names():
        words += ["--backbone", config.backbone]
    if config.methods:
        words += ["--methods", *map(str, config.methods)]
    of = ", of the seed that validation chose" if len(own) > 1 else ""
    use = f"The program to take is {path.name}{of} (validation: {own[seed]:.3f})."
    use += " To label new images:"
    return [*found.sentences, use], shlex.join(words)


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
    label_map = params.fixed["output"]
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
            shown=f"{len(task.test.y):,} test images, program of seed {seed}",
            label_map=np.asarray(label_map) if hasattr(label_map, "shape") else None,
            sources=backbone.classes,
            targets=task.classes,
            settings=settings(config, backbone, task, params),
            **page,
        ),
    )


def settings(
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
    device = jax.devices()[0]
    file = (config.out / "seed-0.safetensors").stat().st_size
    rows = [
        ("method", f"{config.method}: {listing.summary(method)}"),
        ("label map", alignment_name(config) or "none: a linear head on features"),
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
