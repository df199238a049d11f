"""Glyphs: small images of drawn figures in 128 composed classes, with numpy alone.

A class is a figure (32, composed of lines and arcs) in a manner (4: solid, dotted,
hollow, or two small ones). All else varies freely: place, size, slant, warp, stroke,
colour, contrast, ground, blur and noise. No font and no data set is involved, and no
figure is a digit, though strokes are strokes: two small moons may look like a 3.

>>> images, labels = draw(np.random.default_rng(0), 128)
>>> images.shape, labels.shape
((128, 32, 32, 3), (128,))
"""

import numpy as np

SIZE = 32
SEGMENTS = 24
MANNERS = ("solid", "dotted", "hollow", "twin")


def _line(*coordinates: float) -> np.ndarray:
    """A polyline x0, y0, x1, y1, …; x runs right and y down, both from -1 to 1."""
    return np.array(coordinates, float).reshape(-1, 2)


def _arc(x: float, y: float, rx: float, ry: float, start: float, stop: float):
    """Part of an ellipse, clockwise on the screen, angles in degrees from the right."""
    angle = np.deg2rad(np.linspace(start, stop, 25))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], -1)


def _join(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _spiral() -> np.ndarray:
    angle, radius = np.linspace(0, 3.6 * np.pi, 60), np.linspace(0.12, 1, 60)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)


FIGURES: dict[str, list[np.ndarray]] = {
    "dash": [_line(-1, 0, 1, 0)],
    "slash": [_line(0.7, -1, -0.7, 1)],
    "plus": [_line(0, -1, 0, 1), _line(-0.9, 0, 0.9, 0)],
    "cross": [_line(-0.8, -1, 0.8, 1), _line(0.8, -1, -0.8, 1)],
    "tee": [_line(-0.9, -0.9, 0.9, -0.9), _line(0, -0.9, 0, 1)],
    "stand": [_line(-0.9, 0.9, 0.9, 0.9), _line(0, -1, 0, 0.9)],
    "elbow": [_line(-0.6, -1, -0.6, 0.9, 0.8, 0.9)],
    "vee": [_line(-0.8, -1, 0, 1, 0.8, -1)],
    "roof": [_line(-0.8, 1, 0, -1, 0.8, 1)],
    "angle": [_line(0.7, -1, -0.8, 0, 0.7, 1)],
    "gate": [_line(-0.7, 1, -0.7, -0.9, 0.7, -0.9, 0.7, 1)],
    "rungs": [_line(-0.7, -1, -0.7, 1), _line(0.7, -1, 0.7, 1), _line(-0.7, 0, 0.7, 0)],
    "fork": [_line(-0.8, -1, 0, 0, 0.8, -1), _line(0, 0, 0, 1)],
    "chair": [_line(-0.6, -1, -0.6, 0.2, 0.6, 0.2, 0.6, 1)],
    "comb": [_line(0.7, -0.9, -0.7, -0.9, -0.7, 0.9, 0.7, 0.9), _line(-0.7, 0, 0.6, 0)],
    "triangle": [_line(0, -1, 0.9, 0.8, -0.9, 0.8, 0, -1)],
    "box": [_line(-0.75, -0.9, 0.75, -0.9, 0.75, 0.9, -0.75, 0.9, -0.75, -0.9)],
    "bowl": [_arc(0.3, 0, 0.95, 0.95, 70, 290)],
    "moon": [_arc(-0.3, 0, 0.95, 0.95, -110, 110)],
    "cup": [_join(_line(-0.7, -1), _arc(0, 0.2, 0.7, 0.75, 180, 0), _line(0.7, -1))],
    "arch": [_join(_line(-0.7, 1), _arc(0, -0.2, 0.7, 0.75, 180, 360), _line(0.7, 1))],
    "hook": [_join(_line(0.4, -1), _arc(-0.15, 0.4, 0.55, 0.55, 0, 170))],
    "cane": [_join(_arc(0, -0.4, 0.6, 0.55, 180, 380), _line(-0.1, 0.5, -0.1, 1))],
    "arrow": [_line(0, 1, 0, -1), _line(-0.7, -0.2, 0, -1, 0.7, -0.2)],
    "lens": [_join(_arc(0.6, 0, 1.2, 1.2, 125, 235), _arc(-0.6, 0, 1.2, 1.2, -55, 55))],
    "horseshoe": [
        _join(
            _line(-0.9, 0.9, -0.35, 0.9),
            _arc(0, -0.15, 0.75, 0.75, 130, 410),
            _line(0.35, 0.9, 0.9, 0.9),
        )
    ],
    "dome": [_join(_arc(0, 0.5, 0.9, 1.2, 180, 360), _line(0.9, 0.5, -0.9, 0.5))],
    "diamond": [_line(0, -1, 0.8, 0, 0, 1, -0.8, 0, 0, -1)],
    "crown": [_line(-0.9, 0.9, -0.6, -0.9, 0, 0.5, 0.6, -0.9, 0.9, 0.9)],
    "anchor": [_line(0, -1, 0, 0.9), _arc(0, 0.2, 0.85, 0.7, 0, 180)],
    "hourglass": [_line(-0.7, -0.9, 0.7, -0.9, -0.7, 0.9, 0.7, 0.9, -0.7, -0.9)],
    "spiral": [_spiral()],
}
CLASSES = tuple(f"{manner} {figure}" for manner in MANNERS for figure in FIGURES)


def _resample(strokes: list[np.ndarray], number: int) -> np.ndarray:
    """The figure as `number` segments [number 2 2], shared out by stroke length."""
    steps = [np.r_[0, np.hypot(*np.diff(s, axis=0).T).cumsum()] for s in strokes]
    share = np.array([s[-1] for s in steps])
    share = np.maximum(1, np.round(share / share.sum() * number)).astype(int)
    share[np.argmax(share)] += number - share.sum()
    parts = []
    for stroke, along, n in zip(strokes, steps, share, strict=True):
        at = np.linspace(0, along[-1], n + 1)
        points = np.stack([np.interp(at, along, stroke[:, i]) for i in (0, 1)], -1)
        parts.append(np.stack([points[:-1], points[1:]], 1))
    return np.concatenate(parts)


def _dots(strokes: list[np.ndarray], spacing: float = 0.45) -> np.ndarray:
    """The figure as dots: segments of length 0, repeated to fill the table."""
    length = sum(np.hypot(*np.diff(s, axis=0).T).sum() for s in strokes)
    number = min(SEGMENTS, max(4, int(np.ceil(length / spacing))))
    dots = _resample(strokes, number).mean(1, keepdims=True).repeat(2, 1)
    return np.resize(dots, (SEGMENTS, 2, 2))


def _templates() -> np.ndarray:
    """Segments of every class, [manner figure SEGMENTS 2 2]; a twin is its half."""
    solid = [_resample(s, SEGMENTS) for s in FIGURES.values()]
    dotted = [_dots(s) for s in FIGURES.values()]
    twin = [np.tile(_resample(s, SEGMENTS // 2), (2, 1, 1)) for s in FIGURES.values()]
    return np.array([solid, dotted, solid, twin])


TEMPLATES = _templates()


def _apart(rng: np.random.Generator, number: int) -> np.ndarray:
    """Where the two halves of a twin lie, beside or above each other: [B S 1 2]."""
    side = np.where(np.arange(SEGMENTS) < SEGMENTS // 2, -1.0, 1.0)[None, :, None, None]
    stacked = rng.random((number, 1, 1, 1)) < 0.5
    both = np.concatenate([side * ~stacked, side * stacked], -1)
    return both * rng.uniform(0.6, 0.72, (number, 1, 1, 1))


def _place(rng: np.random.Generator, segments: np.ndarray, twin: np.ndarray):
    """Segments [B S 2 2] in pixels: warped, slanted, turned, scaled and moved."""
    b = len(segments)
    uniform = lambda low, high, *shape: rng.uniform(low, high, (b, 1, 1, *shape))
    twins = 0.46 * segments + _apart(rng, b)
    p = np.where(twin[:, None, None, None], twins, segments)
    wave = (p[..., ::-1] * uniform(1, 3.2, 2)) + uniform(0, 2 * np.pi, 2)
    p = p + uniform(0, 0.09, 1) * np.sin(wave)
    turn, slant = np.deg2rad(uniform(-12, 12)), uniform(-0.25, 0.25)
    x, y = p[..., 0] + slant * p[..., 1], p[..., 1]
    x, y = x * uniform(0.75, 1.1), y * uniform(0.85, 1.1)
    x, y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    scale = SIZE * uniform(0.24, 0.4)
    p = np.stack([x, y], -1) * scale[..., None]
    return p + SIZE / 2 + uniform(-3, 3, 2)


def _distance(segments: np.ndarray) -> np.ndarray:
    """From every pixel's centre to the nearest segment, [B SIZE SIZE], in pixels."""
    segments = segments.astype(np.float32)
    start, along = segments[:, :, 0], segments[:, :, 1] - segments[:, :, 0]
    square = (along**2).sum(-1) + 1e-6
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    best = np.full((len(segments), SIZE, SIZE), np.inf, np.float32)
    for i in range(segments.shape[1]):
        (x, y), (ax, ay) = (v[:, i].T[..., None, None] for v in (start, along))
        x, y = grid[None, None] - x, grid[None, :, None] - y
        t = np.clip((x * ax + y * ay) / square[:, i, None, None], 0, 1)
        np.minimum(best, (x - t * ax) ** 2 + (y - t * ay) ** 2, out=best)
    return np.sqrt(best)


def _ink(rng: np.random.Generator, distance: np.ndarray, manner: np.ndarray):
    """How much ink a pixel holds, [B SIZE SIZE] in [0, 1]; widths in pixels."""
    uniform = lambda low, high: rng.uniform(low, high, (len(distance), 1, 1))
    soft, width = uniform(0.25, 1.1), uniform(0.7, 2.6)
    soft = np.where(rng.random(soft.shape) < 0.6, 0.3, soft)
    manner = manner[:, None, None]
    dotted, hollow, twin = (manner == i for i in range(1, len(MANNERS)))
    width = np.where(dotted, uniform(0.9, 1.5), np.where(twin, width * 0.6, width))
    distance = np.where(hollow, np.abs(distance - uniform(1.5, 2.2)), distance)
    width = np.where(hollow, uniform(0.45, 0.7), width)
    soft = np.where(hollow | dotted, np.minimum(soft, 0.45), soft)
    return 1 / (1 + np.exp(np.clip((distance - width) / soft, -30, 30)))


def inked(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """How much ink of each label's figure a pixel holds, [B SIZE SIZE] in [0, 1]."""
    manner, figure = np.divmod(labels, len(FIGURES))
    twin = manner == MANNERS.index("twin")
    places = _place(rng, TEMPLATES[manner, figure], twin)
    return _ink(rng, _distance(places), manner)


def ground(rng: np.random.Generator, number: int) -> np.ndarray:
    """Slow waves of light, [B SIZE SIZE 1] in [-1, 1]."""
    angle = rng.uniform(0, 2 * np.pi, (number, 1, 1))
    period = rng.uniform(8, 60, (number, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE]
    along = (x * np.cos(angle) + y * np.sin(angle)) / period
    return np.sin(2 * np.pi * (along + rng.random((number, 1, 1))))[..., None]


def _render(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Images of the labels [B]: ink on a ground, either of them the lighter."""
    ink, b = inked(rng, labels), len(labels)
    uniform = lambda low, high, *shape: rng.uniform(low, high, (b, 1, 1, *shape))
    grey, dark, plain = (rng.random((b, 1, 1, 1)) < p for p in (0.5, 0.35, 0.4))
    low, high = uniform(0, 0.35, 3), uniform(0.55, 1, 3)
    low = np.where(grey, low[..., :1], low) * ~plain
    high = np.where(grey, high[..., :1], high)
    low = low + uniform(0, 0.15, 1) * ground(rng, b) * ~plain
    light = low + (high - low) * ink[..., None]
    light = np.where(dark, 1 - light, light)
    light = light + rng.normal(size=light.shape) * uniform(0, 0.08, 1) * ~plain
    return np.round(255 * np.clip(light, 0, 1)).astype(np.uint8)


def draw(rng: np.random.Generator, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [number 32 32 3] and labels int32 [number], classes in equal shares.

    Raises ValueError unless `number` is a multiple of the number of classes.
    """
    if number <= 0 or number % len(CLASSES):
        raise ValueError(
            f"number is {number}: expected a positive multiple of {len(CLASSES)}, "
            "so that every class has the same share"
        )
    labels = rng.permutation(np.arange(number, dtype=np.int32) % len(CLASSES))
    return drawn(rng, labels), labels


def drawn(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Images uint8 [B 32 32 3] of the given labels [B]."""
    parts = [_render(rng, labels[i : i + 256]) for i in range(0, len(labels), 256)]
    return np.concatenate(parts)
