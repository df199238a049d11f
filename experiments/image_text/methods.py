"""A method trained on a few shots, and what needs no prompt."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from reprojax import recipes
from reprojax.commands.controls import frozen_outputs, logistic_probe
from reprojax.commands.pairs import BATCH, bound, quicker
from reprojax.core import Params, Program, reprogram
from reprojax.data import Split, Task
from reprojax.models import Model
from reprojax.models.image_text import Pair
from reprojax.models.image_text.card import (
    check_names,
    encoded,
    sentences_of,
    spoken,
)
from reprojax.models.image_text.descriptions import Sentences, of_descriptions
from reprojax.operators import resize
from reprojax.recipes import Preset
from reprojax.recipes.prompt_tuning.tip_adapter import tuned, with_examples
from reprojax.training.checks import Diverged
from reprojax.training.loop import fit
from reprojax.training.steps import evaluate

METHODS = (
    "coop",
    "cocoop",
    "kgcoop",
    "prograd",
    "plot",
    "maple",
    "ivlp",
    "promptsrc",
    "attrvr",
)
"""What is trained here, by its name in `reprojax list`."""
LEFT_OUT = {
    "tip-adapter": "it stands in every table, as it needs no prompt",
    "tip-adapter-f": "it trains a cache of images, and no prompt",
    "tpt": "it learns from each test image, not from the shots",
    "dvp": "it takes descriptions of its own causes, as many as it has borders",
    "rvp": "it takes descriptions of one kind, and attrvr's are of two",
}
"""Methods of pairs that are not trained here, and why."""


class Bench(NamedTuple):
    """What all runs share."""

    pair: Pair
    config: Any
    kinds: Sequence[Sentences] = ()
    """{class: texts} for all classes: looks, and what sets apart; read by attrvr."""


def check_methods(names: Sequence[str]) -> None:
    """Raise unless all of them are trained here."""
    if unknown := [name for name in names if name not in METHODS]:
        why = [f"; {name}: {LEFT_OUT[name]}" for name in unknown if name in LEFT_OUT]
        raise ValueError(
            f"got --methods {' '.join(unknown)}, expected some of "
            f"{', '.join(METHODS)}{''.join(why)}"
        )


def check_bench(bench: Bench, asked: Mapping[str, Task]) -> None:
    """Raise at texts that the pair cannot read, and at methods that do not fit it."""
    config, pair = bench.config, bench.pair
    if pair.padding and (others := [n for n in config.methods if n != "attrvr"]):
        raise ValueError(
            f"got {pair.name} for --methods {' '.join(others)}, expected a pair like "
            "CLIP: here texts are padded with tokens that count and begin with the "
            "template itself, as SigLIP's, so learned words would stand elsewhere; "
            "take attrvr, which learns pixels, or another --pair"
        )
    for task in asked.values():
        names = spoken(task.classes)
        check_names(names)
        of = sentences_of(names, (config.template, *config.ensemble))
        encoded(pair, [text for own in of.values() for text in own])
    for name in config.methods:
        built(name, bench, asked["base"])


# -- without a prompt


def control(name: str, bench: Bench, asked: Mapping[str, Task]) -> dict[str, float]:
    """{what is asked: test accuracy} without a prompt."""
    if name in OF_SHOTS:
        return {"base": OF_SHOTS[name](bench, asked["base"])}
    one, several = (bench.config.template,), bench.config.ensemble
    templates = one if name == "zero-shot" else several
    scores = {}
    for place, task in asked.items():
        model = bound(bench.pair, task.classes, templates)
        scores[place] = tested(*unprompted(model, task), model, task)
    return scores


def unprompted(model: Model[Any], task: Task) -> tuple[Program, Params]:
    """(the classifier as it is, of images of any size, its params)"""
    program = reprogram(model.forward, {"input": resize(model.input.size)})
    return program, program.init(jax.random.key(0), model.frozen, task.test.x[:1])


def _probe(bench: Bench, task: Task) -> float:
    """Logistic regression on features of the shots; validation chooses its strength."""
    model = bound(bench.pair, task.classes, (bench.config.template,))
    splits = {n: getattr(task, n) for n in ("train", "validation", "test")}
    seen = {name: frozen_outputs(model, split) for name, split in splits.items()}
    return logistic_probe(seen)[0]["test"]


def _tip(bench: Bench, task: Task) -> float:
    """Tip-Adapter: the shots as a cache; validation chooses its two numbers."""
    model = bound(bench.pair, task.classes, bench.config.ensemble)
    train, held = (frozen_outputs(model, s) for s in (task.train, task.validation))
    count: dict[str, Any] = {"examples": len(train.labels)}
    program = recipes.build("tip-adapter", model, len(task.classes), **count)
    params = program.init(jax.random.key(0), model.frozen, task.test.x[:1])
    params = with_examples(params, train.features, train.labels)
    params = tuned(params, held.logits, held.features, held.labels)
    return tested(program, params, model, task)


OF_NAMES = ("zero-shot", "ensemble")
"""What needs the names alone, and so is the same for all draws."""
OF_SHOTS = {"linear probe": _probe, "tip-adapter": _tip}
"""What needs the shots, and so knows no new classes."""
CONTROLS = (*OF_NAMES, *OF_SHOTS)


# -- with one


def model_of(name: str, bench: Bench, task: Task) -> Model[Any]:
    """The pair with the texts that a method reads."""
    if name == "attrvr":
        return of_descriptions(bench.pair, task.classes, *bench.kinds)
    own = recipes.find_method(name).template or bench.config.template
    return bound(bench.pair, task.classes, (own,))


def built(name: str, bench: Bench, task: Task) -> tuple[Model[Any], Program]:
    """(the pair with these texts, the method on it)"""
    model = model_of(name, bench, task)
    return model, recipes.build(name, model, len(task.classes))


class Learned(NamedTuple):
    """A prompt after its last epoch."""

    params: Params
    validation: float


def trained(
    name: str, bench: Bench, asked: Mapping[str, Task], rate: float, seed: int
) -> dict[str, float]:
    """{what is asked: test accuracy} of a prompt that is trained on "base"."""
    learnable = learned(name, bench, asked["base"], rate, seed).params.learnable
    scores = {}
    for place, task in asked.items():
        model, program = built(name, bench, task)
        start = program.init(jax.random.key(seed), model.frozen, task.test.x[:1])
        # words of their own for each class do not fit others
        if shapes(start.learnable) == shapes(learnable):
            params = start._replace(learnable=learnable)
            scores[place] = tested(program, params, model, task)
    return scores


def rates_of(name: str, bench: Bench, few: Callable[[int], Task]) -> dict[str, float]:
    """{multiple of the paper's rate: mean validation accuracy}, on draws of the shots
    that are not reported; 0 if one of them diverged."""
    found = {}
    for rate in bench.config.rates:
        try:
            runs = [
                learned(name, bench, few(seed), rate, seed).validation
                for seed in range(1000, 1000 + bench.config.choosing)
            ]
        except Diverged:
            runs = [0.0]
        found[str(rate)] = float(np.mean(runs))
    return found


def learned(name: str, bench: Bench, task: Task, rate: float, seed: int) -> Learned:
    """Trained for the paper's epochs at `rate` times the paper's rate."""
    preset = recipes.find_method(name).preset
    assert isinstance(preset, Preset)
    model, program = built(name, bench, task)
    batch = min(preset.batch, len(task.train.y))
    epochs = bench.config.epochs or preset.epochs
    steps = -(-len(task.train.y) // batch)
    run = fit(
        *quicker(program, model, task),
        optimizer=preset.optimizer(rate * preset.learning_rate, steps, epochs),
        epochs=epochs,
        batch=batch,
        seed=seed,
        loss=preset.loss,
        record_sites=preset.sites,
        evaluated=preset.evaluated,
        progress=False,
    )
    return Learned(jax.device_get(run.last), float(run.curves[-1, 1]))


def shapes(tree: Any) -> Any:
    """Of the leaves."""
    return jax.tree.map(np.shape, tree)


def tested(program: Program, params: Any, model: Model[Any], task: Task) -> float:
    """Accuracy on the test split."""
    split = Split(task.test.x, task.test.y)
    return float(evaluate(program, params, model.frozen, split, BATCH))
