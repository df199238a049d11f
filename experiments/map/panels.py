"""What a cell of the page opens: its runs, its choice, its program, its pictures."""

import io
import struct
from base64 import b64decode, b64encode
from functools import lru_cache
from html import escape

from experiments.map.outcomes import Board, Spot, flat
from experiments.map.plots import slug
from reprojax.commands.intervals import mean_of
from reprojax.commands.page import captioned, plain_table

PICTURES = 2_200_000  # characters, for all pictures of a page


def panel(spot: Spot, board: Board, most: int) -> str:
    """A section that shows when its link is followed.

    Args:
        most: characters that each picture may take.
    """
    parts = [_said(spot, board)]
    if spot.runs:
        parts += [_chosen(spot), _runs(spot), _measures(spot), _pictures(spot, most)]
        parts += [_others(spot, board), _program(spot)]
    body = "\n".join(part for part in parts if part)
    name = escape(slug(spot))
    title = escape(f"{spot.bench}: {spot.title}")
    return (
        f'<section class="panel" id="{name}" aria-label="{title}">\n'
        f'<a class="close" href="#at.{name}">close ×</a>\n<h3>{title}</h3>\n{body}\n'
        "</section>"
    )


def _said(spot: Spot, board: Board) -> str:
    words = {"failed": "The job failed: ", "impossible": "No program can stand here. "}
    if not spot.runs:
        return f"<p>{escape(words[spot.state] + spot.message)}</p>"
    lost = sum(number != number for number in spot.of_runs("test"))
    text = f"Test accuracy {spot.mean}, the mean of {len(spot.runs)} seeds."
    if lost:
        text = f"{lost} of {len(spot.runs)} runs diverged, so there is no mean."
    control = board.strongest()
    if control is not None and control is not spot and spot.counts:
        text += f" The difference to {control.title} is {spot.over(control).interval}."
    return f"<p>{escape(text)}</p>"


def _chosen(spot: Spot) -> str:
    value, said = spot.value, []
    if value.get("candidate", "learned") != "learned":
        said.append(f"Candidate: {value['candidate']}")
    if (rate := value.get("rate")) is not None:
        said.append(f"Learning rate: {rate:g}")
    elif "rate" in value:
        said.append("Nothing is learned by gradients")
    compared = value.get("validation") or {}
    if not said and not compared:
        return ""
    rows = [(name, f"{score:.3f}") for name, score in compared.items()]
    head = ("compared on validation, by other seeds", "accuracy")
    text = "".join(f"<p>{escape(line)}.</p>" for line in said)
    return f"<h4>What was chosen</h4>\n{text}{plain_table(head, rows) if rows else ''}"


def _runs(spot: Spot) -> str:
    """Numbers by seed, a row for each kind: few columns fit a phone."""
    runs = [flat(run) for run in spot.runs]
    names = [n for n in dict.fromkeys(n for run in runs for n in run) if n != "seed"]
    rows = []
    for name in names:
        every = [run.get(name, float("nan")) for run in runs]
        mean = mean_of(every)
        both = (_number(mean.value), _number(mean.half))
        rows.append((name, *both, *map(_number, every)))
    seeds = (f"seed {run['seed']:g}" for run in runs)
    return f"<h4>Runs</h4>\n{plain_table(('', 'mean', '±', *seeds), rows)}"


def _number(value: float) -> str:
    if value != value:
        return "–"
    return f"{value:.3f}".removeprefix("0") if value < 1000 else f"{value:,.0f}"


def _measures(spot: Spot) -> str:
    value = spot.value
    names = {
        "prompt": "learnable numbers of the prompt",
        "alignment": "learnable numbers of the alignment",
        "bytes": "bytes of all that is stored",
    }
    rows = [(t, f"{value[n]:,}") for n, t in names.items() if value.get(n) is not None]
    if both := value.get("operations"):
        rows.append(("operations of an answer", _beside(both, "{:,.0f}", 1)))
    if both := value.get("latency"):
        rows.append(("milliseconds of a batch", _beside(both, "{:.3g}", 1000)))
    if (tokens := value.get("tokens")) is not None:
        rows.append(("tokens that the last block computes an answer", f"{tokens:.1f}"))
    inner = "".join(f"<li>{escape(f'{name}: {text}')}</li>" for name, text in rows)
    return f"<h4>Size and time</h4>\n<ul>{inner}</ul>" if rows else ""


def _others(spot: Spot, board: Board) -> str:
    others = board.by_examples(spot.name) if spot.cell else []
    if len(others) < 2:
        return ""
    rows = [(f"{s.examples:,}", str(s.mean)) for s in others]
    table = plain_table(("training examples", "test accuracy"), rows)
    return f"<h4>Other numbers of examples</h4>\n{table}"


def _beside(both: dict[str, float], form: str, unit: float) -> str:
    own, bare = (form.format(unit * both[name]) for name in ("program", "bare"))
    ratio = f" ({both['program'] / both['bare']:.3f}×)" if both["bare"] else ""
    return f"{own}{ratio}; of the bare model {bare}"


def _program(spot: Spot) -> str:
    sites = spot.value.get("sites")
    return f"<h4>The program</h4>\n<pre>{escape(sites)}</pre>" if sites else ""


def _pictures(spot: Spot, most: int) -> str:
    pairs = spot.value.get("pictures") or []
    shown = [(_image(smaller(code, most), text), text) for text, code in pairs]
    if not shown:
        return ""
    return f'<h4>Pictures</h4>\n<div class="mistakes">{captioned(shown)}</div>'


def _image(code: str, text: str) -> str:
    width, height = size(b64decode(code))
    kind = "pixels" if max(width, height) <= 256 else "plot"
    return (
        f'<img class="{kind}" src="data:image/png;base64,{escape(code)}" '
        f'alt="{escape(text)}" width="{width}" height="{height}">'
    )


def size(png: bytes) -> tuple[int, int]:
    """Width and height, from a PNG's head."""
    return struct.unpack(">II", png[16:24])


@lru_cache(maxsize=4096)
def smaller(code: str, most: int) -> str:
    """A PNG in base64, with fewer colours and pixels until it has `most` characters."""
    from PIL import Image

    while len(code) > most:
        image = Image.open(io.BytesIO(b64decode(code)))
        if image.mode == "P":
            if min(image.size) < 32:
                break
            image = image.convert("RGBA").resize([max(1, n // 2) for n in image.size])
        out = io.BytesIO()
        image.convert("RGBA").quantize(64).save(out, "PNG", optimize=True)
        code = b64encode(out.getvalue()).decode()
    return code
