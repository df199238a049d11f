"""The table as text and as a page, with some of the images."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments.image_text.methods import Bench, bound, unprompted
from reprojax.commands.page import captioned, plain_table, verdict_box, write_page
from reprojax.data import Task

SHOWN = 12
STYLE = """
.pictures { display: grid; gap: 1rem;
            grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); }
"""


def text(table: Sequence[Mapping[str, str]]) -> str:
    """Columns aligned."""
    header = [*dict.fromkeys(name for row in table for name in row)]
    lines = [header, *([row.get(name, "") for name in header] for row in table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write(
    path: Path,
    bench: Bench,
    task: Task,
    table: Sequence[Mapping[str, str]],
    sentences: Sequence[str],
) -> None:
    """The page: what to think, the table, and images with zero-shot answers."""
    header = [*dict.fromkeys(name for row in table for name in row)]
    # an empty cell leaves a column one of numbers, which do not wrap
    rows = [[row.get(name, "").strip("—") for name in header] for row in table]
    pair, config = bench.pair, bench.config
    about = (
        f"{pair.name} on {task.name}: {config.protocol}, {config.seeds} draws of the "
        "shots, test accuracy after the last epoch with 95 % intervals."
    )
    sections = [
        f"<h1>Prompts of {pair.name}</h1>",
        f"<p>{about}</p>",
        verdict_box(sentences, ""),
        plain_table(header, rows),
        "<h2>Images, and what zero-shot answers among all classes</h2>",
        f'<div class="pictures">{captioned(answers(bench, task))}</div>',
    ]
    write_page(path, f"Prompts of {pair.name}", sections, STYLE)


def answers(bench: Bench, task: Task) -> list[tuple[str, str]]:
    """(image as HTML, caption) of a few test images: zero-shot, by one template."""
    model = bound(bench.pair, task.classes, (bench.config.template,))
    program, params = unprompted(model, task)
    step = max(len(task.test.y) // SHOWN, 1)
    x, y = np.asarray(task.test.x[::step][:SHOWN]), task.test.y[::step][:SHOWN]
    found = np.asarray(jax.jit(program.apply)(params, model.frozen, x).argmax(-1))
    return [
        (_image(image), f"{task.classes[label]}; answered {task.classes[answer]}")
        for image, label, answer in zip(x, y, found, strict=True)
    ]


def _image(pixels: np.ndarray) -> str:
    from PIL import Image

    shown = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    larger, smaller = Image.Resampling.NEAREST, Image.Resampling.LANCZOS
    side = min(max(96, len(pixels)), 192)
    shown = shown.resize((side, side), larger if side > len(pixels) else smaller)
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="" width="96" height="96">'
