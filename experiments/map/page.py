"""The map as one offline page, and its runs as a CSV file.

    python -m experiments.map.page --folder runs/map
    python -m experiments.map.page --folder runs/map --picture docs/images/map.png

The folder may be one that is still being filled: cells that are not measured yet show
"…". `report.html` and `map.csv` are written into it.
"""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path

from experiments import sweep
from experiments.map import plots, sentences
from experiments.map.outcomes import STRONG, Board, Spot, as_csv, boards
from experiments.map.panels import PICTURES, panel
from experiments.map.plots import slug
from reprojax.commands.outputs import command
from reprojax.commands.page import write_page
from reprojax.saving.files import write_file
from reprojax.taxonomy import FORMATS, LOCATIONS, OMEGAS, OPERATORS, Cell

TITLE = "The map: 72 ways to reprogram a frozen model"


@dataclass(frozen=True)
class Config:
    """Which run is shown."""

    folder: Path
    """The run's folder, of `python -m experiments.taxonomy_map`."""
    picture: Path | None = None
    """Where the heat maps of all tasks are kept as one PNG."""


def write(
    folder: Path, found: Mapping[str, sweep.Outcome], *, plotted: bool = True
) -> None:
    """Write `report.html` and `map.csv` of what has been measured so far.

    Args:
        plotted: False leaves the trade-off plots out, which take most of the time.
    """
    sorted_ = boards(found)
    text = as_csv(sorted_)
    write_file(folder / "map.csv", text.encode())
    write_page(
        folder / "report.html", TITLE, [*_sections(sorted_, text, plotted)], STYLE
    )


def _sections(given: Sequence[Board], text: str, plotted: bool) -> Iterator[str]:
    lines = [sentences.overview(given), *map(sentences.verdict, given)]
    yield f"<h1>{escape(TITLE)}</h1>"
    yield f'<div class="verdict">{_paragraphs(lines)}</div>'
    if not given:
        return
    yield _paragraphs([sentences.CAUTION], "soft")
    if picks := [line for line in map(sentences.picked, given) if line]:
        inner = _paragraphs(picks)
        yield f"<details><summary>What validation picks</summary>{inner}</details>"
    yield f"<h2>Accuracy of the cells</h2>\n{KEY}"
    yield f'<div class="maps">{"".join(map(_heat, given))}</div>'
    if plotted:
        yield "<h2>What accuracy costs</h2>\n" + _paragraphs([LEGEND], "soft")
        yield from map(_plots, given)
    yield f"<h2>All runs</h2>\n{_download(text)}"
    shown = [(b, [*b.cells.values(), *b.controls]) for b in given]
    spots = [(spot, board) for board, own in shown for spot in own if spot.outcome]
    pictures = sum(len(spot.value.get("pictures") or ()) for spot, _ in spots)
    most = max(3000, PICTURES // max(1, pictures))
    yield "\n".join(panel(spot, board, most) for spot, board in spots)


def _paragraphs(lines: Sequence[str], kind: str = "") -> str:
    own = f' class="{kind}"' if kind else ""
    return "\n".join(f"<p{own}>{escape(_whole(line))}</p>" for line in lines)


def _whole(line: str) -> str:
    """With "±" on the line of its numbers."""
    return line.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")


def _download(text: str) -> str:
    code = b64encode(text.encode()).decode()
    rows = text.count("\n") - 1
    return (
        f'<p><a download="map.csv" href="data:text/csv;charset=utf-8;base64,{code}">'
        f"Download map.csv</a>: a row for each run, {rows:,} rows.</p>"
    )


def _plots(board: Board) -> str:
    drawn = [plots.trade_off(board, axis) for axis in plots.AXES]
    inner = "".join(part for part in (*drawn, plots.by_examples(board)) if part)
    return (
        f"<h3>{escape(board.bench)}</h3>\n<div class='pair'>{inner}</div>"
        if inner
        else ""
    )


# -- the heat maps


def _heat(board: Board) -> str:
    head = "".join(f'<th scope="col">{omega}</th>' for omega in OMEGAS)
    bodies = "\n".join(_block(board, name) for name in FORMATS)
    low, high = board.span
    return (
        f'<section class="bench"><h3>{escape(board.bench)}</h3>\n'
        f'<p class="soft">{escape(board.about)} '
        f'Palest {low:.3f}, darkest {high:.3f}.</p>\n<table class="heat">\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n{bodies}\n{_controls(board)}\n"
        f"</table>\n{_reasons(board)}</section>\n"
    )


def _block(board: Board, configuration: str) -> str:
    best = next(iter(board.ranked), None)
    lines = "\n".join(
        f'<tr><th scope="row">{" ".join(at)}</th>'
        + "".join(
            _td(board.cells[Cell(configuration, *at, omega)], board, best)
            for omega in OMEGAS
        )
        + "</tr>"
        for at in product(LOCATIONS, OPERATORS)
    )
    return f"<tbody>\n{_over(configuration)}\n{lines}\n</tbody>"


def _over(name: str) -> str:
    wide = f'colspan="{len(OMEGAS) + 1}" scope="rowgroup"'
    return f'<tr><th class="over" {wide}>{name}</th></tr>'


def _controls(board: Board) -> str:
    """Without a prompt by alignment, and a row for each other control."""
    bare = {s.name.removeprefix("no-prompt-"): s for s in board.controls}
    bare = {name: s for name, s in bare.items() if name in OMEGAS}
    rows = []
    if bare:
        cells = [_td(bare[o], board) if o in bare else "<td></td>" for o in OMEGAS]
        rows.append(f'<tr><th scope="row">no prompt</th>{"".join(cells)}</tr>')
    rows += [
        f'<tr><th scope="row" colspan="{len(OMEGAS)}">{escape(spot.title)}</th>'
        f"{_td(spot, board)}</tr>"
        for spot in board.controls
        if spot not in bare.values()
    ]
    inner = "\n".join(rows)
    return f"<tbody>\n{_over('controls')}\n{inner}\n</tbody>" if rows else ""


def _td(spot: Spot, board: Board, best: Spot | None = None) -> str:
    value = board.shade(spot)
    kinds = ["strong"] if value > STRONG else []
    kinds += ["best"] if spot is best else []
    if not spot.counts:
        kinds.append("none")
    half = spot.mean.half
    off = f"<small>±{half:.3f}</small>".replace("±0.", "±.") if half == half else ""
    text = f"<b>{spot.short}</b>{off}"
    name, kind = escape(slug(spot)), " ".join(kinds)
    if spot.outcome is not None:
        text = f'<a href="#{name}" title="{escape(spot.title)}">{text}</a>'
    return f'<td id="at.{name}" class="{kind}" style="--v:{value:.3f}">{text}</td>'


def _reasons(board: Board) -> str:
    """The sentences of impossible cells, and the messages of failed ones."""
    spots = [*board.cells.values(), *board.controls]
    said = {(s.short, s.message) for s in spots if s.state in ("impossible", "failed")}
    return _paragraphs([f"{mark}: {why}" for mark, why in sorted(said)], "soft")


KEY = (
    '<p class="soft">Test accuracy, and half of its 95 % interval. Columns say how the '
    "model's answer becomes the task's; rows whether the prompt is learned, where it "
    "stands and how it meets what is there. The best cell of a task has a border. “…”: "
    "not measured yet. “—”: no program can stand there. Open a cell for its runs, its "
    "program and its pictures.</p>"
)
LEGEND = (
    "Filled: learnable prompts. Hollow: fixed ones. Shape and colour: the alignment. "
    "The line joins what nothing measured equals for less; its points have numbers."
)
STYLE = Path(__file__).with_suffix(".css").read_text()


def main(config: Config) -> None:
    """Write the page and the table of runs, and say where."""
    found = sweep.finished(config.folder)
    write(config.folder, found)
    print(f"{config.folder / 'report.html'} and {config.folder / 'map.csv'}")
    if config.picture is not None:
        given = boards(found)
        if not given:
            raise ValueError(
                f"{config.folder} has no finished cell yet, expected at least one for "
                "--picture"
            )
        plots.write_picture(config.picture, given)
        print(config.picture)


if __name__ == "__main__":
    command(main, Config)
