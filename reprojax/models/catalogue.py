"""`load`: a backbone from a file, a folder, the hub, or by its registered name."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from reprojax.models import cifar_resnet, hub, mobilenet, resnet, vit, weights
from reprojax.models.backbone import Backbone, images

# ordered: a ResNet-18 without its head bears names of a CIFAR ResNet too
LAYOUTS = (
    *vit.LAYOUTS,
    *resnet.LAYOUTS,
    *cifar_resnet.LAYOUTS,
    *mobilenet.LAYOUTS,
)


class Asset(NamedTuple):
    """Weights that are kept beside the repository, under REPROJAX_ASSETS."""

    file: str
    classes: str | tuple[str, ...]  # a file of names beside it, or the names


CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
ASSETS = {
    "vit_tiny_patch16_224": Asset(
        "vit_tiny_patch16_224/model_fp16.safetensors", "imagenet_labels.txt"
    ),
    "mobilenet_v2": Asset(
        "mobilenet_v2_1.0_224/model_fp16.safetensors", "imagenet_labels_1001.txt"
    ),
    "resnet20_cifar10": Asset("cifar10_resnets/resnet20_fp32.safetensors", CIFAR10),
    "resnet56_cifar10": Asset("cifar10_resnets/resnet56_fp32.safetensors", CIFAR10),
}


def names() -> tuple[str, ...]:
    """The registered names that `load` takes."""
    return ("glyphs", *ASSETS)


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    heads: int | None = None,
    revision: str | None = None,
) -> Backbone:
    """A frozen backbone: a .safetensors file, a folder of shards, "org/name" on the
    Hugging Face hub, or one of `names()`.

    The architecture is read from the tensors' names and shapes, the rest from
    config.json and preprocessor_config.json in the folder. A bare file does not say
    how pixels were normalised: ViT takes .5 and .5, all others ImageNet's mean and std,
    unless `mean` and `std` say otherwise. `heads` is for a ViT whose heads are not 64
    wide. A ViT at another `size` gets its positions resized (bicubic, as torch).
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype {dtype} came, expected jnp.float32 or jnp.bfloat16")
    own = dict(size=size, classes=classes, mean=mean, std=std)
    if source == "glyphs":
        return _glyphs(dtype, own)
    found = _find(source, revision)
    tensors = weights.read(found.files)
    layout = weights.identify(LAYOUTS, tensors, str(source))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    own_config = {"num_attention_heads": heads} if heads else {}
    plan = layout.plan(shapes, {**found.config, **own_config})
    settings = _settings(plan, found, own)
    plan = plan._replace(size=settings["size"])
    frozen = weights.frozen(layout, plan, tensors, dtype)
    forward = images(plan.module, plan.size, settings["mean"], settings["std"])
    return Backbone(found.name, forward, frozen, roles=plan.roles, **settings)


def _glyphs(dtype: Any, own: dict[str, Any]) -> Backbone:
    from reprojax.models import glyphs

    if given := [name for name, value in own.items() if value is not None]:
        raise ValueError(
            f"load('glyphs') came with {given}, expected none: its card is complete"
        )
    backbone = glyphs.load()
    frozen = jax.tree.map(lambda leaf: leaf.astype(dtype), backbone.frozen)
    return backbone._replace(frozen=frozen)


class Found(NamedTuple):
    """Where weights lie, and what the files beside them say."""

    name: str
    files: list[Path]
    config: dict[str, Any]
    settings: dict[str, Any]  # size, mean, std and classes, if known


def _find(source: str | os.PathLike, revision: str | None) -> Found:
    path, text = Path(source), str(source)
    if path.is_file():
        return Found(path.stem, [path], {}, {})
    if path.is_dir():
        return _folder(path.resolve().name, path)
    if text in ASSETS:
        return _asset(text)
    if path.suffix == ".safetensors" or text.startswith((".", "/", "~")):
        raise ValueError(f"no file or folder {text}, expected weights there")
    if text.count("/") == 1:
        return _folder(text, hub.fetch(text, revision, ("preprocessor_config.json",)))
    near = difflib.get_close_matches(text, names(), n=3, cutoff=0.3) or names()
    raise ValueError(
        f"no backbone {text!r}; the nearest names are {', '.join(near)}; load() also "
        'takes a .safetensors file, a folder, or "org/name" on the Hugging Face hub'
    )


def _folder(name: str, folder: Path) -> Found:
    """A folder as transformers or timm write it."""
    config = weights.document(folder / "config.json")
    looks = weights.document(folder / "preprocessor_config.json")
    timm = config.get("pretrained_cfg", {})
    crop = looks.get("crop_size") if looks.get("do_center_crop") else None
    settings = {
        "size": _side(crop or looks.get("size")) or timm.get("input_size", [None])[-1],
        "mean": looks.get("image_mean", timm.get("mean")),
        "std": looks.get("image_std", timm.get("std")),
    }
    labels = config.get("id2label") or {}
    labels = tuple(labels[k] for k in sorted(labels, key=int))
    settings["classes"] = labels or config.get("label_names")
    return Found(name, weights.files(folder), config, settings)


def _side(size: Any) -> int | None:
    """{"height", "width"}, {"shortest_edge"} or a number, as processors say it."""
    if isinstance(size, dict):
        return size.get("height", size.get("shortest_edge"))
    return size


def _asset(name: str) -> Found:
    here = Path(__file__).resolve().parents[3] / "shared" / "assets"
    root = Path(os.environ.get("REPROJAX_ASSETS", here))
    asset = ASSETS[name]
    path = root / "weights" / asset.file
    if not path.exists():
        raise ValueError(
            f"the weights of {name!r} are not at {path}, expected them there; set "
            "REPROJAX_ASSETS to the folder that holds weights/, or give load() a file"
        )
    classes = asset.classes
    if isinstance(classes, str):
        classes = tuple((path.parent / classes).read_text().splitlines())
    return Found(name, [path], {}, {"classes": classes})


def _settings(plan: weights.Plan, found: Found, own: dict[str, Any]) -> dict[str, Any]:
    """The caller's word first, then that of the files, then the architecture's."""
    out: dict[str, Any] = dict(size=plan.size, mean=plan.mean, std=plan.std)
    out["classes"] = tuple(f"class {i}" for i in range(plan.classes))
    for source in (found.settings, own):
        out |= {
            name: value if name == "size" else tuple(value)
            for name, value in source.items()
            if value is not None
        }
    if found.settings.get("classes") and not plan.classes and own["classes"] is None:
        out["classes"] = ()  # the config speaks of a head cut off
    if len(out["classes"]) != plan.classes:
        raise ValueError(
            f"{len(out['classes'])} class names came for {found.name}, which has "
            f"{plan.classes} classes, expected one each; call load(..., classes=...)"
        )
    if out["size"] < 1:
        raise ValueError(
            f"size {out['size']} came, expected the images' side in pixels"
        )
    if len(out["mean"]) != 3 or len(out["std"]) != 3 or min(out["std"]) <= 0:
        raise ValueError(
            f"mean {out['mean']} and std {out['std']} came, expected three numbers "
            "each, the std positive; call load(..., mean=..., std=...)"
        )
    return out
