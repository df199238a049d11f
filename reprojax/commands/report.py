"""One offline page about a run: the table, the curves, the pictures, the label map."""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reprojax.commands import figures
from reprojax.commands.page import (
    captioned,
    command_line,
    plain_table,
    results,
    verdict_box,
    write_page,
)
from reprojax.commands.pictures import Images


class RunReport(NamedTuple):
    """What the page shows. Texts are plain; the page escapes them."""

    title: str
    command: str
    """The command line that made the run."""
    verdict: list[str]
    """What the table means, a sentence each."""
    use: str
    """The command line that uses the program to take; empty where none is kept."""
    description: str
    """The table of coordinates, as `str(describe(...))` prints it."""
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    """The program's own line first, its controls behind it."""
    notes: list[str]
    """Sentences below the table."""
    curves: np.ndarray
    """[seeds epochs 2]: mean training loss, validation accuracy."""
    baselines: Mapping[str, float]
    """{control: validation accuracy}."""
    images: Images
    """As `pictures` gives them."""
    prompt: np.ndarray | None
    """[H W 3] signed; or in [0, 1] with NaN where the image stands."""
    classes: list[tuple[str, ...]]
    """As `pictures.by_class` gives them."""
    mistakes: list[tuple[str, np.ndarray]]
    """As `pictures.mistakes` gives them."""
    shown: str
    """Which of the programs the pictures and the accuracies of classes are of."""
    label_map: np.ndarray | None
    """[S T]"""
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    settings: list[tuple[str, str]]
    """(name, value) of settings, sizes and versions."""


def write_report(path: Path, report: RunReport) -> None:
    """The page of a program for images."""
    write_page(path, report.title, _sections(report))


def _sections(report: RunReport) -> list[str]:
    return [
        f"<h1>{escape(report.title)}</h1>",
        verdict_box(report.verdict, report.use),
        results(report.header, report.rows, report.notes),
        _classes(report),
        _examples(report.images, report.prompt),
        _prompt(report.prompt),
        _curves(report.curves, report.baselines),
        _label_map(report),
        "<h2>The program</h2>\n<p class='soft'>Its coordinates (format, location, "
        "operator &rarr; alignment) were observed by running each part alone.</p>\n"
        f"<pre>{escape(report.description)}</pre>",
        "<h2>Settings, sizes and versions</h2>\n"
        f"{command_line(report.command)}\n"
        + plain_table(("setting", "value"), report.settings),
    ]


def _classes(report: RunReport) -> str:
    if not report.classes:
        return ""
    header = ("test", "class", "images", "often taken for")
    few = len(report.classes) < len(report.targets)
    which = "The classes with the lowest accuracy" if few else "Accuracy of each class"
    text = (
        f"<h2>Classes and mistakes</h2>\n<p class='soft'>{which}, {report.shown}.</p>\n"
        + plain_table(header, report.classes)
    )
    if not report.mistakes:
        return text + "\n<p class='soft'>It makes no mistake on the test images.</p>"
    cards = [
        (figures.picture(figures.rgb(image), f"Test image, {caption}"), caption)
        for caption, image in report.mistakes
    ]
    return (
        f"{text}\n<p class='soft'>Test images that it gets wrong:</p>\n"
        f'<div class="mistakes">{captioned(cards)}</div>'
    )


def _curves(curves: np.ndarray, baselines: Mapping[str, float]) -> str:
    seeds, epochs, _ = curves.shape
    loss, accuracy = curves[..., 0], curves[..., 1]
    thin = f"{seeds} seeds thin, their mean thick" if seeds > 1 else "one seed"
    ends = f"from {accuracy[:, 0].mean():.3f} to {accuracy[:, -1].mean():.3f}"
    falls = f"from {loss[:, 0].mean():.3g} to {loss[:, -1].mean():.3g}"
    over = f"over {epochs} epochs" if epochs > 1 else "in one epoch"
    beside = "; dashed, the controls" if baselines else ""
    plots = (
        (
            figures.curve(
                accuracy,
                "validation accuracy",
                baselines,
                f"Validation accuracy {over}, on average {ends}",
            ),
            f"Validation accuracy {over}: {thin}, {ends}{beside}.",
        ),
        (
            figures.curve(loss, "training loss", {}, f"Training loss {over}, {falls}"),
            f"Training loss, the mean over an epoch's steps: {thin}, {falls}.",
        ),
    )
    return f'<h2>Training</h2>\n<div class="pair">{captioned(plots)}</div>'


def _examples(images: Images, prompt: np.ndarray | None) -> str:
    if not images:
        return ""
    most = max(float(np.abs(difference).max()) for *_, difference in images)
    framed = prompt is not None and bool(np.isnan(prompt).any())
    moved = most > 1e-4 and not framed  # in a frame the image itself stands elsewhere
    cards = []
    for caption, target, network, difference in images:
        parts = [
            figures.picture(figures.rgb(target), f"Target image, {caption}"),
            figures.picture(network, f"What the network gets, {caption}"),
        ]
        if moved:
            grey = figures.grey_is_none(difference, most)
            parts.append(figures.picture(grey, f"What the prompt changed, {caption}"))
        cards.append((f'<div class="three">{"".join(parts)}</div>', caption))
    rest = "which is the image alone: this program acts inside the network."
    if framed:
        rest = "in the learned frame."
    if moved:
        rest = (
            "and what the prompt changed: grey is no change, black and full colour are "
            f"&minus;{most:.2g} and +{most:.2g} of the range of a pixel."
        )
    return (
        "<h2>What the network sees</h2>\n<p class='soft'>For each test image: as it "
        f"comes, as the network gets it (resized, normalisation undone), {rest}</p>\n"
        f'<div class="examples">{captioned(cards)}</div>'
    )


def _prompt(prompt: np.ndarray | None) -> str:
    if prompt is None:
        return ""
    if np.isnan(prompt).any():
        shown = [_frame(prompt)]
    else:
        shown = _signed(prompt)
    images = captioned(shown)
    return f'<h2>The learned prompt</h2>\n<div class="pair prompt">{images}</div>'


def _frame(prompt: np.ndarray) -> tuple[str, str]:
    alt = "The learned frame, in colour, with a chequered hole for the image"
    image = figures.picture(figures.with_hole(prompt), alt)
    text = "The learned frame as the network gets it. The image stands in the hole."
    return f'<div class="hole">{image}</div>', text


def _signed(prompt: np.ndarray) -> list[tuple[str, str]]:
    most = float(np.abs(prompt).max())
    grey = figures.grey_is_none(prompt, most)
    text = (
        f"In colour: grey is 0, black and full colour are −{most:.2g} and +{most:.2g} "
        "of the range of a pixel."
    )
    alt = "The learned prompt, mean of its channels, with a scale"
    mean, bar = prompt.mean(-1), "mean of the channels"
    return [
        (figures.picture(grey, "The learned prompt in colour"), text),
        (
            figures.heat(mean, "pixel", "pixel", bar, alt, square=True),
            "The same, as the mean of the three channels.",
        ),
    ]


def _label_map(report: RunReport) -> str:
    if report.label_map is None:
        return ""
    weights = np.asarray(report.label_map, np.float64)
    chosen, which = _chosen(weights)
    most = max(float(np.abs(weights[chosen]).max()), 1e-12)
    annotate = len(chosen) * len(report.targets) <= 600
    long = ' class="long"' if max(map(len, report.targets)) > 4 else ""
    head = "".join(
        f'<th scope="col"{long}><span>{escape(_short(name))}</span></th>'
        for name in report.targets
    )
    lines = "\n".join(
        f'<tr><th scope="row" title="{escape(report.sources[s])}">'
        f"{escape(_short(report.sources[s]))}</th>"
        + "".join(_cell(v, most, annotate) for v in weights[s])
        + "</tr>"
        for s in chosen
    )
    return (
        "<h2>The label map</h2>\n<p class='soft'>How much each of the network's own "
        f"classes (rows; {len(chosen)} of {len(weights)}, {which}) counts for each "
        f"class of the task (columns). The largest weight is {most:.2g}.</p>\n"
        '<div class="scroll"><table class="map">\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n"
        "</table></div>"
    )


def _chosen(weights: np.ndarray) -> tuple[np.ndarray, str]:
    """Which source classes are shown, in the order of the targets that they serve."""
    sources, targets = weights.shape
    size, rows, which = np.abs(weights), np.arange(sources), "all"
    if sources > 24:
        top = 3 if targets <= 20 else 1
        which = f"the {top} largest" if top > 1 else "the largest"
        which += " of each column"
        largest = np.argsort(-size, axis=0, kind="stable")[:top]
        rows = np.unique([s for s in largest.ravel() if size[s].any()]).astype(int)
    serves = size[rows].argmax(1)
    return rows[np.lexsort((-size[rows].max(1), serves))], which


def _cell(value: float, most: float, annotate: bool) -> str:
    share = abs(value) / most
    kinds = [k for k, on in (("minus", value < 0), ("strong", share > 0.6)) if on]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    shown = annotate and abs(value) >= 0.005
    text = re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}") if shown else ""
    return f'<td{kind} style="--v:{share:.3f}" title="{value:.4g}">{text}</td>'


def _short(name: str, most: int = 28) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
