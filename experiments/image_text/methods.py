"""A method trained on a few shots, and what needs no prompt."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.image_text import tasks
from reprojax import recipes
from reprojax.commands.controls import frozen_outputs, logistic_probe
from reprojax.core import Params, Program, reprogram
from reprojax.data import Split, Task
from reprojax.models import Model
from reprojax.models.image_text import Pair, classifier
from reprojax.models.image_text.descriptions import of_descriptions
from reprojax.operators import resize
from reprojax.recipes import Preset
from reprojax.recipes.prompt_tuning.tip_adapter import tuned, with_examples
from reprojax.training.caches import cached
from reprojax.training.loop import fit
from reprojax.training.steps import evaluate

CONTROLS = ("zero-shot", "ensemble", "linear probe", "tip-adapter")
BATCH = 100  # images at once, where nothing is trained


def names() -> tuple[str, ...]:
    """The methods that take a pair of towers."""
    every = recipes.methods().items()
    return tuple(n for n, m in every if "text_embedding" in m.needs.roles)


def bound(pair: Pair, task: Task, templates: tuple[str, ...]) -> Model[Any]:
    """The pair as a classifier of a task's names, written with spaces."""
    return classifier(pair, [spoken(name) for name in task.classes], templates)


def spoken(name: str) -> str:
    """A folder's name as words."""
    return " ".join(name.replace("_", " ").replace("-", " ").split())


def control(
    name: str, pair: Pair, asked: Mapping[str, Task], config: Any
) -> dict[str, float]:
    """{what is asked: test accuracy} without a prompt."""
    if name in OF_SHOTS:
        return {"base": OF_SHOTS[name](pair, asked["base"], config)}
    templates = (config.template,) if name == "zero-shot" else config.ensemble
    scores = {}
    for place, task in asked.items():
        model = bound(pair, task, templates)
        program = reprogram(model.forward, {"input": resize(model.input.size)})
        params = program.init(jax.random.key(0), model.frozen, task.test.x[:1])
        scores[place] = tested(program, params, model, task)
    return scores


def _probe(pair: Pair, task: Task, config: Any) -> float:
    """Logistic regression on features of the shots; validation chooses its strength."""
    model = bound(pair, task, (config.template,))
    splits = {n: getattr(task, n) for n in ("train", "validation", "test")}
    seen = {name: frozen_outputs(model, split) for name, split in splits.items()}
    return logistic_probe(seen)[0]["test"]


def _tip(pair: Pair, task: Task, config: Any) -> float:
    """Tip-Adapter: the shots as a cache; validation chooses its two numbers."""
    model = bound(pair, task, config.ensemble)
    train, held = (frozen_outputs(model, s) for s in (task.train, task.validation))
    count: dict[str, Any] = {"examples": len(train.labels)}
    program = recipes.build("tip-adapter", model, len(task.classes), **count)
    params = program.init(jax.random.key(0), model.frozen, task.test.x[:1])
    params = with_examples(params, train.features, train.labels)
    params = tuned(params, held.logits, held.features, held.labels)
    return tested(program, params, model, task)


OF_SHOTS = {"linear probe": _probe, "tip-adapter": _tip}
"""What needs the shots, and so knows no new classes."""


TEMPLATES: dict[str, str] = {"coop": "{}."}
"""Of methods whose learned words stand for a whole template; others begin with it."""


def model_of(name: str, pair: Pair, task: Task, config: Any) -> Model[Any]:
    """The pair with the texts that a method reads."""
    if name == "attrvr":
        kinds = tasks.descriptions(task, config.descriptions)
        return of_descriptions(pair, [*task.classes], *kinds)
    own = TEMPLATES[name] if name in TEMPLATES else config.template
    return bound(pair, task, (own,))


class Learned(NamedTuple):
    """A prompt after its last epoch, and what it was trained on."""

    program: Program
    params: Params
    validation: float


def trained(
    name: str,
    pair: Pair,
    asked: Mapping[str, Task],
    config: Any,
    rate: float,
    seed: int,
) -> dict[str, float]:
    """{what is asked: test accuracy} of a prompt that is trained on "base"."""
    own = learned(name, pair, asked["base"], config, rate, seed)
    scores = {}
    for place, other in asked.items():
        there = model_of(name, pair, other, config)
        program = recipes.build(name, there, len(other.classes))
        start = program.init(jax.random.key(seed), there.frozen, other.test.x[:1])
        # words of their own for each class do not fit others
        if shapes(start.learnable) == shapes(own.params.learnable):
            params = start._replace(learnable=own.params.learnable)
            scores[place] = tested(program, params, there, other)
    return scores


def rates_of(
    name: str, pair: Pair, few: Callable[[int], Task], config: Any
) -> dict[str, float]:
    """{multiple of the paper's rate: mean validation accuracy}, on draws of the shots
    that are not reported."""
    found = {}
    for rate in config.rates:
        chosen = len(config.rates) > 1
        runs = [
            learned(name, pair, few(seed), config, rate, seed).validation
            for seed in range(1000, 1000 + chosen * config.choosing)
        ]
        found[f"{rate:g}"] = float(np.nan_to_num(np.mean(runs))) if runs else 0.0
    return found


def learned(
    name: str, pair: Pair, task: Task, config: Any, rate: float, seed: int
) -> Learned:
    """Trained for the paper's epochs at `rate` times the paper's rate."""
    preset = recipes.find_method(name).preset
    assert isinstance(preset, Preset)
    model = model_of(name, pair, task, config)
    program = recipes.build(name, model, len(task.classes))
    batch = min(preset.batch, len(task.train.y))
    epochs = config.epochs or preset.epochs
    steps = -(-len(task.train.y) // batch)
    run = fit(
        *quicker(program, model, task),
        optimizer=preset.optimizer(rate * preset.learning_rate, steps, epochs),
        epochs=epochs,
        batch=batch,
        seed=seed,
        loss=preset.loss,
        record_sites=preset.sites,
        progress=False,
    )
    return Learned(program, jax.device_get(run.last), float(run.curves[-1, 1]))


def quicker(program: Program, model: Model[Any], task: Task) -> tuple[Any, Any, Task]:
    """The arguments of `fit`: with images' features computed once, if a program learns
    in the text tower alone and does not read the images there."""
    given = program, model.frozen, task
    if not in_texts(program, model, task):
        return given
    try:
        return cached(*given, batch=BATCH, progress=False)
    except ValueError:  # its prompts are made of the images, as CoCoOp's
        return given


def in_texts(program: Program, model: Model[Any], task: Task) -> bool:
    """Whether a program learns at sites of texts alone."""
    x = jax.ShapeDtypeStruct((1, *task.test.x.shape[1:]), task.test.x.dtype)
    spec = jax.eval_shape(
        lambda key: program.init(key, model.frozen, x), jax.random.key(0)
    )
    at = [site for site, leaves in spec.learnable.items() if jax.tree.leaves(leaves)]
    return all(site.startswith("text/") for site in at)


def shapes(tree: Any) -> Any:
    """Of the leaves."""
    return jax.tree.map(np.shape, tree)


def tested(program: Program, params: Any, model: Model[Any], task: Task) -> float:
    """Accuracy on the test split."""
    split = Split(task.test.x, task.test.y)
    return float(evaluate(program, params, model.frozen, split, BATCH))
