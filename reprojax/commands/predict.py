"""Use a kept program: labels and probabilities for a folder of images.

    reprojax predict --program runs/a/seed-0.safetensors --images photos

Writes a line for each image below the folder: its path, the label, the probability of
that, and the probability of every class. Images are cut and resized as in training.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from reprojax import data, models
from reprojax.commands.methods import read_methods
from reprojax.commands.outputs import replaceable
from reprojax.core import Params, Program, PyTree
from reprojax.models import Model, Pixels
from reprojax.recipes import registry
from reprojax.saving import programs
from reprojax.saving.files import printable, write_file
from reprojax.saving.programs import Card

HEAD = ("file", "label", "probability")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601), as PIL's


@dataclass(frozen=True)
class Config:
    """Label a folder of images with a kept program."""

    program: Path
    """What a run left: seed-0.safetensors."""
    images: Path
    """A folder; image files are found at any depth, by their endings."""
    backbone: Annotated[
        str | None,
        tyro.conf.arg(
            help="where the frozen model lies now; without it only an embedded one, or "
            "a path that the program names, is used, and nothing is downloaded"
        ),
    ] = None
    methods: tuple[Path, ...] = ()
    """Python files that register methods of your own, if the program is of one."""
    out: Path = Path("predictions.csv")
    batch: int = 32


def main(
    config: Config,
    *,
    load_backbone: Callable[..., Model[Pixels]] = models.load,
    known: Sequence[str] = models.names(),
) -> Path:
    """Read, predict, write; the file that was written.

    Args:
        load_backbone: (name, **given) -> frozen model.
        known: names that it may be asked for because the program's card says so.
    """
    if config.batch < 1:
        raise ValueError(f"--batch {config.batch} came, expected at least 1")
    read_methods(config.methods)
    saved = programs.load(config.program)
    replaceable(config.out, ",".join(HEAD).encode())
    files = data.image_files(config.images)
    x = read(files, saved.card, config.images)
    backbone = find_backbone(saved.card, config.backbone, load_backbone, known)
    program, params = registry.rebuild(saved, backbone)
    found = probabilities(program, params, backbone.frozen, x, config.batch)
    names = [file.relative_to(config.images).as_posix() for file in files]
    if bad := [names[i] for i in np.flatnonzero(~np.isfinite(found).all(1))]:
        raise ValueError(
            f"the program answers {len(bad)} of {len(names)} images with numbers that "
            f"are not finite ({printable(bad[0])}); it was damaged, or has diverged"
        )
    write_file(config.out, csv_text(names, saved.card.classes, found).encode())
    counts = Counter(saved.card.classes[i] for i in found.argmax(1))
    shares = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    print(f"{config.out}: {len(files)} images ({shares})")
    return config.out


def read(files: Sequence[Path], card: Card, folder: Path) -> np.ndarray:
    """The images as the program's task had them: uint8 [N h w C]."""
    height, width, channels = card.image
    if height != width:
        raise ValueError(
            f"the program takes images of {height} x {width} pixels, and files are "
            "read as squares; read them yourself and call registry.rebuild from Python"
        )
    if not files:
        raise ValueError(f"no image below {folder}, expected PNG, JPEG or others")
    x = data.read_images(files, size=height)
    if channels == 3:
        return x
    return np.round(x @ np.array(LUMA, np.float32)).astype(np.uint8)[..., None]


def find_backbone(
    card: Card,
    source: str | None,
    load_backbone: Callable[..., Model[Pixels]],
    known: Sequence[str],
) -> Model[Pixels]:
    """The frozen model of the card, by the name under which the run found it.

    A card may come from anybody: no hub is asked because a card names it.
    """
    own = {"size": card.size, "mean": card.mean, "std": card.std}
    name = source or card.backbone
    if not (source or name in known or Path(name).exists()):
        raise ValueError(
            f"the program names {name!r} as its frozen model, which is not embedded "
            "and no path here, and nothing is downloaded because a file says so; say "
            f"where it is by --backbone (--backbone {name}, if you trust that)"
        )
    try:
        return load_backbone(name, **{} if name == "glyphs" else own)
    except ValueError as error:
        if source is not None:
            raise
        raise ValueError(
            f"the program's frozen model was not found: {error}; say where it is by "
            "--backbone"
        ) from error


def probabilities(
    program: Program, params: Params, frozen: PyTree, x: np.ndarray, batch: int
) -> np.ndarray:
    """[N T] for images uint8 [N h w C], in batches of one size: one compilation."""
    size, rows = min(batch, len(x)), []
    split = data.Split(x, np.zeros(len(x), np.int32))
    batches = data.in_order(split, size)
    for images, *_ in tqdm(batches, total=-(-len(x) // size), unit="batch"):
        rows.append(np.asarray(_answer(program, params, frozen, images)))
    return np.concatenate(rows)[: len(x)]


@partial(jax.jit, static_argnums=0)
def _answer(
    program: Program, params: Params, frozen: PyTree, x: jax.Array
) -> jax.Array:
    return jax.nn.softmax(program.apply(params, frozen, x).astype(jnp.float32))


def csv_text(names: Sequence[str], classes: Sequence[str], found: np.ndarray) -> str:
    """CSV: file, label, probability, then a column for each class."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    classes = [cell(name) for name in classes]
    lines.writerow([*HEAD, *classes])
    for name, row in zip(names, found, strict=True):
        best = row.argmax()
        cells = [f"{p:.6f}" for p in row]
        lines.writerow([cell(printable(name)), classes[best], cells[best], *cells])
    return out.getvalue()


def cell(text: str) -> str:
    """A text on one line that no spreadsheet takes for a formula: ' stands before it.

    Control characters are escaped, since a tab or a carriage return begins one too.
    """
    text = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
