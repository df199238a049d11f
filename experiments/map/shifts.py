"""Test examples under shifts that no training example shows.

A program is trained without them; each reported run answers some of them once.
"""

import random
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from experiments.shared import abacus
from reprojax.core import PyTree, padded

ROWS = 200  # examples of each shift
Shifts = Mapping[str, tuple[PyTree, np.ndarray]]
"""{name: examples, and their labels as numbers of the task's classes}"""


# -- images


def of_images(x: np.ndarray, y: np.ndarray) -> Shifts:
    """The first images uint8 [N S S C] with noise, blurred by a 32nd of their side, and
    with two fifths of their contrast."""
    from scipy.ndimage import gaussian_filter

    x, y = x[:ROWS], y[:ROWS]
    given = x.astype(np.float32)
    noise = np.random.default_rng(11).normal(0, 40, x.shape)
    wide = max(0.6, x.shape[1] / 32)
    middle = given.mean((1, 2, 3), keepdims=True)
    return {
        "noise": (_bytes(given + noise), y),
        "blur": (_bytes(gaussian_filter(given, (0, wide, wide, 0))), y),
        "less contrast": (_bytes(middle + 0.4 * (given - middle)), y),
    }


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x), 0, 255).astype(np.uint8)


def printed_digits(side: int = 8, scale: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Digits in Pillow's own font, bright on black: uint8 [N side side 1]; labels."""
    from PIL import Image, ImageDraw, ImageFont

    rng, wide = np.random.default_rng(13), side * scale
    y = np.arange(ROWS) % 10
    images = []
    for digit in y:
        page = Image.new("L", (wide, wide))
        high = int(rng.integers(wide * 9 // 10, wide * 12 // 10))
        font = ImageFont.load_default(high)
        middle = tuple(wide / 2 + rng.uniform(-scale / 2, scale / 2, 2))
        ImageDraw.Draw(page).text(middle, str(digit), 255, font, anchor="mm")
        small = page.resize((side, side), Image.Resampling.BOX)
        images.append(np.asarray(small)[..., None])
    return np.stack(images), y


# -- texts


def of_texts(
    texts: Mapping[str, tuple[Sequence[str], np.ndarray]],
    encode: Callable[[str], list[int]],
    length: int,
) -> Shifts:
    """{name: texts, labels} as ids, padded to `length`."""

    def read(lines: Sequence[str]) -> PyTree:
        ids = padded([encode(line) for line in lines], length=length)
        return jax.tree.map(np.asarray, ids)

    return {name: (read(lines), y) for name, (lines, y) in texts.items()}


def applied(
    names: Sequence[str], sign: str = ">", alphabet: str = abacus.LETTERS
) -> tuple[list[str], np.ndarray]:
    """Words and what functions made of them, with a sign between; which function."""
    rng, rows = random.Random(17), [i % len(names) for i in range(ROWS)]
    texts = []
    for i in rows:
        word = abacus.word_of(rng, rng.randint(3, 6), alphabet)
        texts.append(f"{word}{sign}{abacus.FUNCTIONS[names[i]](word)}")
    return texts, np.array(rows)
