"""Use a kept program: labels and probabilities for images.

    reprojax predict --program runs/a/seed-0.safetensors --images photos
    reprojax predict --program runs/a/linear-probe-0.safetensors --images a.jpg new/

Writes a line for each image: its path, the label, the probability of that, and the
probability of every class. Images are cut and resized as in training. A folder of
images for each class is labelled: then the accuracy is printed too.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from reprojax import data
from reprojax.commands import pairs
from reprojax.commands.intervals import Share
from reprojax.commands.methods import read_methods
from reprojax.commands.outputs import replaceable
from reprojax.core import Params, Program, PyTree
from reprojax.data.checks import listed
from reprojax.data.lazy import faults
from reprojax.models import Model, Pixels
from reprojax.models.image_text import Pair
from reprojax.recipes import registry
from reprojax.saving import programs
from reprojax.saving.files import printable, write_file
from reprojax.saving.programs import Card

HEAD = ("file", "label", "probability")
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in grey (ITU-R BT.601), as PIL's


@dataclass(frozen=True)
class Config:
    """Label images with a kept program."""

    program: Path
    """What a run left: seed-0.safetensors, linear-probe-0.safetensors, or another."""
    images: tuple[Path, ...]
    """Image files, and folders, in which images are found at any depth."""
    backbone: Annotated[
        str | None,
        tyro.conf.arg(
            help="where the frozen model lies now; without it only an embedded one, or "
            "a path that the program names, is used, and nothing is downloaded"
        ),
    ] = None
    methods: tuple[Path, ...] = ()
    """Python files that register methods of your own, if the program is of one."""
    skip_bad: bool = False
    """Leave out files that cannot be read, and name them; else they are an error."""
    out: Path = Path("predictions.csv")
    batch: int = 32


def main(
    config: Config,
    *,
    load_backbone: Callable[..., Model[Pixels] | Pair] = pairs.load,
    known: Sequence[str] = pairs.names(),
) -> Path:
    """Read, predict, write; the file that was written.

    Args:
        load_backbone: (name, **given) -> frozen model, or pair of towers.
        known: names that it may be asked for because the program's card says so.
    """
    if config.batch < 1:
        raise ValueError(f"got --batch {config.batch}, expected at least 1")
    read_methods(config.methods)
    if config.program.is_dir():
        inside = sorted(file.name for file in config.program.glob("*.safetensors"))
        raise ValueError(
            f"got --program {config.program}, which is a folder, expected a program's "
            f"file, such as {inside[0] if inside else 'seed-0.safetensors of a run'}"
        )
    saved = programs.load(config.program)
    replaceable(config.out, ",".join(HEAD).encode())
    found = find_images(config.images)
    x, found = read(found, saved.card, skip_bad=config.skip_bad)
    backbone = find_backbone(saved.card, config.backbone, load_backbone, known)
    program, params = registry.rebuild(saved, backbone)
    answers = probabilities(program, params, backbone.frozen, x, config.batch)
    names = [one.name for one in found]
    if bad := [names[i] for i in np.flatnonzero(~np.isfinite(answers).all(1))]:
        raise ValueError(
            f"the program answers {len(bad)} of {len(names)} images with numbers that "
            f"are not finite ({printable(bad[0])}); it was damaged, or has diverged"
        )
    classes = saved.card.classes
    write_file(config.out, csv_text(names, classes, answers).encode())
    counts = Counter(classes[i] for i in answers.argmax(1))
    shares = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    print(f"{config.out}: {len(names)} images ({shares})")
    for line in accuracies(found, classes, answers.argmax(1)):
        print(line)
    return config.out


class Image(NamedTuple):
    """A file that is to be labelled."""

    path: Path
    name: str
    """In the table: below its folder, if only a folder was given."""
    inside: tuple[str, ...] = ()
    """(the folder that was given, that below it in which the file lies)"""


def find_images(sources: Sequence[Path]) -> list[Image]:
    """The files that were given, and those in the folders.

    Raises:
        ValueError: a path that is not there; a folder without images.
    """
    found = []
    for source in sources:
        if not source.is_dir():
            if not source.exists():
                raise ValueError(
                    f"no file or folder {source}, expected an image, or a folder of "
                    "images"
                )
            found.append(Image(source, source.as_posix()))
            continue
        files = data.image_files(source)
        if not files:
            raise ValueError(f"no image below {source}, expected PNG, JPEG or others")
        for file in files:
            below = file.relative_to(source)
            name = below if len(sources) == 1 else file
            first = below.parts[0] if len(below.parts) > 1 else ""
            found.append(Image(file, name.as_posix(), (str(source), printable(first))))
    return found


def accuracies(
    found: Sequence[Image], classes: Sequence[str], answers: np.ndarray
) -> list[str]:
    """Lines on how many images of labelled folders are right; none without such ones.

    A folder is labelled if each of its images lies in a folder with a class's name.
    """
    inner = {one.inside for one in found if one.inside}
    other = defaultdict(list)
    for source, name in sorted(inner):
        if name not in classes:
            other[source].append(name or "no folder")
    lines = [
        f"no accuracy of {source}: {listed(names)} is no class of the program; it "
        f"expected {listed(classes)}"
        for source, names in other.items()
        if any(name in classes for place, name in inner if place == source)
    ]
    right: dict[str, list[bool]] = {name: [] for name in classes}
    for one, answer in zip(found, answers, strict=True):
        if one.inside and one.inside[0] not in other:
            right[one.inside[1]].append(classes[answer] == one.inside[1])
    shares = {n: Share(sum(r), len(r)) for n, r in right.items() if r}
    if shares:
        every = Share(*(sum(column) for column in zip(*shares.values(), strict=True)))
        lines.append(f"accuracy {every}, {every.part} of {every.whole} (95 % interval)")
        width = max(map(len, shares))
        lines += [
            f"  {name:{width}}  {share}, {share.part} of {share.whole}"
            for name, share in shares.items()
        ]
    return lines


def read(
    found: Sequence[Image], card: Card, *, skip_bad: bool = False
) -> tuple[np.ndarray, list[Image]]:
    """The images as the program's task had them, uint8 [N h w C], and which they are.

    Raises:
        ValueError: files that cannot be read, all by name, or with skip_bad if no file
            can; a program whose images are not squares.
    """
    height, width, channels = card.image
    if height != width:
        raise ValueError(
            f"the program takes images of {height} x {width} pixels, and files are "
            "read as squares; read them yourself and call registry.rebuild from Python"
        )
    bad: set[str] = set()

    def leave_out(wrong: Sequence[tuple[str, Exception]], count: int) -> None:
        bad.update(name for name, _ in wrong)
        print(f"left out {len(wrong)} of {count} files:\n  {printable(faults(wrong))}")

    def name_them(wrong: Sequence[tuple[str, Exception]], count: int) -> None:
        raise ValueError(
            f"{len(wrong)} of {count} images cannot be read; replace or remove them, "
            f"or leave them out by --skip-bad:\n  {printable(faults(wrong))}"
        )

    files = [one.path for one in found]
    how = leave_out if skip_bad else name_them
    x = data.read_images(files, size=height, on_bad=how)
    kept = [one for one in found if str(one.path) not in bad]
    if not kept:
        raise ValueError(f"none of {len(files)} files is an image that can be read")
    if channels == 1:
        x = np.round(x @ np.array(LUMA, np.float32)).astype(np.uint8)[..., None]
    return x, kept


def find_backbone(
    card: Card,
    source: str | None,
    load_backbone: Callable[..., Model[Pixels] | Pair],
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
        given = {} if name == "glyphs" else own
        found = load_backbone(name, dtype=card.dtype, **given)
    except ValueError as error:
        if source is not None:
            raise
        raise ValueError(
            f"the program's frozen model was not found: {error}; say where it is by "
            "--backbone"
        ) from error
    if not isinstance(found, Pair):
        return found
    if not card.template:
        if card.backbone in (name, found.name):
            raise ValueError(
                f"the program of the pair {found.name} tells no templates for the "
                "names of its classes, expected them in its card, one a line; save it "
                "with card._replace(template=...), or call registry.rebuild from Python"
            )
        raise ValueError(
            f"got the pair {found.name} for a program of an image model, expected "
            f"{card.backbone!r}; give that as --backbone"
        )
    return pairs.bound(found, card.classes, pairs.read(card.template))


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
