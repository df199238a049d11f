"""What a trained program of a pair computes the same for every image, computed once.

`folded(program, params, model, pair.image)` gives such a program, its params and the
image tower that it runs on.

Learned texts, label maps, weights of descriptions and the texts' features become one
linear head behind the image tower; prompts that are made of the text tower's become
arrays. The text tower is left out. Nothing is declared: `folded` observes the program,
and compares its answers with the folded one's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import (
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    given,
    part,
    put,
    record,
    reprogram,
)
from reprojax.core.vectors import unit
from reprojax.formats import fixed
from reprojax.models import Model, Pixels
from reprojax.operators import insert, replace

FEATURES = "image/features"


class Folding(NamedTuple):
    """A smaller program that answers as the one it is made of."""

    program: Program
    params: Params
    model: Model[Pixels]
    """The image tower, whose frozen tree the program takes."""
    numbers: tuple[int, int]
    """Frozen and own numbers of the program before, and of this one."""


def folded(
    program: Program,
    params: Params,
    model: Model[Pixels],
    image: Model[Pixels],
    x: Any = None,
    *,
    tolerance: float | None = None,
) -> Folding:
    """The program of a pair's classifier as one of its image tower alone (ours).

    Args:
        model: the classifier that the program edits.
        image: the image tower of the same pair, `pair.image`.
        x: images of the task, to compare answers on; by default drawn ones.
        tolerance: of the answers, over the largest of them: by default .001, or what 8
            units in the last place of their type are, if that is more.

    Raises:
        ValueError: an answer that is no affine function of an image's unit feature (a
            choice among texts, texts made for each image), an edit that cannot be
            moved, or answers that differ.
    """
    frozen, x = model.frozen, _images(model) if x is None else x
    shared = [sites for sites, _ in program.at if not all(map(_of_image, sites))]
    raw = [f"{site}/raw" for sites in shared for site in sites if _of_image(site)]
    look = jax.jit(record(program.apply, [FEATURES, *raw]))
    wanted, seen = look(params, frozen, x)
    if tolerance is None:
        tolerance = max(1e-3, 8 * float(jnp.finfo(wanted.dtype).eps))
    head = _head(program, params, frozen, x, seen[FEATURES], tolerance)
    at: dict[Any, Manipulation] = {"output": head}
    own: dict[str, Params] = {}
    for sites, manipulation in program.at:
        mine = part(params, sites[0])
        if sites not in shared:
            key = tuple(map(_plain, sites))
            at[key], own[key[0]] = manipulation, mine
            continue
        for i, site in enumerate(sites):
            if _of_image(site):
                value, scope = seen[f"{site}/raw"][:1], Scope(site, i, frozen)
                at[_plain(site)] = _alone(manipulation, mine, value, scope)
    found = reprogram(image.forward, at)
    ready = found.init(jax.random.key(0), image.frozen, x)
    for site, mine in own.items():
        ready = put(ready, site, mine)
    answers = jax.jit(found.apply)(ready, image.frozen, x)
    if not (gap := _gap(answers, wanted)) <= tolerance:
        raise ValueError(
            f"the folded program's answers differ by {gap:.2g} of the largest, "
            f"expected at most {tolerance:.2g}; the program reads more than an image's "
            "feature, or edits what folding does not know"
        )
    numbers = _count((frozen, params)), _count((image.frozen, ready))
    return Folding(found, ready, image, numbers)


def _of_image(site: str) -> bool:
    """Whether a site of the classifier is one of its image tower, not its end."""
    return site in ("input", "normalized") or (
        site.startswith("image/") and site != FEATURES
    )


def _plain(site: str) -> str:
    """The image tower's own name of a classifier's site."""
    return site.removeprefix("image/")


def _images(model: Model[Pixels]) -> np.ndarray:
    side = model.input.size
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, (8, side, side, 3), dtype=np.uint8)


def _count(tree: PyTree) -> int:
    return sum(int(np.prod(np.shape(a))) for a in jax.tree.leaves(tree))


def _gap(found: Array, wanted: Array) -> float:
    """The largest difference, over the largest of the wanted numbers or 1."""
    one, other = (np.asarray(a, np.float32) for a in (found, wanted))
    return float(np.abs(one - other).max() / max(np.abs(other).max(), 1))


def _head(
    program: Program,
    params: Params,
    frozen: PyTree,
    x: Any,
    features: Float[Array, "B J"],
    tolerance: float,
) -> Manipulation:
    """The answer as a linear head of unit features, found by what axes answer."""
    width = features.shape[-1]
    more = np.random.default_rng(0).standard_normal((16, width))
    rows = jnp.asarray(np.concatenate([np.zeros((1, width)), np.eye(width), more]))
    rows = rows.astype(features.dtype)

    @jax.jit
    def answers(params: Params, frozen: PyTree, x: PyTree, rows: Array) -> Array:
        return given(program.apply, {FEATURES: rows})(params, frozen, x)

    images = jnp.zeros((len(rows), *x.shape[1:]), x.dtype)
    y = answers(params, frozen, images, rows)
    bias, kernel = y[0], y[1 : 1 + width] - y[0]
    wanted, found = y[1 + width :], unit(rows[1 + width :]) @ kernel + bias
    if not (gap := _gap(found, wanted)) <= tolerance:
        raise ValueError(
            "the answers are no linear function of an image's feature (a difference "
            f"of {gap:.2g}, above {tolerance:.2g}), expected one, to make a head of; "
            "a choice among texts, or texts made for each image, cannot be folded"
        )
    return _linear(kernel, bias)


def _linear(kernel: Float[Array, "J T"], bias: Float[Array, "T"]) -> Manipulation:
    """A linear head, not learned, on features of unit length."""

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        return Params(fixed={"kernel": kernel, "bias": bias})

    def apply(params: Params, y: Float[Array, "B J"], scope: Scope) -> Array:
        own = params.fixed
        head = unit(y) @ own["kernel"].astype(y.dtype)
        return head + own["bias"].astype(y.dtype)

    return Manipulation(init, apply)


def _alone(
    manipulation: Manipulation,
    own: Params,
    value: Float[Array, "1 L D"],
    scope: Scope,
) -> Manipulation:
    """What a manipulation shared with the text tower does at an image site, as an
    array of rows that it inserts or puts in the place of others."""
    seen = [manipulation.apply(own, v, scope) for v in (value, value + 1)]
    same = np.asarray((seen[0] == seen[1]).all((0, 2)))
    start, length = int(same.argmax()), int(same.sum())
    rows, longer = seen[0][0][same], seen[0].shape[1] - value.shape[1]
    if (
        not length
        or not same[start : start + length].all()
        or longer not in (0, length)
    ):
        raise ValueError(
            f"the manipulation of {scope.site!r} is shared with the text tower and "
            "neither inserts nor replaces rows, expected one that does; it cannot be "
            "moved"
        )
    return (insert if longer else replace)(fixed(rows), length, at=start)
