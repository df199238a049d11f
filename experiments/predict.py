"""Use a kept program: labels and probabilities for a folder of images.

    python -m experiments.predict --program runs/a/seed-0.safetensors --images photos

Writes a line for each image below the folder: its path, the label, the probability of
that, and the probability of every class. Images are cut and resized as in training.
"""

import csv
import io
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from reprojax import data, models, storage
from reprojax.core import Params, Program, PyTree
from reprojax.files import write_file
from reprojax.models import Backbone
from reprojax.storage import Card

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601), as PIL's


@dataclass(frozen=True)
class Config:
    """Label a folder of images with a kept program."""

    program: Path
    """What a run left: seed-0.safetensors."""
    images: Path
    """A folder; PNG, JPEG, WebP and BMP files are found at any depth."""
    backbone: Annotated[
        str | None,
        tyro.conf.arg(help="where the frozen model lies now, if not where it lay then"),
    ] = None
    out: Path = Path("predictions.csv")
    batch: int = 32


def main(config: Config) -> Path:
    """Read, predict, write; the file that was written."""
    if config.batch < 1:
        raise ValueError(f"--batch {config.batch} came, expected at least 1")
    saved = storage.load(config.program)
    files = data.image_files(config.images)
    x = read(files, saved.card, config.images)
    backbone = find_backbone(saved.card, config.backbone)
    program, params = storage.rebuild(saved, backbone)
    found = probabilities(program, params, backbone.frozen, x, config.batch)
    names = [file.relative_to(config.images).as_posix() for file in files]
    write_file(config.out, table(names, saved.card.classes, found).encode())
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
            "read as squares; read them yourself and call storage.rebuild from Python"
        )
    if not files:
        raise ValueError(f"no image below {folder}, expected PNG, JPEG, WebP or BMP")
    x = data.read_images(files, size=height)
    if channels == 3:
        return x
    return np.round(x @ np.array(LUMA, np.float32)).astype(np.uint8)[..., None]


def find_backbone(card: Card, source: str | None) -> Backbone:
    """The frozen model of the card, by the name under which the run found it."""
    own = {"size": card.size, "mean": card.mean, "std": card.std}
    name = source or card.backbone
    try:
        return models.load(name, **{} if name == "glyphs" else own)
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
    for images, _ in tqdm(batches, total=-(-len(x) // size), unit="batch"):
        rows.append(np.asarray(_answer(program, params, frozen, images)))
    return np.concatenate(rows)[: len(x)]


@partial(jax.jit, static_argnums=0)
def _answer(
    program: Program, params: Params, frozen: PyTree, x: jax.Array
) -> jax.Array:
    return jax.nn.softmax(program.apply(params, frozen, x).astype(jnp.float32))


def table(names: Sequence[str], classes: Sequence[str], found: np.ndarray) -> str:
    """CSV: file, label, probability, then a column for each class."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(["file", "label", "probability", *classes])
    for name, row in zip(names, found, strict=True):
        best = row.argmax()
        cells = [f"{p:.6f}" for p in row]
        lines.writerow([name, classes[best], cells[best], *cells])
    return out.getvalue()


if __name__ == "__main__":
    try:
        main(tyro.cli(Config))
    except ValueError as error:
        sys.exit(f"error: {error}")
