"""Drawn figures in chosen colours, and captions that say what is in them.

A caption names the figure, and mostly its manner, colour and ground: "two small red
moons on a dark ground". In training some pairs of a manner and a figure, `UNSEEN`, are
not drawn, and no caption names both of them.
"""

from typing import NamedTuple

import numpy as np

from experiments.train_glyphs import drawing
from experiments.train_glyphs.drawing import FIGURES, MANNERS

COLOURS = {
    "red": (0.85, 0.1, 0.1),
    "orange": (0.95, 0.55, 0.05),
    "yellow": (0.95, 0.9, 0.15),
    "green": (0.1, 0.65, 0.2),
    "blue": (0.15, 0.25, 0.9),
    "purple": (0.6, 0.15, 0.75),
    "white": (0.97, 0.97, 0.97),
    "black": (0.04, 0.04, 0.04),
}
GROUNDS = {"dark": (0.0, 0.3), "grey": (0.4, 0.6), "light": (0.75, 1.0)}
# A white figure on a light ground would not be seen, nor a black one on a dark ground.
HIDDEN = {"white": "light", "black": "dark", "yellow": "light"}
UNSEEN = tuple(
    (MANNERS[i % 4], figure) for i, figure in enumerate(FIGURES) if i % 4 != 3
)  # 24 of 128
NAMES = {
    "solid": ("{} {}", "solid {} {}", "plain {} {}"),
    "dotted": ("dotted {} {}", "{} {} of dots", "{} {} drawn in dots"),
    "hollow": ("hollow {} {}", "{} {} in outline", "outlined {} {}"),
    "twin": ("two {} {}", "two small {} {}", "a pair of {} {}"),
}
BEFORE = ("", "a ", "a photo of a ", "a drawing of a ", "a picture of a ", "the ")
BEHIND = ("", "", " on a {} ground", " on {}", ".")


def plural(figure: str) -> str:
    """Its English plural."""
    if figure in ("rungs",):
        return figure
    return figure + ("es" if figure.endswith(("s", "x", "sh", "ch")) else "s")


class Sketches(NamedTuple):
    """Images and what is in them, by number."""

    images: np.ndarray
    """uint8 [N 32 32 3]"""
    manner: np.ndarray
    figure: np.ndarray
    colour: np.ndarray
    ground: np.ndarray


def draw(
    rng: np.random.Generator, number: int, unseen: bool | None = False
) -> Sketches:
    """Figures in equal shares, and manners, colours and grounds at random.

    Args:
        unseen: only pairs that training leaves out; False: only the others; None: all.
            24 of the 32 figures have such a pair, and the first 8 of these come twice
            as often as the others: of 32 images, the first 12 pairs have 20.
    """
    figure = rng.permutation(np.arange(number) % len(FIGURES))
    manner = _manners(rng, figure, unseen)
    colour = rng.integers(len(COLOURS), size=number)
    ground = _grounds(rng, colour)
    parts = []
    for i in range(0, number, 256):
        own = slice(i, i + 256)
        ink = drawing.inked(rng, manner[own] * len(FIGURES) + figure[own])
        parts.append(_painted(rng, ink, colour[own], ground[own]))
    return Sketches(np.concatenate(parts), manner, figure, colour, ground)


def unseen_names() -> list[str]:
    """Of the pairs left out, such as "dotted anchor"."""
    return [f"{manner} {figure}" for manner, figure in UNSEEN]


def unseen_numbers(drawn: Sketches) -> np.ndarray:
    """The place in `UNSEEN` of what each image shows."""
    place = {pair: i for i, pair in enumerate(UNSEEN)}
    figures, pairs = [*FIGURES], zip(drawn.manner, drawn.figure, strict=True)
    found = [place[MANNERS[manner], figures[figure]] for manner, figure in pairs]
    return np.array(found, np.int32)


def _manners(
    rng: np.random.Generator, figure: np.ndarray, unseen: bool | None
) -> np.ndarray:
    left_out = np.zeros((len(FIGURES), len(MANNERS)), bool)
    for manner, name in UNSEEN:
        left_out[[*FIGURES].index(name), MANNERS.index(manner)] = True
    allowed = np.ones_like(left_out) if unseen is None else left_out == unseen
    if not allowed.any(1).all():  # of the figures that have such a pair only
        some = np.flatnonzero(allowed.any(1))
        figure[:] = some[figure % len(some)]
    chance = rng.random((len(figure), len(MANNERS))) * allowed[figure]
    return chance.argmax(1)


def _grounds(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """Of those on which a colour is seen."""
    seen = np.ones((len(COLOURS), len(GROUNDS)))
    for name, ground in HIDDEN.items():
        seen[[*COLOURS].index(name), [*GROUNDS].index(ground)] = 0
    return (rng.random((len(colour), len(GROUNDS))) * seen[colour]).argmax(1)


def _painted(
    rng: np.random.Generator, ink: np.ndarray, colour: np.ndarray, ground: np.ndarray
) -> np.ndarray:
    """Pixels uint8 of ink [B 32 32] in colours on grounds."""
    count = len(ink)
    uniform = lambda low, high, *shape: rng.uniform(low, high, (count, 1, 1, *shape))
    paint = np.array([*COLOURS.values()])[colour][:, None, None]
    paint = np.clip(paint + uniform(-0.08, 0.08, 3), 0, 1)
    low, high = np.array([*GROUNDS.values()])[ground].T[..., None, None, None]
    below = low + (high - low) * uniform(0, 1, 1)
    below = below + uniform(0, 0.12, 1) * drawing.ground(rng, count)
    light = below + (paint - below) * ink[..., None]
    light = light + rng.normal(size=light.shape) * uniform(0, 0.05, 1)
    return np.round(255 * np.clip(light, 0, 1)).astype(np.uint8)


def caption(rng: np.random.Generator, seen: Sketches, i: int) -> str:
    """One of the ways to say what is in image i; colour and ground may be left out."""
    manner, figure = MANNERS[seen.manner[i]], [*FIGURES][seen.figure[i]]
    colour = [*COLOURS][seen.colour[i]] if rng.random() < 0.6 else ""
    forms = NAMES[manner] if rng.random() < 0.85 else ("{} {}",)
    if forms == ("{} {}",) and manner == "twin":
        figure = plural(figure)
    form = forms[rng.integers(len(forms))]
    name = plural(figure) if form.startswith(("two", "a pair")) else figure
    text = form.format(colour, name)
    before = BEFORE[rng.integers(len(BEFORE))]
    if form.startswith(("two", "a pair")) or name.endswith("s"):
        before = before.removesuffix("a ")
    ground = [*GROUNDS][seen.ground[i]]
    behind = BEHIND[rng.integers(len(BEHIND))].format(ground)
    whole = f" {before}{text}{behind}".replace(" a o", " an o")
    return " ".join(whole.split())


def words() -> list[str]:
    """All words that captions are made of, and a few for templates."""
    parts = [*FIGURES, *map(plural, FIGURES), *COLOURS, *GROUNDS]
    parts += [
        word for forms in NAMES.values() for form in forms for word in form.split()
    ]
    parts += [word for form in (*BEFORE, *BEHIND) for word in form.split()]
    parts += ["an", "of", "."]
    return sorted({word.strip(".") or "." for word in parts if "{" not in word})
