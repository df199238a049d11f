"""The programs that a run keeps, its controls beside them, and which one to take."""

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from reprojax import data, recipes
from reprojax.commands import controls, pairs
from reprojax.commands.runs import train
from reprojax.commands.settings import Config, own_templates, untrained
from reprojax.commands.verdict import verdict
from reprojax.core import Params, Program
from reprojax.models import Model, Pixels, image_text
from reprojax.saving import programs
from reprojax.taxonomy import Description, describe

FILES = {
    "linear probe": "linear-probe",
    "best map without prompt": "map-only",
    pairs.ZERO_SHOT: "zero-shot",
    pairs.ENSEMBLE: "zero-shot-ensemble",
}
"""{control: how its files' names begin}"""


def run_controls(
    config: Config,
    program: Program,
    backbone: Model[Pixels],
    tasks: Sequence[data.Task],
    cards: Sequence[programs.Card],
    first: controls.Outputs | None = None,
    towers: pairs.Towers | None = None,
) -> dict[str, dict[str, list[float]]]:
    """{name: accuracies by seed} of what the learned prompt has to beat.

    Args:
        cards: those of `cards_of`, for the controls that are kept as files.
        first: of the first task's training images, if they were computed before.
        towers: those of which the backbone is a classifier, if there are two.
    """
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
        own = None if seed else first
        seen = {
            "train": own or controls.frozen_outputs(backbone, task.train),
            "validation": controls.frozen_outputs(backbone, task.validation),
            "test": test,
        }
        best, scores = "", {}
        if towers is None:
            best, scores = controls.best_map(alone, seen, seed)
            add("best map without prompt", scores[best])
            add("random map without prompt", scores["rlm"])
        unprompted = towers.unprompted if towers else {}
        for name, (model, _) in unprompted.items():
            scores[name] = pairs.unprompted_accuracy(model, seen)
            add(name, scores[name])
        probed, probe = controls.logistic_probe(seen)
        add("linear probe", probed)
        if jax.process_index() == 0:
            keep = partial(keep_control, config, backbone, task, cards[seed], observed)
            head = controls.probe_params(probe)
            keep("linear-probe", head, probed)
            if towers is None:
                own = controls.estimated(alone[best], seen["train"], seed)
                keep("map-only", own, scores[best], best)
            for name, (model, about) in unprompted.items():
                given = config, model, task, cards[seed]._replace(**about), observed
                how = {"alignment": "first", "file": FILES[name]}
                keep_control(*given, "map-only", Params({}, {}), scores[name], **how)
        if towers is not None:
            add(pairs.NEAREST, pairs.nearest(seen))
        elif not config.lazy:  # it compares with all images at once
            add("nearest pixels, no model", controls.nearest_pixels(task))
    for seed, task in enumerate(tasks[: untrained(config)]):
        if towers is None:
            drawn = controls.random_weights(backbone, task, seed)
        else:
            other = image_text.random(towers.pair, jax.random.key(seed))
            drawn = pairs.bound(other, task.classes, own_templates(config))
        fitted = train(config, program, drawn, task, seed, f"random-weights-{seed}")
        add("same program, random weights", fitted.score)
    return found


def keep_control(
    config: Config,
    backbone: Model[Pixels],
    task: data.Task,
    card: programs.Card,
    observed: dict[str, str],
    method: str,
    head: Params,
    scores: Mapping[str, float],
    alignment: str | None = None,
    file: str | None = None,
) -> None:
    """A control that is a program, as a file beside the learned one.

    Args:
        observed: {alignment, or else method: coordinates}, to which it adds its own:
            they are the same for every seed, and take seconds to observe.
        head: what its alignment holds, under "output"; nothing else in it has params.
        scores: accuracies; those on "validation" and "test" go into the file.
        file: how its name begins; by default with the method's name.
    """
    program = recipes.build(method, backbone, len(task.classes), alignment)
    x = task.train.x[:2]
    drawn = jax.eval_shape(program.init, jax.random.key(card.seed), backbone.frozen, x)
    params = Params(
        {**drawn.learnable, **head.learnable}, {**drawn.fixed, **head.fixed}
    )
    if (kind := alignment or method) not in observed:
        seen = describe(program, backbone.frozen, x, roles=backbone.roles)
        observed[kind] = seen.coordinates
    metric = {n: scores[n] for n in ("validation", "test") if n in scores}
    own = card._replace(method=method, arguments={"alignment": alignment})
    own = own._replace(coordinates=(observed[kind],), metric=metric)
    path = config.out / f"{file or method}-{card.seed}.safetensors"
    programs.save(path, params, own)
    if "test" in metric:
        kind = file or alignment or "logistic regression"
        print(f"{path}: {kind}, test {metric['test']:.3f}")


def cards_of(
    config: Config,
    backbone: Model[Pixels],
    tasks: Sequence[data.Task],
    arguments: Mapping[str, Any],
    template: str = "",
) -> list[programs.Card]:
    """What the file of each seed's program says about itself, but for its results.

    Made once for all files, since a digest of weights or images reads all of them.
    """
    model = programs.Card.of(backbone, method=config.method, arguments=arguments)
    # what `models.load` finds it by
    model = model._replace(backbone=config.backbone, template=template)
    return [
        model._replace(
            image=tuple(task.train.x.shape[1:]),
            classes=task.classes,
            split={"name": task.name, "digest": data.digest(task), "seed": seed},
            seed=seed,
        )
        for seed, task in enumerate(tasks)
    ]


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
    if config.backbone not in pairs.names():
        words += ["--backbone", config.backbone]
    if config.methods:
        words += ["--methods", *map(str, config.methods)]
    of = ", of the seed that validation chose" if len(own) > 1 else ""
    use = f"The program to take is {path.name}{of} (validation: {own[seed]:.3f})."
    use += " To label new images:"
    return [*found.sentences, use], shlex.join(words)
