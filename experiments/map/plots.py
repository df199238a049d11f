"""Plots of the map: trade-offs, numbers of examples, and all heat maps as one PNG."""

import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.map.outcomes import STRONG, Board, Spot
from reprojax.commands import figures
from reprojax.commands.figures import LIGHT, Theme
from reprojax.saving.files import write_file
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell

MARKERS: dict[str, str] = dict(zip(OMEGAS, "os^D", strict=True))
Way = tuple[int, int, str, str]  # of a text from its point: offsets and alignments
AROUND: list[Way] = [(5, -3, "left", "top"), (-5, 3, "right", "bottom")]
AROUND += [(5, 3, "left", "bottom"), (-5, -3, "right", "top")]
AROUND += [(0, 8, "center", "bottom"), (0, -8, "center", "top")]


class Axis(NamedTuple):
    """What accuracy is weighed against."""

    title: str
    label: str
    of: Callable[[dict[str, Any]], float | None]
    """Of a job's value; None where it was not measured."""
    scale: str
    text: Callable[[float], str]


def _ratio(name: str) -> Callable[[dict[str, Any]], float | None]:
    def of(value: dict[str, Any]) -> float | None:
        both = value.get(name)
        return both["program"] / both["bare"] if both and both["bare"] else None

    return of


def _more(value: dict[str, Any]) -> float | None:
    ratio = _ratio("operations")(value)
    return None if ratio is None else 100 * (ratio - 1)


AXES = (
    Axis(
        "stored bytes",
        "bytes that a program stores",
        lambda value: value.get("bytes"),
        "log",
        lambda x: f"{x:,.0f} bytes",
    ),
    Axis(
        "time of an answer",
        "time of an answer, as a multiple of the bare model's",
        _ratio("latency"),
        "linear",
        lambda x: f"{x:.2f}×",
    ),
    Axis(
        "operations of an answer",
        "operations added, in % of the bare model's",
        _more,
        "symlog",
        lambda x: f"{x:+.2g} % operations",
    ),
)


class Point(NamedTuple):
    """A cell or control in a plot."""

    x: float
    y: float
    spot: Spot


def points(spots: Iterable[Spot], axis: Axis) -> list[Point]:
    """Those with both numbers."""
    found = [(axis.of(spot.value), spot) for spot in spots if spot.counts]
    return [Point(float(x), s.mean.value, s) for x, s in found if x is not None]


def front(given: Sequence[Point]) -> list[Point]:
    """Those that no other equals at less cost, from the cheapest."""
    kept: list[Point] = []
    for point in sorted(given, key=lambda p: (p.x, -p.y)):
        if not kept or point.y > kept[-1].y:
            kept.append(point)
    return kept


def trade_off(board: Board, axis: Axis) -> str:
    """A figure, and the list of what lies on its front; "" without points."""
    given = points([*board.cells.values(), *board.controls], axis)
    if not given:
        return ""
    best = front(given)
    alt = f"Accuracy on {board.bench} against {axis.label}, {len(given)} points"
    drawn = figures.plot(
        lambda figure, theme: _scatter(figure, theme, given, best, axis), 5.2, 4.1, alt
    )
    rows = "".join(
        f'<li><a href="#{escape(slug(p.spot))}">{escape(p.spot.title)}</a>: '
        f"{p.y:.3f}, {escape(axis.text(p.x))}</li>"
        for p in best
    )
    return (
        f"<figure>{drawn}<figcaption>Accuracy against {axis.title}. Nothing that was "
        f"measured is as good for less:</figcaption>"
        f'<ol class="front">{rows}</ol></figure>'
    )


def slug(spot: Spot) -> str:
    """The place of a spot on the page."""
    return spot.job.replace("/", ".")


def _colours(theme: Theme) -> dict[str, str]:
    return dict(zip(OMEGAS, (theme.accent, *theme.lines[:3]), strict=True))


def _scatter(
    figure: Any, theme: Theme, given: list[Point], best: list[Point], axis: Axis
) -> None:
    axes = figure.add_subplot()
    for omega, color in _colours(theme).items():
        for learnt in (True, False):
            own = [p for p in given if _is(p.spot, omega, learnt)]
            face = color if learnt else "none"
            style = {"marker": MARKERS[omega], "facecolors": face, "edgecolors": color}
            axes.scatter(*_xy(own), s=26, linewidths=1.1, alpha=0.85, **style)
        axes.scatter([], [], s=26, marker=MARKERS[omega], color=color, label=omega)
    controls = [p for p in given if p.spot.cell is None]
    axes.scatter(*_xy(controls), s=30, marker="x", color=theme.ink, label="control")
    axes.plot(*_xy(best), drawstyle="steps-post", color=theme.faint, lw=1.2, zorder=0)
    if axis.scale == "symlog":
        axes.set_xscale("symlog", linthresh=1)
    elif axis.scale == "log":
        none = any(p.x <= 0 for p in given)
        axes.set_xscale("symlog", linthresh=100) if none else axes.set_xscale("log")
    axes.margins(0.08, 0.1)
    axes.set(xlabel=axis.label, ylabel="test accuracy")
    axes.grid(axis="y", linewidth=0.6, alpha=0.6)
    figure.legend(
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        ncols=5,
        handletextpad=0.1,
        columnspacing=0.9,
    )
    figure.draw_without_rendering()  # places the axes, so that texts have their extent
    _label(axes, theme, best, given)


def _is(spot: Spot, omega: str, learnt: bool) -> bool:
    cell = spot.cell
    return (
        cell is not None
        and cell.omega == omega
        and (cell.format == "learnable") == learnt
    )


def _xy(given: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [p.x for p in given], [p.y for p in given]


def _label(axes: Any, theme: Theme, best: list[Point], given: list[Point]) -> None:
    """Texts beside the front's points: where they cover no text and no point of the
    front, and as few others as can be. Without room it is the number alone."""
    place = lambda points: [axes.transData.transform((p.x, p.y)) for p in points]
    taken, every, own = [], place(given), place(best)
    for i, point in enumerate(best):
        options = []
        for text, way in product((f"{i + 1} {_name(point.spot)}", f"{i + 1}"), AROUND):
            drawn = _text(axes, theme, point, text, way)
            box = drawn.get_window_extent()
            drawn.remove()
            others = own[:i] + own[i + 1 :]
            hits = box.count_overlaps(taken) + sum(box.contains(*p) for p in others)
            outside = box.x0 < axes.bbox.x0 or box.x1 > axes.bbox.x1
            covers = sum(box.contains(*p) for p in every)
            options.append((outside or hits > 0, text.isdigit(), covers, text, way))
        *_, text, way = min(options, key=lambda option: option[:3])
        taken.append(_text(axes, theme, point, text, way).get_window_extent())


def _name(spot: Spot) -> str:
    return " ".join(spot.cell[1:3]) if spot.cell else spot.title.removeprefix("the ")


def _text(axes: Any, theme: Theme, point: Point, text: str, way: Way) -> Any:
    dx, dy, ha, va = way
    drawn = axes.annotate(
        figures.plain(text),
        (point.x, point.y),
        (dx, dy),
        ha=ha,
        va=va,
        textcoords="offset points",
        fontsize=8.5,
        color=theme.ink,
    )
    drawn.set_in_layout(False)
    return drawn


# -- numbers of training examples


def by_examples(board: Board) -> str:
    """Accuracy over the number of training examples; "" if no job varies it."""
    lines: dict[str, list[Spot]] = {}
    for spot in board.examples:
        lines.setdefault(spot.title, board.by_examples(spot.name))
    lines = {title: spots for title, spots in lines.items() if spots}
    if not lines:
        return ""
    alt = f"Accuracy on {board.bench} over the number of training examples"
    drawn = figures.plot(
        lambda figure, theme: _curves(figure, theme, lines), 5.2, 4.1, alt
    )
    return (
        f"<figure>{drawn}<figcaption>Accuracy over the number of training examples, "
        "with 95 % intervals; dashed, fixed prompts and controls.</figcaption></figure>"
    )


def _curves(figure: Any, theme: Theme, lines: dict[str, list[Spot]]) -> None:
    axes = figure.add_subplot()
    ends = sorted(lines.items(), key=lambda pair: pair[1][-1].mean.value)
    for _, spots in ends:
        cell = spots[0].cell
        color = _colours(theme)[cell.omega] if cell else theme.ink
        learnt = cell is not None and cell.format == "learnable"
        means = [spot.mean for spot in spots]
        axes.errorbar(
            [spot.examples for spot in spots],
            [m.value for m in means],
            [np.nan_to_num(m.half) for m in means],
            color=color,
            lw=1.4,
            capsize=2,
            ls="-" if learnt else "--",
            marker=MARKERS[cell.omega] if cell else "x",
            markersize=4.5,
            elinewidth=0.7,
        )
    every = sorted({spot.examples or 0 for spots in lines.values() for spot in spots})
    axes.set_xscale("log")
    axes.set_xticks(every, [f"{n:,}" for n in every])
    axes.minorticks_off()
    axes.set(xlabel="training examples", ylabel="test accuracy")
    axes.grid(axis="y", linewidth=0.6, alpha=0.6)
    low, high = axes.get_ylim()
    room, height = 0.045 * (high - low), -np.inf
    for title, spots in ends:
        end = spots[-1]
        height = max(end.mean.value, height + room)
        axes.annotate(
            figures.plain(title.replace("learnable ", "").removeprefix("the ")),
            (1, end.mean.value),
            (1.03, height),
            fontsize=8,
            va="center",
            xycoords=("axes fraction", "data"),
            color=theme.ink,
            arrowprops={"arrowstyle": "-", "color": theme.faint, "lw": 0.7},
        )


# -- one picture of all


def write_picture(path: Path, boards: Sequence[Board]) -> None:
    """The heat maps of all tasks side by side, as one PNG."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from PIL import Image

    shades = LinearSegmentedColormap.from_list("shades", ["#fdfdfb", LIGHT.accent])
    shades = shades.with_extremes(bad="#ffffff")
    figure = Figure(figsize=(2.2 + 2.5 * len(boards), 6.4), layout="constrained")
    for i, (axes, board) in enumerate(
        zip(figure.subplots(1, len(boards), squeeze=False)[0], boards, strict=True)
    ):
        _heat(axes, board, shades, first=not i)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, facecolor="white")
    small = Image.open(out).convert("RGB").quantize(64)
    out = io.BytesIO()
    small.save(out, "PNG", optimize=True)
    write_file(path, out.getvalue())


def _heat(axes: Any, board: Board, shades: Any, first: bool) -> None:
    from matplotlib.patches import Rectangle

    prompts = list(product(FORMATS, LOCATIONS, OPERATORS))
    rows = [[board.cells[Cell(*at, omega)] for omega in OMEGAS] for at in prompts]
    names = [" ".join(at) for at in prompts]
    grid = np.array([[spot.mean.value for spot in row] for row in rows])
    low, high = board.span
    axes.imshow(grid, cmap=shades, vmin=low, vmax=high, aspect="auto")
    for y, x in np.ndindex(*grid.shape):
        strong = board.shade(rows[y][x]) > STRONG
        color = "white" if strong else LIGHT.ink
        text = rows[y][x].short
        axes.text(x, y, text, ha="center", va="center", fontsize=7.5, color=color)
    best = next(iter(board.ranked), None)
    for y, x in [
        (y, x) for y, row in enumerate(rows) for x in range(4) if row[x] is best
    ]:
        axes.add_patch(
            Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, ec=LIGHT.ink, lw=2)
        )
    axes.axhline(len(grid) / 2 - 0.5, color=LIGHT.ink, lw=0.8)
    control = board.strongest()
    below = f"\n{control.title}: {control.mean.value:.3f}" if control else ""
    axes.set_title(f"{board.bench}{below}", fontsize=9)
    axes.set_xticks(range(len(OMEGAS)), OMEGAS, fontsize=7.5)
    axes.set_yticks(range(len(names)), names if first else [], fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
