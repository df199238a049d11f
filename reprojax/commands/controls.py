"""What a learned prompt has to beat, on outputs of the frozen model computed once."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reprojax import Forward, Params, Program, Scope, record, reprogram
from reprojax.core import PyTree, estimation
from reprojax.data import Split, Task, in_order
from reprojax.locations import opaque
from reprojax.models import Model, Pixels, random
from reprojax.operators import resize
from reprojax.recipes import find_alignment
from reprojax.training.steps import refresh_maps

MAPS = ("rlm", "flm", "blm", "blm+")
"""Without a prompt nothing changes between epochs, so ILM is FLM."""


class Outputs(NamedTuple):
    """Of the frozen model alone: logits [N S], features [N D], labels [N]."""

    logits: np.ndarray
    features: np.ndarray
    labels: np.ndarray


@partial(jax.jit, static_argnums=(0, 1, 2))
def _look(
    forward: Forward, site: str, size: int, frozen: PyTree, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x = resize(size).apply(Params(), x, Scope())
    y, seen = record(forward, [site])(frozen, x)
    return y, seen[site].reshape(len(y), -1)


def frozen_outputs(backbone: Model[Pixels], split: Split, batch: int = 50) -> Outputs:
    """One pass over a split, resized as the map-only control does."""
    site = backbone.roles["features"][0]
    rows = [
        _look(backbone.forward, site, backbone.input.size, backbone.frozen, x)
        for x, *_ in in_order(split, min(batch, len(split.y)))
    ]
    n = len(split.y)
    logits, features = (
        np.concatenate(jax.device_get(c))[:n] for c in zip(*rows, strict=True)
    )
    return Outputs(logits, features, split.y)


def map_alone(
    program: Program, seen: Mapping[str, Outputs], seed: int = 0
) -> dict[str, float]:
    """Accuracies of a map, one of `maps_alone`, estimated on the training outputs."""
    params = estimated(program, seen["train"], seed)
    return {name: accuracy(program, params, s) for name, s in seen.items()}


def estimated(program: Program, train: Outputs, seed: int = 0) -> Params:
    """The params of a map, one of `maps_alone`."""
    params = program.init(jax.random.key(seed), (), jnp.asarray(train.logits))
    if not estimation.estimated(program):
        return params
    raw = {"output/raw": jnp.asarray(train.logits)}
    sums = estimation.observe(program, params, raw, jnp.asarray(train.labels))
    return refresh_maps(program, params, sums)


def accuracy(program: Program, params: Params, seen: Outputs) -> float:
    """Of a map on outputs of the frozen model."""
    return float((_answer(program, params, seen.logits) == seen.labels).mean())


@partial(jax.jit, static_argnums=0)
def _answer(program: Program, params: Params, logits: jax.Array) -> jax.Array:
    return program.apply(params, (), logits).argmax(-1)


def maps_alone(targets: int, sources: int) -> dict[str, Program]:
    """Alignments alone, as programs on cached logits [N S].

    The published maps, and BLM+ with more probabilities than its authors use, because
    without a prompt that is often the best of them.
    """
    names = [*MAPS, *(f"blm+{k}" for k in (5, 15, 50) if k <= sources)]
    maps = {name: find_alignment(name).build(targets) for name in names}
    cached = opaque(lambda frozen, logits: logits)
    return {name: reprogram(cached, {"output": align}) for name, align in maps.items()}


def best_map(
    alone: Mapping[str, Program], seen: Mapping[str, Outputs], seed: int = 0
) -> tuple[str, dict[str, dict[str, float]]]:
    """The map that validation chooses, and the accuracies of all of them."""
    all_of = {name: map_alone(p, seen, seed) for name, p in alone.items()}
    return max(all_of, key=lambda name: all_of[name]["validation"]), all_of


def logistic_probe(seen: Mapping[str, Outputs]) -> tuple[dict[str, float], Any]:
    """Logistic regression on standardised features; validation chooses its strength.

    Returns (accuracies, the fitted pipeline of scikit-learn: scaler and regression).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fits = []
    for strength in (0.001, 0.01, 0.1, 1.0):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=300)
        ).fit(seen["train"].features, seen["train"].labels)
        scores = {n: float(model.score(s.features, s.labels)) for n, s in seen.items()}
        fits.append((scores, model))
    return max(fits, key=lambda fit: fit[0]["validation"])  # the first of equals


def probe_params(pipeline: Any) -> Params:
    """A fitted `logistic_probe` as the params of `recipes.linear_probe`'s head.

    Its logits are the regression's, up to a number that all classes of an image share.
    """
    scaler, regression = (step for _, step in pipeline.steps)
    weights, bias = regression.coef_, regression.intercept_
    if len(weights) == 1:  # of two classes: how far the second one is ahead
        weights, bias = np.stack([0 * weights[0], weights[0]]), np.append(0, bias)
    learned = {"kernel": weights.T, "bias": bias}
    middle = {"mean": scaler.mean_, "deviation": scaler.scale_}
    single = lambda tree: {n: jnp.asarray(v, jnp.float32) for n, v in tree.items()}
    fixed = {**single(middle), "known": jnp.ones((), bool)}
    return Params({"output": single(learned)}, {"output": fixed})


def nearest(
    known: np.ndarray,
    labels: np.ndarray,
    asked: np.ndarray,
    distance: str = "minkowski",
) -> np.ndarray:
    """[N] the label of the nearest known row, for each row that is asked for.

    Args:
        distance: a name of scikit-learn's; by default Euclid's.
    """
    from sklearn.neighbors import KNeighborsClassifier

    def flat(rows: np.ndarray) -> np.ndarray:
        rows = rows.reshape(len(rows), -1)
        # scikit-learn takes NumPy's own types, of which bfloat16 is none
        return rows.astype(np.float32) if rows.dtype.kind == "V" else rows

    model = KNeighborsClassifier(1, metric=distance).fit(flat(known), labels)
    return model.predict(flat(asked))


def nearest_pixels(task: Task) -> dict[str, float]:
    """The label of the nearest training image, pixel by pixel: no model at all."""
    splits = {"validation": task.validation, "test": task.test}
    found = {n: nearest(task.train.x, task.train.y, s.x) for n, s in splits.items()}
    return {n: float((found[n] == s.y).mean()) for n, s in splits.items()}


def random_weights(
    backbone: Model[Pixels], task: Task, seed: int, images: int = 64
) -> Model[Pixels]:
    """The architecture untrained, its batch statistics set on the task's own images."""
    x = resize(backbone.input.size).apply(
        Params(), jnp.asarray(task.train.x[:images]), Scope()
    )
    x = jnp.round(x * 255).astype(jnp.uint8)
    return random(backbone, jax.random.key(seed), x)
