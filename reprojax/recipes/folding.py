"""What a trained program computes the same for every image, computed once.

`folded(program, params, model)` gives such a program, its params, and the part of the
model that it runs on. For a pair's classifier give `pair.image` too.

Label maps, learned texts, weights of descriptions and the texts' features become one
linear head behind the model's features, and the model's own head is left out, or the
text tower; prompts that are made of the text tower's become arrays. A prompt in pixels
becomes the bias of the first layer, where that takes fewer numbers. Nothing is
declared: `folded` observes the program, and compares its answers with the folded one's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, Float

from reprojax.core import (
    Edit,
    Key,
    Manipulation,
    Params,
    Program,
    PyTree,
    Scope,
    given,
    part,
    passthrough,
    put,
    record,
    reprogram,
    sites,
    spec_of,
    until,
)
from reprojax.core.trees import named
from reprojax.core.vectors import unit
from reprojax.formats import fixed
from reprojax.models import Model, Pixels, role
from reprojax.operators import add, insert, replace

FEATURES = "image/features"
FIRST = 4
"""Outputs of layers, of which one may be a linear function of the pixels."""


class Folding(NamedTuple):
    """A smaller program that answers as the one it is made of."""

    program: Program
    params: Params
    model: Model[Pixels]
    """The image tower, or the model without its head: the program takes its frozen
    tree."""
    numbers: tuple[int, int]
    """Frozen and own numbers of the program before, and of this one."""


class _End(NamedTuple):
    """Where the head of a classifier begins."""

    site: str
    """Its features [B J]."""
    below: Callable[[str], bool]
    """Whether a site is one of the model below its head."""
    read: Callable[[Array], Array]
    """What the head is a linear function of."""


def folded(
    program: Program,
    params: Params,
    model: Model[Pixels],
    image: Model[Pixels] | None = None,
    x: Any = None,
    *,
    tolerance: float | None = None,
) -> Folding:
    """The program of a classifier as one of what lies below its head (ours).

    Args:
        model: the classifier that the program edits.
        image: of a pair's classifier the image tower of the same pair, `pair.image`.
        x: images of the task, to compare answers on; by default drawn ones.
        tolerance: of the answers, over the largest of them: by default .001, or what 8
            units in the last place of their type are, if that is more.

    Raises:
        ValueError: an answer that is no affine function of an image's feature (a
            choice among texts, texts made for each image), an edit that cannot be
            moved, or answers that differ.
    """
    frozen, x = model.frozen, _images(model) if x is None else x
    end = _end(model, image, x)
    image = _headless(model, end.site, x) if image is None else image
    shared = [own for own, _ in program.at if not all(map(end.below, own))]
    raw = [f"{site}/raw" for own in shared for site in own if end.below(site)]
    features = _seen_as(program, end.site)
    look = jax.jit(record(program.apply, [features, *raw]))
    wanted, seen = look(params, frozen, x)
    if tolerance is None:
        tolerance = max(1e-3, 8 * float(jnp.finfo(wanted.dtype).eps))
    head = _head(program, params, frozen, x, seen[features], end, tolerance)
    at: dict[Any, Manipulation] = {"output": head}
    own: dict[str, Params] = {}
    biases = _in_first_layer(program, params, model, x, end, tolerance)
    for where, manipulation in program.at:
        mine = part(params, where[0])
        if where[0] in biases:
            site, bias = biases[where[0]]
            at[_plain(site)] = add(fixed(bias))
        elif where not in shared:
            key = tuple(map(_plain, where))
            at[key], own[key[0]] = manipulation, mine
        else:
            for i, site in enumerate(where):
                if end.below(site):
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


# -- the model below its head


def _end(model: Model[Pixels], image: Model[Pixels] | None, x: Any) -> _End:
    seen = sites(model.forward, spec_of(model.frozen), spec_of(x))
    order = [*seen]
    if FEATURES in order:
        if image is None:
            raise ValueError(
                f"got {model.name}, the classifier of a pair, without its image tower, "
                "expected both; call folded(program, params, model, pair.image)"
            )
        return _End(FEATURES, _of_image, unit)
    if image is not None:
        raise ValueError(
            f"got an image tower with {model.name}, which is no classifier of a pair, "
            "expected the model alone; call folded(program, params, model)"
        )
    (site,) = role(model, "features", "a program that is folded")
    if len(seen[site]) != 2:
        raise ValueError(
            f"got {model.name} with features of shape {seen[site]}, expected a vector "
            "for each image, of which a linear head can be made"
        )
    first = order.index(site)
    return _End(site, lambda own: own in order[:first], lambda y: y)


def _headless(model: Model[Pixels], site: str, x: Any) -> Model[Pixels]:
    """The model until a site, with those of its frozen arrays that this needs."""
    cut, whole = until(model.forward, site), spec_of(model.frozen)
    traced = jax.make_jaxpr(lambda frozen, x: cut(frozen, x))(whole, spec_of(x)).jaxpr
    used = dce_jaxpr(traced, [True] * len(traced.outvars))[1]
    every = named(whole)
    needed = [name for name, live in zip(every, used, strict=False) if live]
    arrays = named(model.frozen)

    def forward(kept: PyTree, x: PyTree, edit: Edit = passthrough) -> PyTree:
        # a layer behind the site is traced with zeros, and removed by XLA
        leaves = [
            kept[name] if name in kept else jnp.zeros(spec.shape, spec.dtype)
            for name, spec in every.items()
        ]
        frozen = jax.tree.unflatten(jax.tree.structure(whole), leaves)
        return cut(frozen, x, edit=edit)

    own = {name: arrays[name] for name in needed}
    every_one = lambda frozen: frozen
    return model._replace(forward=forward, frozen=own, classes=(), weights=every_one)


def _seen_as(program: Program, site: str) -> str:
    """The name of a site's value before the program edits it."""
    edited = any(site in own for own, _ in program.at)
    return f"{site}/raw" if edited else site


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
    end: _End,
    tolerance: float,
) -> Manipulation:
    """The answer as a linear head of features, found by what axes answer."""
    width, name = features.shape[-1], _seen_as(program, end.site)
    more = np.random.default_rng(0).standard_normal((16, width))
    rows = jnp.asarray(np.concatenate([np.zeros((1, width)), np.eye(width), more]))
    rows = rows.astype(features.dtype)

    @jax.jit
    def answers(params: Params, frozen: PyTree, x: PyTree, rows: Array) -> Array:
        return given(program.apply, {name: rows})(params, frozen, x)

    images = jnp.zeros((len(rows), *x.shape[1:]), x.dtype)
    y = answers(params, frozen, images, rows)
    bias, kernel = y[0], y[1 : 1 + width] - y[0]
    wanted, found = y[1 + width :], end.read(rows[1 + width :]) @ kernel + bias
    if not (gap := _gap(found, wanted)) <= tolerance:
        raise ValueError(
            "the answers are no linear function of an image's feature (a difference "
            f"of {gap:.2g}, above {tolerance:.2g}), expected one, to make a head of; "
            "a choice among texts, or texts made for each image, cannot be folded"
        )
    return _linear(kernel, bias, end.read)


def _in_first_layer(
    program: Program,
    params: Params,
    model: Model[Pixels],
    x: Any,
    end: _End,
    tolerance: float,
) -> dict[str, tuple[str, Float[Array, "..."]]]:
    """{site of a prompt in pixels: (the output of a layer, what the prompt adds)}, if
    that is the same for all images and has fewer numbers than the prompt."""
    edited = [site for own, _ in program.at for site in own]
    pixels = role(model, "input")[-1]
    if (pixels,) not in [own for own, _ in program.at]:
        return {}
    order = [*sites(model.forward, spec_of(model.frozen), spec_of(x))]
    behind = order[order.index(pixels) + 1 :]
    outs = [s for s in behind if s.endswith(":out") and end.below(s)][:FIRST]
    outs = [site for site in outs if site not in edited]
    if not outs:
        return {}
    bare = reprogram(model.forward, {s: m for s, m in program.at if s != (pixels,)})
    own = bare.init(jax.random.key(0), model.frozen, x)
    for (site, *_), _ in bare.at:
        own = put(own, site, part(params, site))
    prompted = _values(program, outs)(params, model.frozen, x)
    plain = _values(bare, outs)(own, model.frozen, x)
    limit = _count(part(params, pixels))
    for site in outs:
        added = prompted[site].astype(jnp.float32) - plain[site].astype(jnp.float32)
        bias = added.mean(0)
        near = tolerance * float(jnp.abs(prompted[site]).max())
        if float(jnp.abs(added - bias).max()) <= near and bias.size < limit:
            return {pixels: (site, bias.astype(prompted[site].dtype))}
    return {}


def _values(program: Program, names: list[str]) -> Callable[..., dict[str, Array]]:
    """The values at some sites; XLA removes what lies above them."""
    look = record(program.apply, names)
    return jax.jit(lambda params, frozen, x: look(params, frozen, x)[1])


def _linear(
    kernel: Float[Array, "J T"],
    bias: Float[Array, "T"],
    read: Callable[[Array], Array],
) -> Manipulation:
    """A linear head, not learned, on features as it reads them."""

    def init(key: Key, y: PyTree, scope: Scope) -> Params:
        return Params(fixed={"kernel": kernel, "bias": bias})

    def apply(params: Params, y: Float[Array, "B J"], scope: Scope) -> Array:
        own = params.fixed
        head = read(y) @ own["kernel"].astype(y.dtype)
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
