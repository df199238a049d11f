"""The prompts of the cells on an image model: convolutional, or a vision transformer.

Sites are found by the card's roles: "normalized" pixels, what enters the first block
(what leaves the stem, or the embedded patches), and what enters a middle block. Where
that is a feature map [B H W C], a concatenative prompt is a border around it; where it
is tokens [B L D], it is tokens behind the class token.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn.initializers import normal
from jaxtyping import Array, Float

from experiments.map.parts import (
    Values,
    bottleneck,
    coarse,
    filtered,
    mixed,
    transforms,
    values,
)
from experiments.map.tasks import Bench
from reprojax.core import (
    Manipulation,
    Params,
    PyTree,
    chain,
    record,
    reprogram,
    stateless,
)
from reprojax.formats import border, fixed, learnable, low_rank, through
from reprojax.models import role
from reprojax.operators import add, insert, pad, resize

At = Mapping[str, Manipulation]
Prompts = dict[tuple[str, str, str], dict[str, At]]
ROWS = 128  # images a call, of the one pass over the training examples


def prompts(bench: Bench) -> Prompts:
    """{(configuration, location, operator): {candidate: manipulations by site}}"""
    sites = {"input": "normalized"}
    sites["embedding"], sites["hidden"] = places(bench)
    looked = look(bench, bench.task.train.x, tuple(sites.values()))
    source = look(bench, bench.source, tuple(sites.values()))
    found: Prompts = {}
    for location, site in sites.items():
        shape = looked[site].shape[1:]
        prompt = Place(bench, location, site, looked[site], source.get(site))
        learned, given = (
            (learnable_map, fixed_map)
            if len(shape) == 3
            else (learnable_tokens, fixed_tokens)
        )
        if location == "input":
            learned, given = learnable_pixels, fixed_pixels
        for name, one in learned(prompt).items():
            found["learnable", location, name] = {"learned": one}
        for name, several in given(prompt).items():
            found["fixed", location, name] = several
    return found


def places(bench: Bench) -> tuple[str, str]:
    """The sites of the embedding and of a middle block."""
    blocks = role(bench.model, "blocks", "the hidden cells")
    (embedding,) = role(bench.model, "embedding")
    return embedding, blocks[len(blocks) // 2]


class Place:
    """A site, and what stood there for a task's training examples.

    Args:
        seen, source: [N *place D], of the task and of the model's own kind, if known.
    """

    def __init__(
        self, bench: Bench, location: str, site: str, seen: Array, source: Array | None
    ):
        self.bench, self.location, self.site = bench, location, site
        self.shape, self.seen = seen.shape[1:], seen
        self.values: Values = values(seen)
        self.source = None if source is None else values(source)

    def here(self, prompt: Manipulation) -> At:
        """A prompt at the site, behind the resize that every program has."""
        size = resize(self.bench.model.input.size)
        if self.location == "input":
            return {"input": size, "normalized": prompt}
        return {"input": size, self.site: prompt}

    def all_here(self, given: Mapping[str, Manipulation]) -> dict[str, At]:
        return {name: self.here(prompt) for name, prompt in given.items()}

    @property
    def mean(self) -> Float[Array, "*P D"]:
        return self.seen.mean(0)

    def class_mean(self, label: int) -> Float[Array, "*P D"]:
        return self.seen[np.asarray(self.bench.task.train.y) == label].mean(0)


def look(bench: Bench, x: PyTree, sites: tuple[str, ...]) -> dict[str, Array]:
    """{site: value [N ...]} of the model's one pass over some images."""
    if x is None:
        return {}
    program = reprogram(bench.model.forward, {"input": resize(bench.model.input.size)})
    nothing = Params({"input": ()}, {"input": ()})
    run = jax.jit(partial(record(program.apply, sites), nothing))
    parts = [
        run(bench.model.frozen, x[i : i + ROWS])[1] for i in range(0, len(x), ROWS)
    ]
    return {
        site: jnp.concatenate([p[site] for p in parts]).astype(jnp.float32)
        for site in sites
    }


# -- learnable


def learnable_pixels(place: Place) -> dict[str, At]:
    """A watermark; the image, made smaller, inside a border; two convolutions."""
    numbers, side = place.bench.numbers, place.bench.model.input.size
    width = edge(side)
    framed = 3 * (side**2 - (side - 2 * width) ** 2)
    grey = through(coarse(numbers, of=framed), stateless(jax.nn.sigmoid))
    return {
        "additive": place.here(add(coarse(numbers))),
        "concatenative": inside(side, border(grey, width)),
        "parametric": place.here(bottleneck(round(numbers / 55), window=3)),
    }


def inside(side: int, canvas: object) -> At:
    """The image in a border of a prompt [side side 3], in pixels of [0, 1]."""
    width = edge(side)
    small = resize(side - 2 * width)
    return {"input": chain(resize=small, border=pad(canvas, width))}  # type: ignore[arg-type]


def edge(side: int) -> int:
    """Pixels of a border around the image: five of 32."""
    return round(side * 5 / 32)


def learnable_map(place: Place) -> dict[str, At]:
    """At a feature map [H W C]: an addition, a border one place wide, an adapter."""
    numbers, (height, wide, channels) = place.bench.numbers, place.shape
    framed = channels * ((height + 2) * (wide + 2) - height * wide)
    return {
        "additive": place.here(add(coarse(numbers))),
        "concatenative": place.here(pad(border(coarse(numbers, of=framed), 1), 1)),
        "parametric": place.here(bottleneck(round(numbers / (2 * channels + 1)))),
    }


def learnable_tokens(place: Place) -> dict[str, At]:
    """At tokens [L D]: an addition of low rank, tokens beside them, an adapter."""
    numbers, (length, width) = place.bench.numbers, place.shape
    deviation = float(place.values.deviation.mean())
    tokens = learnable(normal(deviation))
    rank = round(numbers / (length + width))
    return {
        "additive": place.here(add(low_rank(rank))),
        "concatenative": place.here(insert(tokens, round(numbers / width), at=1)),
        "parametric": place.here(bottleneck(round(numbers / (2 * width + 1)))),
    }


# -- fixed: written, drawn, or computed from the training examples in one pass


def additions(place: Place) -> dict[str, Manipulation]:
    """What examples have in common, taken off or moved; a class, marked."""
    mean, shape = place.mean, place.shape
    first = place.class_mean(0) - mean
    found = {
        "mean taken off": -mean,
        "half the mean taken off": -mean / 2,
        "mean of the first class": first,
    }
    if place.source is not None:
        move = place.source.mean - place.values.mean
        found["mean moved to the source's"] = jnp.broadcast_to(move, shape)
    return {name: add(fixed(prompt)) for name, prompt in found.items()}


BLURRED = np.outer([1.0, 2.0, 1.0], [1.0, 2.0, 1.0]) / 16


def filters() -> dict[str, Manipulation]:
    """Of a picture or a feature map."""
    sharp = np.zeros((3, 3))
    sharp[1, 1] = 1
    return {
        "smoothed": filtered(jnp.asarray(BLURRED, jnp.float32)),
        "sharpened": filtered(jnp.asarray(2 * sharp - BLURRED, jnp.float32)),
        "sharpened twice": filtered(jnp.asarray(3 * sharp - 2 * BLURRED, jnp.float32)),
    }


def fixed_pixels(place: Place) -> dict[str, dict[str, At]]:
    side = place.bench.model.input.size
    grey = jnp.full((3, 3), 1 / 3)
    colours = {
        "grey": mixed(grey, jnp.zeros(3)),
        "inverted": mixed(-jnp.eye(3), 2 * place.values.mean),
    }
    return {
        "additive": place.all_here(
            {**additions(place), "ring": add(fixed(ring(side)))}
        ),
        "concatenative": {
            name: inside(side, fixed(canvas))
            for name, canvas in canvases(place, side).items()
        },
        "parametric": place.all_here(
            {**filters(), **colours, **transforms(place.values, place.source)}
        ),
    }


def ring(side: int) -> Float[Array, "S S 3"]:
    """A red circle as a marker (arXiv 2304.06712): red more, green and blue less."""
    far = jnp.hypot(*(jnp.mgrid[:side, :side] - (side - 1) / 2))
    line = jnp.abs(far - 0.42 * side) < 0.03 * side
    return line[..., None] * jnp.array([1.0, -1.0, -1.0])


def canvases(place: Place, side: int) -> dict[str, Float[Array, "S S 3"]]:
    """What stands around an image, in pixels of [0, 1]."""
    model, train = place.bench.model, place.bench.task.train
    pixels = place.seen * jnp.asarray(model.input.std) + jnp.asarray(model.input.mean)
    width = edge(side)
    rows = [int(np.flatnonzero(train.y == c)[0]) for c in np.unique(train.y)]
    size = (len(rows), width, width, 3)
    small = jax.image.resize(pixels[jnp.array(rows)], size, "linear")
    at = jnp.arange(side)
    which = (at[:, None] // width * (side // width + 1) + at // width) % len(rows)
    shown = small[which, at[:, None] % width, at % width]
    drawn = jax.random.uniform(jax.random.key(0), (side, side, 3))
    return {
        "grey": jnp.full((side, side, 3), 0.5),
        "mean colour": jnp.broadcast_to(pixels.mean((0, 1, 2)), (side, side, 3)),
        "training images": shown,
        "mean image": pixels.mean(0),
        "noise": drawn,
    }


def fixed_map(place: Place) -> dict[str, dict[str, At]]:
    return {
        "additive": place.all_here(additions(place)),
        "concatenative": place.all_here(
            {name: pad(fixed(canvas), 1) for name, canvas in edges(place).items()}
        ),
        "parametric": place.all_here(
            {**filters(), **transforms(place.values, place.source)}
        ),
    }


def edges(place: Place) -> dict[str, Float[Array, "H W C"]]:
    """What stands around a feature map, one place wide."""
    height, wide, channels = place.shape
    shape = height + 2, wide + 2, channels
    around = lambda inner: jnp.pad(inner, ((1, 1), (1, 1), (0, 0)), "edge")
    classes = range(len(place.bench.task.classes))
    means = jnp.stack([place.class_mean(c).mean((0, 1)) for c in classes])
    walk = jnp.arange(shape[0])[:, None] + jnp.arange(shape[1])
    found = {
        "zeros": jnp.zeros(shape),
        "mean": jnp.broadcast_to(place.values.mean, shape),
        "edge of the mean": around(place.mean),
        "class means": means[walk % len(means)],
        "first training image": around(place.seen[0]),
    }
    if place.source is not None:
        found["mean of the source"] = jnp.broadcast_to(place.source.mean, shape)
    return found


def fixed_tokens(place: Place) -> dict[str, dict[str, At]]:
    """At tokens [L D]; beside them stand tokens that examples left."""
    classes = range(len(place.bench.task.classes))
    means = jnp.stack([place.class_mean(c)[1:].mean(0) for c in classes])
    beside = {
        "mean": place.values.mean[None],
        "class means": means,
        "class tokens": jnp.stack([place.class_mean(c)[0] for c in classes]),
        "first training image": place.seen[0, 1:],
    }
    tokens = {n: insert(fixed(rows), len(rows), at=1) for n, rows in beside.items()}
    return {
        "additive": place.all_here(additions(place)),
        "concatenative": place.all_here(tokens),
        "parametric": place.all_here(transforms(place.values, place.source)),
    }
