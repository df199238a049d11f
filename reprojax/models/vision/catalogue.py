"""`load`: a backbone from a file, a folder, the hub, or by name."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from reprojax.models import hub, stored, weights
from reprojax.models.card import Model
from reprojax.models.settings import Config, Count, refuse_heads, settings
from reprojax.models.vision import (
    beit,
    cifar_resnet,
    convnext,
    dinov3,
    efficientnet,
    mobilenet,
    processors,
    resnet,
    swin,
    vit_layouts,
)
from reprojax.models.vision.pixels import Pixels, images

# ordered: a BEiT also matches a ViT, and a ResNet-18 without its head the CIFAR ResNet
LAYOUTS = (
    *beit.LAYOUTS,
    *vit_layouts.LAYOUTS,
    *resnet.LAYOUTS,
    *cifar_resnet.LAYOUTS,
    *mobilenet.LAYOUTS,
    *convnext.LAYOUTS,
    *swin.LAYOUTS,
    *dinov3.LAYOUTS,
    *efficientnet.LAYOUTS,
)


def names() -> tuple[str, ...]:
    """The embedded models, which `load` takes by name."""
    return ("glyphs",)


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    size: int | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    architecture: str | None = None,
    heads: int | None = None,
    ignore: Sequence[str] = (),
    revision: str | None = None,
) -> Model[Pixels]:
    """A frozen backbone: a .safetensors file, a folder of shards, "org/name" on the
    Hugging Face hub, or one of `names()`.

    Sizes come from the tensors' shapes, the rest from the folder's config.json and
    preprocessor_config.json. A bare file does not say how pixels were normalised; then
    the default is mean and std .5 for ViT, BEiT and MobileNetV2, and ImageNet's for the
    others.

    Args:
        size: a ViT at another size gets its positions resized (bicubic, as in torch),
            a BEiT its biases; the windows of a Swin must fill its grids.
        architecture: timm's or transformers' name ("resnet50", "vit_base_patch16_224",
            "dinov2"), if no config.json has it: a bare ViT or ResNet may be any of
            several models of the same shapes.
        heads: of a ViT of no published width whose config.json lacks them.
        ignore: keys of its config files that do not change what it computes.

    Raises:
        ValueError: an architecture, tensor or setting that no layout reads.
    """
    if dtype not in (jnp.dtype("float32"), jnp.dtype("bfloat16")):
        raise ValueError(f"got dtype {dtype}, expected jnp.float32 or jnp.bfloat16")
    own = dict(size=size, classes=classes, mean=mean, std=std)
    if source == "glyphs":
        return _glyphs(dtype, own)
    found = _find(source, revision)
    tensors = stored.read(found.files)
    layout = weights.identify(LAYOUTS, tensors, str(source))
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    config = _config(layout, found, architecture, heads, ignore)
    plan = layout.plan(shapes, config)
    said = processors.described(found.name, found.looks, config, ignore)
    looks = _looks(plan, found.name, said, own)
    plan = plan._replace(size=looks["size"])
    forward = images(plan.module, plan.size, looks["mean"], looks["std"])
    frozen = weights.frozen(layout, plan, tensors, dtype)
    reads = Pixels(looks["size"], looks["mean"], looks["std"])
    return Model(found.name, forward, frozen, reads, plan.roles, looks["classes"])


def _glyphs(dtype: Any, own: dict[str, Any]) -> Model[Pixels]:
    from reprojax.models.vision import glyphs

    if given := [name for name, value in own.items() if value is not None]:
        raise ValueError(
            f"load('glyphs') got {given}, expected none: its card is complete"
        )
    backbone = glyphs.load_glyphs()
    frozen = jax.tree.map(lambda leaf: leaf.astype(dtype), backbone.frozen)
    return backbone._replace(frozen=frozen)


class Found(NamedTuple):
    """Files of weights, and the contents of the files beside them."""

    name: str
    files: list[Path]
    config: dict[str, Any] = {}
    looks: dict[str, Any] = {}  # preprocessor_config.json


def _find(source: str | os.PathLike, revision: str | None) -> Found:
    path, text = Path(source), str(source)
    if path.is_file():
        return Found(path.stem, [path])
    if path.is_dir():
        return _folder(path.resolve().name, path)
    if path.suffix == ".safetensors" or text.startswith((".", "/", "~")):
        raise ValueError(f"no file or folder {text}, expected weights there")
    if text.count("/") == 1:
        return _folder(text, hub.fetch(text, revision, ("preprocessor_config.json",)))
    raise ValueError(
        f"no backbone {text!r}; expected {' or '.join(map(repr, names()))}, a "
        '.safetensors file, a folder, or "org/name" on the Hugging Face hub'
    )


def _folder(name: str, folder: Path) -> Found:
    """Read a folder as transformers or timm write it."""
    config = stored.document(folder / "config.json")
    looks = stored.document(folder / "preprocessor_config.json")
    return Found(name, stored.files(folder), config, looks)


class Arguments(TypedDict, total=False):
    """The keys of timm's model_args that are read."""

    num_heads: Count
    global_pool: str


def _config(
    layout: weights.Layout,
    found: Found,
    architecture: str | None,
    heads: int | None,
    ignore: Sequence[str],
) -> Config:
    """The settings that a layout reads; raise at those of another architecture."""
    name = f"{found.name}'s config.json"
    said = {key: found.config.get(key) for key in ("architecture", "model_type")}
    kind = architecture or said["architecture"] or said["model_type"]
    if kind is None and layout.example:
        raise ValueError(
            f"got {found.name} without a name of its architecture, and the tensors of "
            f"a {layout.label} do not tell all of it (heads, activations, pooling, how "
            f"it strides), expected one; call load(..., architecture="
            f"{layout.example!r}), by timm's or transformers' name of it, or put "
            f'{{"architecture": "{layout.example}"}} into a config.json beside it '
            "and give the folder"
        )
    if kind and not re.fullmatch(layout.names, str(kind).partition(".")[0]):
        raise ValueError(
            f"{found.name} is a {kind!r} in the tensor names of a {layout.label}, "
            f"expected an architecture like {layout.names}; if it is the same under "
            "another name, call load(..., architecture=...); wrap another model with "
            "models.images(module, size, mean, std)"
        )
    config = settings(found.config, layout.settings, name, layout.harmless, ignore)
    refuse_heads(
        config, r"\w+(Model|Backbone|ForImageClassification(WithTeacher)?)", found.name
    )
    passed = r"num_classes|in_chans|img_size|" + layout.arguments
    given = config.get("model_args") or {}
    given = {k: v for k, v in given.items() if not re.fullmatch(passed, k)}
    arguments = settings(given, Arguments, f"model_args in {name}", ignore=ignore)
    return {**config, **arguments, **({"num_attention_heads": heads} if heads else {})}


def _looks(
    plan: weights.Plan, name: str, said: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Size, mean, std and classes: the caller's, else the files', else the plan's."""
    out: dict[str, Any] = dict(size=plan.size, mean=plan.mean, std=plan.std)
    out["classes"] = tuple(f"class {i}" for i in range(plan.classes))
    for source in (said, own):
        out |= {
            key: value if key == "size" else tuple(value)
            for key, value in source.items()
            if value is not None
        }
    if said["classes"] and not plan.classes and own["classes"] is None:
        out["classes"] = ()  # the config describes a head that was removed
    if len(out["classes"]) != plan.classes:
        raise ValueError(
            f"got {len(out['classes'])} class names for {name}, which has "
            f"{plan.classes} classes, expected one each; call load(..., classes=...)"
        )
    if out["size"] < 1:
        raise ValueError(f"got size {out['size']}, expected the images' side in pixels")
    return out
