"""What a cell of the map has to beat, on the same examples and under its protocol.

no-prompt-OMEGA    an alignment alone, of each of the four kinds
linear-probe       logistic regression of the features; validation chose its strength
nearest-neighbour  the label of the training example whose features are nearest
nearest-input      of the one whose pixels or ids are nearest: no model at all
random-weights     a learned linear alignment of a network that was never trained
fine-tuning        all weights of the model learned, with a linear head
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.map.cells import Entry, without_prompt
from experiments.map.measures import chunks, first
from experiments.map.tasks import Bench
from reprojax.alignments import last, linear
from reprojax.commands.controls import Outputs, logistic_probe, nearest
from reprojax.core import (
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    Tokens,
    bare,
    chain,
    last_value,
    reprogram,
    until,
)
from reprojax.data import Split
from reprojax.locations import opaque
from reprojax.models import Model, Pixels, role
from reprojax.models.vision import pixels
from reprojax.operators import resize
from reprojax.taxonomy import OMEGAS
from reprojax.training.compilation import Compiled

ALONE = tuple(f"no-prompt-{omega}" for omega in OMEGAS)
COMPUTED = ("linear-probe", "nearest-neighbour", "nearest-input")
CONTROLS = (*ALONE, *COMPUTED, "random-weights", "fine-tuning")
SLOWER = {"fine-tuning": 0.1}
"""By what the protocol's rates are multiplied: all weights move at each step."""

# -- trained under the protocol


def trained(bench: Bench, name: str, seed: int) -> tuple[Bench, Entry]:
    """The model and the program of a control, as those of a cell."""
    if name in ALONE:
        return bench, without_prompt(bench, name.removeprefix("no-prompt-"))
    if name == "random-weights":
        model = untrained(bench, seed)
        return (own := bench._replace(model=model)), without_prompt(own, "linear")
    nothing = bench.model._replace(forward=handed_on, frozen=())
    entry = Entry({"all weights": fine_tuned(bench)}, bench.task)
    return bench._replace(model=nothing), entry


def untrained(bench: Bench, seed: int) -> Model[Any]:
    """The network with random weights. Those of a language model are its own ones, in
    another order in each array."""
    key = jax.random.key(seed)
    if isinstance(bench.model.input, Pixels):
        x = resize(bench.model.input.size).apply(
            Params(), jnp.asarray(bench.task.train.x[:64]), Scope()
        )
        return pixels.random(bench.model, key, jnp.round(x * 255).astype(jnp.uint8))
    leaves, tree = jax.tree.flatten(bench.model.frozen)
    keys = jax.random.split(key, len(leaves))
    mixed = [
        jax.random.permutation(k, a.reshape(-1)).reshape(a.shape)
        for k, a in zip(keys, leaves, strict=True)
    ]
    return bench.model._replace(frozen=jax.tree.unflatten(tree, mixed))


def fine_tuned(bench: Bench) -> Program:
    """The model itself as a learned part behind a model that hands its input on."""
    (site,) = role(bench.model, "features")
    parts = {"model": whole(until(bench.model.forward, site), bench.model.frozen)}
    if not isinstance(bench.model.input, Pixels):
        parts["last"] = last()
    head = linear(len(bench.task.classes), standardised=True)
    return reprogram(handed_on, bench.sized, chain(**parts, head=head))


handed_on = opaque(lambda frozen, x: x)


def whole(forward: Callable[..., PyTree], weights: PyTree) -> Manipulation:
    """forward(weights, value), whose weights are learned."""

    def init(key: Any, value: PyTree, scope: Any) -> Params:
        return Params(learnable=weights)

    def apply(params: Params, value: PyTree, scope: Any) -> PyTree:
        return forward(params.learnable, value)

    return Manipulation(init, apply)


# -- computed in one pass


def computed(bench: Bench, name: str) -> dict[str, Any]:
    """{"validation", "test": accuracy, "shifted": {shift: accuracy}}"""
    task = bench.task
    given = {"train": task.train, "validation": task.validation, "test": task.test}
    given |= {n: Split(x, y) for n, (x, y) in bench.shifts.items()}
    look = flat if name == "nearest-input" else partial(features, bench)
    seen = {n: Outputs(np.empty(0), look(s.x), s.y) for n, s in given.items()}
    if name == "linear-probe":
        scores, _ = logistic_probe(seen)
    else:
        ids = name == "nearest-input" and isinstance(task.train.x, Tokens)
        known, distance = seen["train"], "hamming" if ids else "minkowski"
        near = lambda asked: nearest(known.features, known.labels, asked, distance)
        scores = {
            n: float((near(s.features) == s.labels).mean()) for n, s in seen.items()
        }
    moved = {n: scores[n] for n in bench.shifts}
    return {n: scores[n] for n in ("validation", "test")} | {"shifted": moved}


def flat(x: PyTree) -> np.ndarray:
    """Pixels or ids as rows of numbers."""
    inner = np.asarray(bare(x))
    return inner.reshape(len(inner), -1).astype(np.float32)


def features(bench: Bench, x: PyTree) -> np.ndarray:
    """[N D] that the model's own head reads; of a text, those of its last word."""
    (site,) = role(bench.model, "features")
    program = reprogram(until(bench.model.forward, site), bench.sized)
    params = program.init(jax.random.key(0), bench.model.frozen, first(x))
    run = Compiled(_ends, program)
    found = [run(params, bench.model.frozen, part) for part in chunks(x)]
    return np.concatenate(found)[: len(bare(x))]


def _ends(program: Program, params: Params, frozen: PyTree, x: PyTree) -> jax.Array:
    value = program.apply(params, frozen, x)
    ends = last_value(value) if isinstance(value, Tokens) else value
    return ends.reshape(len(ends), -1)
