"""The way of an author's method through the library, once for all of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from reprojax import load, save
from reprojax.core import Params, Program
from reprojax.data import Task
from reprojax.data.rows import taken, unshared
from reprojax.models import Model, Pixels
from reprojax.recipes import METHODS, Method, build, rebuild, register
from reprojax.saving import Card
from reprojax.taxonomy import describe
from reprojax.training import Fitted, fit


def walk(
    method: Method,
    model: Model[Any],
    task: Task,
    folder: Path,
    says: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    train: Callable[[Program], Params] | None = None,
    **settings: Any,
) -> tuple[Program, Params, Fitted | None]:
    """A method registered, trained, saved, rebuilt, predicted with and described.

    Args:
        says: the coordinates that `describe` must observe.
        arguments: of the recipe, as JSON has them; beside `targets`, which is the
            number of the task's classes.
        train: the method's own loop; by default `fit` with the settings, which add to
            those of the preset.

    Returns:
        the program, its params, and what `fit` gave.
    """
    arguments, fitted = dict(arguments or {}), None
    register(method)
    try:
        program = build(method.name, model, len(task.classes), **arguments)
        if train is None:
            settings = {**of_preset(method, task), "progress": False, **settings}
            fitted = fit(program, model.frozen, task, **settings)
            assert np.isfinite(fitted.curves).all() and fitted.curves[-1, 4] > 0
        params = train(program) if fitted is None else fitted.params
        pixels = isinstance(model.input, Pixels)
        about = {"method": method.name, "arguments": arguments, "classes": task.classes}
        about |= {"image": tuple(task.train.x.shape[1:])} if pixels else {}
        save(folder / "program", params, Card.of(model, **about))
        x, context = task.test.x, unshared(task.test.context)
        one = unshared(taken(task.test.context, slice(1)))
        row = None if pixels else taken(x, slice(1))
        again, back = rebuild(load(folder / "program", model), model, row, one)
    finally:
        del METHODS[method.name]
    assert jax.tree.structure(back) == jax.tree.structure(params)
    given = model.frozen, x, context
    np.testing.assert_array_equal(
        jax.tree.leaves(jax.jit(again.apply)(back, *given))[0],
        jax.tree.leaves(jax.jit(program.apply)(params, *given))[0],
    )
    two, beside = taken(x, slice(2)), unshared(taken(task.test.context, slice(2)))
    seen = describe(again, model.frozen, two, beside, roles=model.roles)
    assert seen.coordinates == says, seen.coordinates
    return program, params, fitted


def of_preset(method: Method, task: Task) -> dict[str, Any]:
    """The settings that a method's own preset has for `fit`."""
    own = method.preset
    if own is None:
        return {}
    steps = -(-len(task.train.y) // own.batch)
    optimizer = own.optimizer(own.learning_rate, steps, own.epochs)
    rest = {"epochs": own.epochs, "batch": own.batch, "loss": own.loss}
    return {"optimizer": optimizer, **rest}


def descend(
    cost: Callable[[Any], Any], learnable: Any, rate: float, steps: int = 50
) -> tuple[list[float], Any]:
    """Gradient descent by hand: the loss before each step, and what was learned."""

    @jax.jit
    def step(own: Any) -> Any:
        value, slope = jax.value_and_grad(cost)(own)
        return value, jax.tree.map(lambda a, g: a - rate * g, own, slope)

    losses = []
    for _ in range(steps):
        value, learnable = step(learnable)
        losses.append(float(value))
    return losses, learnable
