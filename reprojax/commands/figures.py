"""Pictures for a page: PNGs as data URIs, each plot for light and for dark readers."""

import io
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np


class Theme(NamedTuple):
    """Colours of a plot that lies on the page's own background."""

    ink: str
    faint: str
    accent: str
    lines: tuple[str, ...]
    """Of the baselines; no two that are told apart by red and green alone."""
    diverging: str


LIGHT = Theme(
    "#23272e",
    "#c3c9d1",
    "#1f5fa8",
    ("#b3541e", "#6a51a3", "#1b7f79", "#8a6d00", "#a3326f", "#5b6470"),
    "RdBu_r",
)
DARK = Theme(
    "#dfe3e8",
    "#4a515b",
    "#6db1ff",
    ("#f0985f", "#b8a2f2", "#58c9bf", "#e0bf4a", "#f08cc0", "#a3adb9"),
    "berlin",
)


def data_uri(png: bytes) -> str:
    """A PNG inside the page itself."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def png(pixels: np.ndarray) -> bytes:
    """An image [h w 3] or [h w 4], uint8 or floats clipped to [0, 1], as a PNG file."""
    from PIL import Image

    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return out.getvalue()


def picture(pixels: np.ndarray, alt: str) -> str:
    """An image of few pixels, which the page enlarges without smoothing."""
    height, width = pixels.shape[:2]
    return (
        f'<img class="pixels" src="{data_uri(png(pixels))}" alt="{escape(alt)}" '
        f'width="{width}" height="{height}">'
    )


def rgb(image: np.ndarray) -> np.ndarray:
    """[h w 1] or [h w 3] as [h w 3]."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def grey_is_none(signed: np.ndarray, most: float) -> np.ndarray:
    """Signed [h w 3] as colours: grey is 0, black and full colour are -+ most."""
    return 0.5 + signed / (2 * most) if most > 0 else np.full(signed.shape, 0.5)


def with_hole(picture: np.ndarray) -> np.ndarray:
    """[h w 3] with NaN where nothing is, as [h w 4] that is transparent there."""
    there = ~np.isnan(picture).any(-1, keepdims=True)
    return np.concatenate([np.nan_to_num(picture), there], axis=-1)


def plot(
    draw: Callable[[Any, Theme], None], width: float, height: float, alt: str
) -> str:
    """draw(figure, theme) in inches, as a <picture> that follows the reader's theme."""
    light, dark = (data_uri(_render(draw, width, height, t)) for t in (LIGHT, DARK))
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img class="plot" src="{light}" alt="{escape(alt)}" '
        f'width="{round(100 * width)}" height="{round(100 * height)}"></picture>'
    )


def _render(
    draw: Callable[[Any, Theme], None], width: float, height: float, theme: Theme
) -> bytes:
    import matplotlib
    from matplotlib.figure import Figure
    from PIL import Image

    ink = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    faint = ("axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    style: dict[Any, Any] = dict.fromkeys(ink, theme.ink)
    style |= dict.fromkeys(faint, theme.faint)
    style |= {"axes.spines.top": False, "axes.spines.right": False, "font.size": 10}
    out = io.BytesIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure, theme)
        figure.savefig(out, format="png", dpi=200, transparent=True)
    palette = Image.open(out).quantize(256, Image.Quantize.FASTOCTREE)
    small = io.BytesIO()  # a third of the bytes
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def curve(
    values: np.ndarray, label: str, baselines: Mapping[str, float], alt: str
) -> str:
    """Values [seeds epochs]: one thin line each, their mean thick, baselines dashed."""

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        epochs = np.arange(1, values.shape[1] + 1)
        marker = "o" if len(epochs) == 1 else None
        for row in values if len(values) > 1 else ():
            axes.plot(epochs, row, color=theme.accent, alpha=0.35, linewidth=1)
        axes.plot(epochs, values.mean(0), color=theme.accent, lw=2.2, marker=marker)
        for i, (name, value) in enumerate(_descending(baselines)):
            color = theme.lines[i % len(theme.lines)]
            text = f"{plain(name)}  {value:.3f}"
            axes.axhline(value, color=color, ls="--", lw=1.3, label=text)
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", linewidth=0.6, alpha=0.6)
        if baselines:
            figure.legend(loc="outside lower left", frameon=False, fontsize=9)

    return plot(draw, 4.4, 2.9 + 0.21 * len(baselines), alt)


class Line(NamedTuple):
    """Values [N] over x, with how far each may be off."""

    name: str
    y: np.ndarray
    half: np.ndarray | None = None
    """Half widths of intervals."""
    dashed: bool = False
    """Of controls and bounds."""


def lines(
    x: Sequence[float],
    drawn: Sequence[Line],
    labels: tuple[str, str],
    alt: str,
    *,
    shaded: tuple[float, float] | None = None,
) -> str:
    """Lines over evenly spaced x, the first in the accent colour.

    Args:
        labels: of x and y.
        shaded: where a part of x is set off, in x's own numbers.
    """

    def draw(figure: Any, theme: Theme) -> None:
        axes, at = figure.add_subplot(), np.arange(len(x))
        for i, one in enumerate(drawn):
            color = theme.lines[(i - 1) % len(theme.lines)] if i else theme.accent
            style = {"ls": "--", "lw": 1.3} if one.dashed else {"lw": 2.2}
            axes.plot(at, one.y, color=color, label=plain(one.name), **style)
            if one.half is not None:
                low, high = one.y - one.half, one.y + one.half
                axes.fill_between(at, low, high, color=color, alpha=0.15, lw=0)
        if shaded is not None:
            ends = np.interp(shaded, x, at)
            axes.axvspan(*ends, color=theme.faint, alpha=0.35, lw=0)
        axes.set_xticks(at, [f"{value:g}" for value in x])
        axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(-0.03, 1.03))
        axes.grid(axis="y", linewidth=0.6, alpha=0.6)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9, ncols=2)

    return plot(draw, 5.6, 3.5 + 0.21 * ((len(drawn) + 1) // 2), alt)


def _descending(baselines: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(baselines.items(), key=lambda pair: -pair[1])


def plain(text: str) -> str:
    """A text that matplotlib shall not read as a formula."""
    return text.replace("$", r"\$")


def heat(
    values: np.ndarray, x: str, y: str, bar: str, alt: str, *, square: bool = False
) -> str:
    """Signed values [h w] on a scale that diverges from 0, with its bar."""
    wide = 4.4
    height = 3.6 if square else min(1.6 + 0.13 * len(values), 9.0)

    def draw(figure: Any, theme: Theme) -> None:
        axes = figure.add_subplot()
        most = max(float(np.abs(values).max()), 1e-12)
        shown = axes.imshow(
            values,
            cmap=theme.diverging,
            vmin=-most,
            vmax=most,
            aspect="equal" if square else "auto",
            interpolation="nearest",
        )
        axes.set(xlabel=x, ylabel=y)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        bars = figure.colorbar(shown, ax=axes, label=bar, shrink=0.9)
        bars.outline.set_visible(False)

    return plot(draw, wide, height, alt)
