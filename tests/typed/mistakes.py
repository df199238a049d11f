"""Wrong uses that a type checker reports: each line marked `wrong`, and no other.

Nothing here is run. `test_typed.py` compares what pyright says with the marks.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import zeros

from reprojax import (
    Format,
    Manipulation,
    Params,
    Scope,
    chain,
    given,
    record,
    reprogram,
    stateless,
)
from reprojax.core import Edit, PyTree, passthrough
from reprojax.data import Task
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.operators import add, resize
from reprojax.training import fit


def forward(frozen: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
    return edit("output", edit("input", x) @ frozen)


def without_edit(frozen: PyTree, x: PyTree) -> PyTree:
    return x @ frozen


def init(key: Any, spec: Any, scope: Scope) -> Params:
    return Params(jnp.zeros(spec.shape[-1]))


def init_of_a_dict(key: Any, spec: Any, scope: Scope) -> dict[str, Any]:
    return {"shift": jnp.zeros(spec.shape[-1])}


def init_of_two(key: Any, spec: Any) -> Params:
    return Params()


def apply(params: Params, value: Any, scope: Scope) -> Any:
    return value + params.learnable


def apply_of_two(params: Params, value: Any) -> Any:
    return value


def read_of_one(params: Params) -> Any:
    return params.learnable


def named(site: str) -> str:
    return site


def uses(backbone: Model[Pixels], task: Task, x: jax.Array, key: jax.Array) -> None:
    at = {"input": add(learnable(zeros))}
    program = reprogram(backbone.forward, at)
    frozen, adam = backbone.frozen, optax.adam(0.1)
    params = program.init(key, frozen, x)
    nested = reprogram(partial(program.apply, params), at)
    train = partial(fit, optimizer=adam, epochs=1, batch=2)
    # right
    reprogram(forward, {"input": Manipulation(init, apply), "output": resize(8)})
    reprogram(forward, {("input", "output"): stateless(jnp.tanh)})
    nested.apply(params, frozen, x, key=key, edit=lambda site, value: value)
    record(program.apply, ["output"])(params, frozen, x)
    record(partial(program.apply, params), ["output"])(frozen, x, key=key)
    given(backbone.forward, {"output/raw": x})(frozen, x)
    forward(frozen, x)
    backbone.forward(frozen, x)
    fit(program, frozen, task, optimizer=adam, epochs=1, batch=2)
    train(program, frozen, task)
    # wrong
    add(zeros)  # wrong: an initialiser for a format
    add(jnp.zeros(3))  # wrong: an array for a format
    add(resize(8))  # wrong: a manipulation for a format
    chain(mark=learnable(zeros))  # wrong: a format in a chain
    reprogram(forward, {"input": learnable(zeros)})  # wrong: a format at a site
    reprogram(forward, {"input": jnp.tanh})  # wrong: a function at a site
    reprogram(forward, add(learnable(zeros)))  # wrong: no site
    reprogram(backbone, at)  # wrong: a card for its forward
    reprogram(program, at)  # wrong: a program for a forward
    reprogram(without_edit, at)  # wrong: a forward without edit
    reprogram(at, forward)  # wrong: swapped
    Manipulation(init_of_a_dict, apply)  # wrong: init gives a dict
    Manipulation(init_of_two, apply)  # wrong: init takes too little
    Manipulation(init, apply_of_two)  # wrong: apply takes too little
    Manipulation(apply)  # wrong: no init
    Format(init, read_of_one)  # wrong: read takes too little
    program.init(0, frozen, x)  # wrong: a number for a key
    program.init(key, x)  # wrong: no frozen tree
    program.apply(params, x)  # wrong: no frozen tree
    program.apply({"input": x}, frozen, x)  # wrong: a dict for params
    program.apply(params, frozen, x, keys=key)  # wrong: a misspelt argument
    program.apply(params, frozen, x, edit=named)  # wrong: an edit of one argument
    record(program, ["output"])  # wrong: a program for its apply
    record(without_edit, ["output"])  # wrong: a forward without edit
    given(without_edit, {"output/raw": x})  # wrong: a forward without edit
    given({"output/raw": x}, program.apply)  # wrong: swapped
    fit(frozen, task, program, optimizer=adam, epochs=1, batch=2)  # wrong: swapped
    fit(program, frozen, task, optimizer=0.1, epochs=1, batch=2)  # wrong: a rate
    train(program, frozen, task, optimizer=optax.adam)  # wrong: it was not called
