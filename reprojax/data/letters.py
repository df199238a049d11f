"""Letters behind glass: a target that is drawn, with numpy alone.

Ten letters in thin strokes, each at another place, size, slant, turn, colour and
brightness, behind a window in which the same ten neon tubes are always reflected: the
tubes' light is added to every image, and nothing is clipped.

Every step is an addition, a product, a quotient, a square root or a comparison of
float64, which IEEE 754 rounds in one way, so the images are the same bytes everywhere.
"""

from collections.abc import Sequence

import numpy as np

SIZE = 32
TUBES = 10

# Polylines x0, y0, x1, y1, …; x runs right and y down, both from -1 to 1.
LETTERS: dict[str, list[Sequence[float]]] = {
    "C": [
        (0.8, -0.75, 0.35, -1, -0.35, -1, -0.8, -0.5)
        + (-0.8, 0.5, -0.35, 1, 0.35, 1, 0.8, 0.75)
    ],
    "E": [(0.7, -1, -0.7, -1, -0.7, 1, 0.7, 1), (-0.7, 0, 0.6, 0)],
    "H": [(-0.7, -1, -0.7, 1), (0.7, -1, 0.7, 1), (-0.7, 0, 0.7, 0)],
    "J": [(0.45, -1, 0.45, 0.55, 0.1, 1, -0.35, 1, -0.7, 0.6)],
    "L": [(-0.6, -1, -0.6, 1, 0.7, 1)],
    "T": [(-0.85, -1, 0.85, -1), (0, -1, 0, 1)],
    "U": [(-0.75, -1, -0.75, 0.5, -0.35, 1, 0.35, 1, 0.75, 0.5, 0.75, -1)],
    "V": [(-0.8, -1, 0, 1, 0.8, -1)],
    "X": [(-0.8, -1, 0.8, 1), (0.8, -1, -0.8, 1)],
    "Y": [(-0.8, -1, 0, 0, 0.8, -1), (0, 0, 0, 1)],
}


def letters_behind_glass(
    each: int = 200, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Images uint8 [N 32 32 3], labels [N] and the ten letters; N is ten times `each`.

    Args:
        each: images of every letter.
        seed: of the letters' places and looks, and of the tubes.
    """
    rng = np.random.default_rng(seed)
    glass = _reflection(rng)
    shown = [_behind(rng, glass, lines, each) for lines in LETTERS.values()]
    return np.concatenate(shown), np.arange(len(LETTERS)).repeat(each), [*LETTERS]


def _behind(
    rng: np.random.Generator, glass: np.ndarray, lines: list, n: int
) -> np.ndarray:
    """One letter n times, uint8 [n SIZE SIZE 3]."""
    width, ground = (_uniform(rng, *v, n, 1, 1) for v in ((1, 2.2), (0, 0.15)))
    colour = _uniform(rng, 0.21, 0.35, n, 1, 1, 3)
    distance = _distance(_placed(rng, _segments(lines), n))
    ink = np.clip((width - distance) / 1.2 + 0.5, 0, 1)
    light = ground[..., None] + colour * ink[..., None] + glass
    return np.floor(255 * light + 0.5).astype(np.uint8)


def _segments(lines: list) -> np.ndarray:
    """[S 2 2]: the ends of each straight part, x and y."""
    points = [np.asarray(line, np.float64).reshape(-1, 2) for line in lines]
    return np.concatenate([np.stack([p[:-1], p[1:]], 1) for p in points])


def _placed(rng: np.random.Generator, segments: np.ndarray, n: int) -> np.ndarray:
    """n copies [n S 2 2] in pixels: slanted, stretched, turned, scaled and moved."""
    slant, wide, high, half, scale, right, down = (
        _uniform(rng, low, top, n, 1, 1)
        for low, top in (
            (-0.25, 0.25),
            (0.75, 1.1),
            (0.85, 1.1),
            (-0.11, 0.11),  # the tangent of half the angle: up to 13 degrees
            (0.24 * SIZE, 0.34 * SIZE),
            (SIZE / 2 - 6, SIZE / 2 + 6),
            (SIZE / 2 - 6, SIZE / 2 + 6),
        )
    )
    x, y = segments[..., 0], segments[..., 1]
    x, y = (x + slant * y) * wide, y * high
    cosine = (1 - half * half) / (1 + half * half)
    sine = 2 * half / (1 + half * half)
    x, y = x * cosine - y * sine, x * sine + y * cosine
    return np.stack([x * scale + right, y * scale + down], -1)


def _distance(segments: np.ndarray) -> np.ndarray:
    """From the centre of every pixel to the nearest segment, [n SIZE SIZE]."""
    grid = np.arange(SIZE) + 0.5
    best = np.full((len(segments), SIZE, SIZE), np.inf)
    for i in range(segments.shape[1]):
        start, stop = segments[:, i, 0, :, None, None], segments[:, i, 1, :, None, None]
        along = stop - start
        x, y = grid[None, None] - start[:, 0], grid[None, :, None] - start[:, 1]
        ax, ay = along[:, 0], along[:, 1]
        share = np.clip((x * ax + y * ay) / (ax * ax + ay * ay), 0, 1)
        x, y = x - share * ax, y - share * ay
        np.minimum(best, x * x + y * y, out=best)
    return np.sqrt(best)


def _reflection(rng: np.random.Generator) -> np.ndarray:
    """The light of the tubes, [SIZE SIZE 3] in [0, 0.5]."""
    tubes = _uniform(rng, 0, SIZE, TUBES, 1, 2, 2)
    width = _uniform(rng, 1, 2, TUBES, 1, 1)
    colour = _uniform(rng, 0.25, 0.5, TUBES, 1, 1, 3)
    return ((_distance(tubes) < width)[..., None] * colour).max(0)


def _uniform(
    rng: np.random.Generator, low: float, high: float, *shape: int
) -> np.ndarray:
    """As `rng.uniform`, whose compiled sum may be rounded once or twice."""
    return low + (high - low) * rng.random(shape)
