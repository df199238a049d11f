"""Programs that read sentences with a frozen encoder, and how they are trained.

All have one head: the mean over the text's own tokens, made of one length, and a linear
map, which starts where a control ended: at the centroids, or at the tuned probe.
"""

import time
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.frozen_encoder.controls import Linear, Seen, centroids, regression
from reprojax.alignments import linear, mean, normalised
from reprojax.core import (
    Manipulation,
    Params,
    Program,
    PyTree,
    chain,
    on_value,
    reprogram,
    stateless,
)
from reprojax.data import Split, Task, in_order
from reprojax.data.rows import taken
from reprojax.formats import learnable
from reprojax.locations import opaque
from reprojax.models import Model
from reprojax.models.language import Words
from reprojax.models.language.card import role
from reprojax.models.language.starts import from_vocabulary
from reprojax.models.language.states import keys_and_values
from reprojax.operators import add, insert, replace
from reprojax.recipes.prompt_tuning import prefix_tuning, prompt_tuning
from reprojax.training import losses
from reprojax.training.loop import fit
from reprojax.training.losses import Loss, cross_entropy

HEAD = "head"  # alone, without a prompt


class Training(NamedTuple):
    """How a program is trained: chosen on the validation texts of one more draw."""

    rate: float = 3e-3
    epochs: int = 6
    start: Literal["centroids", "probe"] = "centroids"
    scale: float = 20.0
    """The length of a text's vector: with it grows what the head learns in a step,
    beside the prompt; at the centroids it is the inverse temperature too."""
    length: int = 8
    """Tokens of the prompt."""
    batch: int = 70


def sentence(targets: int, scale: float, start: int = 0) -> Manipulation:
    """Tokens [B L D] -> scores [B T]; a prompt of `start` tokens in front is left
    out."""
    return chain(
        wide=stateless(_wide),
        mean=mean(start),
        unit=normalised(scale),
        head=linear(targets),
    )


def _wide(value: PyTree) -> PyTree:
    """In float32, whatever the encoder is in: scores are near each other."""
    return on_value(lambda a: a.astype(jnp.float32), value)


def vectors(language: Model[Words]) -> Program:
    """Sentence embeddings, nothing learned."""
    align = chain(wide=stateless(_wide), mean=mean(), unit=normalised())
    return reprogram(language.forward, {"output": align})


def build(name: str, language: Model[Words], targets: int, how: Training) -> Program:
    """A program by its name."""
    n, behind = how.length, sentence(targets, how.scale, how.length)
    plain = sentence(targets, how.scale)
    blocks = role(language, "blocks")
    zeros = learnable(jax.nn.initializers.zeros)
    small = learnable(jax.nn.initializers.normal(0.02))
    if name == "soft tokens":
        words = from_vocabulary(language, range(1000, 5000))
        program = prompt_tuning(language, behind, length=n, initial=words)
    elif name == "soft tokens at each block":
        at: dict = {blocks[0]: insert(small, n)}
        at |= {block: replace(small, n) for block in blocks[1:]}
        program = reprogram(language.forward, at | {"output": behind})
    elif name == "prefix":
        ids = np.random.default_rng(0).integers(1000, 5000, n)
        text = keys_and_values(language, ids.tolist())
        program = prefix_tuning(language, plain, length=n, hidden=None, start=text)
    elif name == "added to the words":
        (site,) = role(language, "embedding")
        program = reprogram(language.forward, {site: add(zeros), "output": plain})
    elif name == "added at each block":
        at = {block: add(zeros) for block in blocks}
        program = reprogram(language.forward, at | {"output": plain})
    elif name == HEAD:
        part = chain(unit=normalised(how.scale), head=linear(targets))
        program = reprogram(opaque(lambda frozen, x: x), {"output": part})
    else:
        raise ValueError(f"no program {name!r}, expected one of {(*PROMPTS, HEAD)}")
    return started(program)


PROMPTS = (
    "soft tokens",
    "soft tokens at each block",
    "prefix",
    "added to the words",
    "added at each block",
)


def started(program: Program) -> Program:
    """A program of {"model", "head"}: its head starts as that of the frozen tree.

    In the tree, and not in the program, so that all draws share what is compiled.
    """

    def init(key: Any, frozen: PyTree, x: PyTree, context: Any = None) -> Params:
        params = program.init(key, frozen["model"], x, context)
        own = {**params.learnable["output"], "head": frozen["head"]}
        return params._replace(learnable={**params.learnable, "output": own})

    def apply(params: Params, frozen: PyTree, *args: Any, **kw: Any) -> PyTree:
        return program.apply(params, frozen["model"], *args, **kw)

    return program._replace(init=init, apply=apply)


def first_head(seen: Seen, how: Training) -> dict[str, jax.Array]:
    """Of vectors of the length `scale`."""
    targets = len(seen.task.classes)
    if how.start == "probe":
        line, _ = regression(seen.vectors, seen.task)
        line = line._replace(kernel=line.kernel / how.scale)
    else:
        middle = centroids(seen.vectors["train"], seen.task.train.y, targets)
        line = Linear(middle.T, np.zeros(targets))
    made = {"kernel": line.kernel, "bias": line.bias}
    return {name: jnp.asarray(a, jnp.float32) for name, a in made.items()}


def alike(y: np.ndarray, targets: int) -> Loss:
    """Cross entropy in which each class weighs as much as the others."""
    counts = np.bincount(y, minlength=targets)
    if (counts == counts[0]).all():
        return cross_entropy
    return _weighed(tuple((len(y) / targets / counts).tolist()))


@lru_cache  # equal ones are one function, and compiled once; so are optimisers
def _weighed(weight: tuple[float, ...]) -> Loss:
    def loss(seen: losses.Seen) -> jax.Array:
        return cross_entropy(seen) * jnp.asarray(weight)[seen.labels]

    return loss


@lru_cache
def _adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _some(split: Split, rows: int) -> Split:
    return Split(taken(split.x, slice(rows)), split.y[:rows])


def repeated(split: Split, train: np.ndarray) -> Split:
    """Rows of rarer classes several times, so that an accuracy is a balanced one;
    where the training texts have as many of each class, the split as it is."""
    if len(np.unique(np.bincount(train))) == 1:
        return split
    counts = np.bincount(split.y)
    each = [np.flatnonzero(split.y == c) for c in np.flatnonzero(counts)]
    rows = np.concatenate([np.resize(own, counts.max()) for own in each])
    return Split(taken(split.x, rows), split.y[rows])


def answers(
    program: Program, params: Params, frozen: PyTree, split: Split, batch: int = 70
) -> np.ndarray:
    """The class of each row."""
    found = [
        _answer(program, params, frozen, x)
        for x, *_ in in_order(split, min(batch, len(split.y)))
    ]
    return np.concatenate(jax.device_get(found))[: len(split.y)]


@partial(jax.jit, static_argnums=0)
def _answer(program: Program, params: Params, frozen: PyTree, x: PyTree) -> jax.Array:
    return program.apply(params, frozen, x).argmax(-1)


def train(
    program: Program,
    language: Model[Words],
    tokens: Task,
    seen: Seen,
    how: Training,
    test: bool = True,
) -> dict[str, Any]:
    """Trained, selected by validation, and then read once on the test texts.

    Args:
        tokens: the task as the program reads it.
        test: whether the test texts are read at all.
    """
    frozen = {"model": language.frozen, "head": first_head(seen, how)}
    own = tokens._replace(validation=repeated(tokens.validation, tokens.train.y))
    # `fit` reads a test split; here it gets validation texts for one
    own = own._replace(test=_some(own.validation, how.batch))
    steps = -(-len(own.train.y) // how.batch) * how.epochs
    begin = time.perf_counter()
    fitted = fit(
        program,
        frozen,
        own,
        optimizer=_adam(how.rate, steps),
        epochs=how.epochs,
        batch=how.batch,
        loss=alike(own.train.y, len(own.classes)),
        progress=False,
    )
    found = {
        "validation": fitted.score["validation"],
        "curve": fitted.curves.tolist(),
        "learnable": sum(a.size for a in jax.tree.leaves(fitted.params.learnable)),
        "seconds": time.perf_counter() - begin,
    }
    if test:
        read = answers(program, fitted.params, frozen, tokens.test)
        found["test"] = read.tolist()
    return found
