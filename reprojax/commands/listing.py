"""Methods, label maps, models and data sets that the commands know by name.

reprojax list
reprojax list --methods mine.py        your own methods too
"""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import getdoc, isfunction
from pathlib import Path

from reprojax import models, recipes
from reprojax.commands.methods import read_methods
from reprojax.data.sources import NAMED
from reprojax.models import Pixels, image_text
from reprojax.models.image_text import Pair
from reprojax.recipes import Method

FIRST = (
    "Try watermark first: it fits every image model that has classes of its own. For a "
    "ViT, try vpt-deep next. Each run also measures a linear probe and the best label "
    "map without a prompt, and keeps both as files."
)
PAIRS = (
    "--method takes them with such a --backbone, and most of those for images too; the "
    "names of the folders are its texts. Try coop first: of the prompts measured here, "
    "its learned words raised the classes that they were trained on most. Each run "
    "also measures zero-shot, an ensemble of templates and a linear probe, and keeps "
    "all three as files."
)
ACCESS = {  # of the frozen model
    "gradients": "gradients",
    "activations": "activations",
    "answers": "only answers",
    "texts": "only texts",
}
WIDTH = 88


@dataclass(frozen=True)
class Config:
    """What the commands know by name."""

    methods: tuple[Path, ...] = ()
    """Python files that register methods of your own."""


def main(config: Config) -> None:
    """Print it all."""
    read_methods(config.methods)
    known = recipes.methods(Pair)
    others = {n: m for n, m in recipes.METHODS.items() if n not in known}
    maps = {name: own.summary for name, own in recipes.ALIGNMENTS.items()}
    sections = {
        "Methods for images, as --method takes them": for_images(),
        "Methods for a pair of an image and a text tower": for_pairs(),
        "Label maps, as --map takes them": entries(maps),
        "Backbones, as --backbone takes them": entries(backbones()),
        "Targets, as --target takes them": entries(targets()),
        "Methods for language models, from Python": methods_text(others),
    }
    print("\n\n".join(f"{title}\n\n{text}" for title, text in sections.items()))


def for_images() -> str:
    """Which method to try first, and what each is."""
    return f"{paragraph(FIRST)}\n\n{methods_text(recipes.methods(Pixels))}"


def for_pairs() -> str:
    """Which of a pair's methods to try first, and what each is."""
    own = {n: m for n, m in recipes.methods(Pair).items() if m.needs.of_texts}
    return f"{paragraph(PAIRS)}\n\n{methods_text(own)}"


def methods_text(methods: Mapping[str, Method]) -> str:
    """What each is; what it needs, where its prompt enters, and its own label map."""
    return entries(
        {name: f"{summary(own)}\n{details(own)}" for name, own in methods.items()}
    )


def summary(method: Method) -> str:
    """The first sentence of the recipe's docstring; empty where there is none."""
    text = getdoc(method.build) if isfunction(method.build) else None
    words = " ".join((text or "").partition("\n\n")[0].split())
    words = re.sub(r" \[[A-Z ]+\]", "", words)  # shapes are for readers of the code
    return words.partition(". ")[0].removesuffix(".")


def details(method: Method) -> str:
    """What it needs, where its prompt is, its own label map, and its paper."""
    said = [f"needs {ACCESS[method.needs.access]}", f"prompt: {method.enters}"]
    if method.alignment is not None:
        said.append(f"map: {method.alignment}")
    if method.needs.of_texts and method.template == "":
        said.append("takes descriptions of the classes, so from Python alone")
    elif method.needs.of_texts and method.preset is None:
        said.append("trains nothing, so from Python alone")
    papers = re.findall(r"\d{4}\.\d{5}", method.source)
    if papers and papers[0] not in summary(method):
        said.append(f"arXiv {papers[0]}")
    return "; ".join(said)


def backbones() -> dict[str, str]:
    """Frozen models: the embedded ones, and what `pairs.load` reads."""
    pair = "a pair of an image and a text tower, embedded in this package"
    own = {name: "embedded in this package" for name in models.names()}
    return (
        own
        | {name: pair for name in image_text.names()}
        | {
            "ORG/NAME": "from the Hugging Face hub: ViT, DeiT, DINOv2, DINOv3, "
            "BEiT, Swin, ConvNeXt, ResNet, MobileNetV2 or EfficientNet, such as "
            "google/vit-base-patch16-224 or microsoft/resnet-50; or a CLIP or SigLIP, "
            "such as openai/clip-vit-base-patch32",
            "FOLDER": "weights with config.json, as transformers or timm write them",
            "FILE": "bare weights that end with .safetensors",
        }
    )


def targets() -> dict[str, str]:
    """Data sets: the ones with a name, and what `data.load` reads."""
    return {name: (read.__doc__ or "").strip() for name, read in NAMED.items()} | {
        "FOLDER": "a folder of images for each class, or train, validation and test "
        "with such folders inside",
        "FILE": "arrays in a file that ends with .npz",
        "tfds:NAME": "a TensorFlow data set that is prepared on this machine",
    }


def entries(lines: Mapping[str, str]) -> str:
    """Names, with their texts wrapped beside them."""
    width = max(map(len, lines)) + 2
    return "\n".join(
        paragraph(text, f"  {name:{width}}", " " * (width + 2))
        for name, text in lines.items()
    )


def paragraph(text: str, first: str = "", rest: str = "") -> str:
    """Lines, wrapped, the first of which begins with `first`."""
    found = []
    for line in text.splitlines():
        found += textwrap.wrap(
            line, WIDTH, initial_indent=rest if found else first, subsequent_indent=rest
        )
    return "\n".join(found)
