"""One run of `reprojax train`: a program trained on the images of a seed."""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np
import optax

from reprojax import data, recipes
from reprojax.commands.pairs import quicker
from reprojax.commands.settings import (
    Config,
    alignment_name,
    caches,
    identity_of,
    map_refresh,
    pace,
    preset_of,
    sizes,
)
from reprojax.core import Program
from reprojax.data.checks import listed
from reprojax.models import Model, Pixels
from reprojax.recipes import BlackBox
from reprojax.training import parallel
from reprojax.training.black_box import (
    evaluate,
    fit_black_box,
    in_process,
    only_answers,
)
from reprojax.training.caches import cached
from reprojax.training.loop import Fitted, fit


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


def train(
    config: Config,
    program: Program,
    backbone: Model[Pixels],
    task: data.Task,
    seed: int,
    folder: str,
    **how: Any,
) -> Fitted:
    """One run, with the paper's settings where none were given.

    Args:
        how: arguments of `fit`, or of `fit_black_box`, in the place of the command's:
            `progress=False` also prints nothing, `out=None` leaves no checkpoints.
    """
    preset = preset_of(config.method)
    if isinstance(preset, BlackBox):
        return train_black_box(config, preset, backbone, task, seed, folder, **how)
    refresh, identity = map_refresh(config), identity_of(config, backbone)
    epochs = config.epochs or preset.epochs
    batch, steps, rate = pace(config, task)
    if how.get("progress", True):
        print(
            f"{folder}: epochs {epochs}, steps in each {steps}, learning rate {rate:g}",
            flush=True,
        )
    given = program, backbone.frozen, task
    own: dict[str, Any] = {
        "optimizer": _optimizer(config.method, rate, steps, epochs),
        "epochs": epochs,
        "batch": batch,
        "seed": seed,
        "loss": preset.loss,
        "record_sites": preset.sites,
        "evaluated": preset.evaluated,
        "refresh": refresh,
        "mesh": parallel.mesh() if jax.device_count() > 1 else None,
        "accumulate": config.accumulate,
        "out": config.out / folder,
        "resume": config.resume,
        "identity": identity,
        "profile": config.profile,
    }
    if start := recipes.find_method(config.method).start:
        own["params"] = start(program, backbone, task.train, seed)
    if caches(config):
        given = cached(*given, batch=batch)
    elif recipes.find_method(config.method).needs.of_texts and jax.process_count() == 1:
        given = quicker(program, backbone, task, only=backbone.roles["features"])
    fitted = fit(*given, **(own | how))
    # Off the mesh: what follows (pictures, files) is each process's own.
    params, last = jax.device_get(fitted[:2])
    return fitted._replace(params=params, last=last)


def train_black_box(
    config: Config,
    preset: BlackBox,
    backbone: Model[Pixels],
    task: data.Task,
    seed: int,
    folder: str,
    **how: Any,
) -> Fitted:
    """One run of a method whose model only answers: the backbone is asked, no more."""
    oracle, targets = in_process(backbone), len(task.classes)
    card = only_answers(
        oracle, backbone.input.size, backbone.input.mean, backbone.input.std
    )
    given = alignment_name(config), sizes(config)
    program = recipes.build(config.method, card, targets, given[0], **given[1])
    batch, steps, rate = pace(config, task)
    if how.get("progress", True):
        print(
            f"{folder}: {config.budget:,} queries, {batch} images a step, learning "
            f"rate {rate:g}; what is answered is kept in {folder}.log",
            flush=True,
        )
    own: dict[str, Any] = {
        "budget": config.budget or 0,
        "batch": batch,
        "seed": seed,
        "loss": preset.loss(task.train.y, targets),
        "refresh": map_refresh(config),
        "log": config.out / f"{folder}.log",
        "identity": identity_of(config, backbone),
    }
    search = preset.search(rate, steps)
    found = fit_black_box(program, oracle, task, search, **(own | how))
    test = lambda params: evaluate(program, params, oracle, task.test)
    accuracy = {"test": test(found.params), "last": test(found.last)}
    accuracy |= {"validation": found.accuracy["validation"]}
    return Fitted(found.params, found.last, accuracy, found.curve[:, 1:], np.nan)


@cache  # one optimiser for all seeds, so that they share what was compiled
def _optimizer(
    method: str, rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    preset = preset_of(method)
    assert not isinstance(preset, BlackBox)  # `train` sends these to `train_black_box`
    return preset.optimizer(rate, steps, epochs)
