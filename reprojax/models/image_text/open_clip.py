"""How OpenAI and OpenCLIP name the weights and settings of both towers.

CLIP in OpenAI's names, and SigLIP with an image tower of timm.
"""

import re
from typing import Any, Literal, TypedDict

import numpy as np

from reprojax.models.image_text.layouts import (
    BIAS,
    BLOCK,
    OLD,
    SCALE,
    Layout,
    Plan,
    Tensors,
    check_joint,
    torch_attention,
)
from reprojax.models.image_text.towers import ImageTower, TextTower
from reprojax.models.language.family import size_of_heads
from reprojax.models.language.layers import Heads
from reprojax.models.settings import Config, Count, Positive, bounded, refuse, settings
from reprojax.models.vision.processors import side_of
from reprojax.models.vision.vit_layouts import timm_blocks
from reprojax.models.weights import Rules

# -- settings


class OpenClip(TypedDict, total=False):
    """Settings of open_clip_config.json that are read."""

    embed_dim: Count
    quick_gelu: bool
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]


class ClipTower(TypedDict, total=False):
    """Settings of a tower of CLIP that shapes do not tell."""

    head_width: Count
    heads: Count
    image_size: int | list[int]


class TimmTower(TypedDict, total=False):
    """Settings of an image tower by timm that shapes do not tell."""

    image_size: int | list[int]
    timm_model_name: str
    timm_pool: str
    timm_proj: str


class CustomText(TypedDict, total=False):
    """Settings of SigLIP's text tower that shapes do not tell."""

    heads: Count
    no_causal_mask: bool
    proj_bias: bool
    pool_type: str
    norm_kwargs: dict[Literal["eps"], Positive]
    act_kwargs: dict[Literal["approximate"], Literal["none", "tanh"]]
    tokenizer_kwargs: dict[str, Any]


class Preprocess(TypedDict, total=False):
    """The settings of preprocess_cfg; images are resized by the caller."""

    size: int | list[int] | None
    mean: list[float] | None
    std: list[float] | None
    mode: str
    interpolation: str
    resize_mode: str


HEADS = 8  # of a text tower, if its settings do not say
GELU = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
TRUNK = "visual.trunk."
# {timm's name: (heads, activation)}
TIMM = {
    r"vit_base_patch16_siglip_\d+": (12, "gelu"),
    r"vit_base_patch32_siglip_\d+": (12, "gelu_pytorch_tanh"),
    r"vit_large_patch16_siglip_512": (16, "gelu_pytorch_tanh"),
    r"vit_large_patch16_siglip_\d+": (16, "gelu"),
    r"vit_so400m_patch14_siglip_\d+": (16, "gelu"),
    r"vit_(so400m|giantopt)_patch16_siglip_\d+": (16, "gelu_pytorch_tanh"),
}
# which shapes tell, or which are of training
SHAPES = {
    "vision_cfg": r"layers|width|patch_size|mlp_ratio|timm_(model_pretrained|drop\w*)",
    "text_cfg": r"context_length|vocab_size|width|layers|mlp_ratio|hf_tokenizer_name",
}


def preprocessing(document: Config, name: str, ignore: Any) -> dict[str, Any]:
    """Size, mean and std of an open_clip_config.json; None if it does not say them."""
    where = f"preprocess_cfg in {name}'s open_clip_config.json"
    given = document.get("preprocess_cfg") or {}
    own = settings(given, Preprocess, where, "fill_color", ignore)
    refuse(own, where, mode="RGB")
    size = side_of(own.get("size"), where)
    return {"size": size, "mean": own.get("mean"), "std": own.get("std")}


def _whole(document: Config, name: str, ignore: Any) -> Config:
    config = dict(document.get("model_cfg") or document)
    config.pop("preprocess_cfg", None)
    where, more = f"{name}'s open_clip_config.json", r"|custom_text|init_logit_\w+"
    return settings(config, OpenClip, where, OLD + more, ignore)


def _part(own: Config, part: str, kind: Any, name: str, ignore: Any) -> dict[str, Any]:
    where = f"{part} in {name}'s open_clip_config.json"
    found = settings(own.get(part) or {}, kind, where, SHAPES[part], ignore)
    return {key: value for key, value in found.items() if value is not None}


# -- sizes, from shapes


def _tensor(tensors: Tensors, path: str, name: str, rank: int = 2) -> np.ndarray:
    found = tensors.get(path)
    if found is None or found.ndim != rank:
        came = "no tensor" if found is None else f"{list(found.shape)} for"
        raise ValueError(
            f"{name} has {came} {path}, expected {rank} axes, and both towers, images' "
            "and texts'; fetch the file again"
        )
    return found


def _count(tensors: Tensors, path: str) -> int:
    form = re.compile(rf"{re.escape(path)}(\d+)\.")
    found = (form.match(name) for name in tensors)
    return bounded(1 + max((int(m[1]) for m in found if m), default=-1), tensors)


def _size(config: Config, patch: int, patches: int, name: str) -> int:
    """The side of images in pixels, which may be more than those that fill patches."""
    side = round(max(patches, 0) ** 0.5)
    size = side_of(config.get("image_size"), name) or patch * side
    if not side or side * side != patches or size // patch != side:
        raise ValueError(
            f"{name} has positions of {patches} patches of {patch} pixels, and images "
            f"of {size} pixels, expected squares of one size; correct image_size in "
            "its open_clip_config.json, or fetch the file again"
        )
    return size


def _heads_of(width: int, size: int, name: str, setting: str) -> int:
    """The number of heads of that size."""
    if width % size:
        raise ValueError(
            f"{name} has a tower of width {width} for heads of {size}, expected a "
            f"multiple, as OpenAI's are; put {setting} into its "
            "open_clip_config.json"
        )
    return width // size


def _text(
    tensors: Tensors,
    name: str,
    heads: int | None,
    activation: str,
    epsilon: float = 1e-5,
    causal: bool = True,
) -> TextTower:
    look = lambda path: _tensor(tensors, path, name).shape
    words, width = look("token_embedding.weight")
    heads = heads or _heads_of(width, 64, name, "heads of its text_cfg")
    return TextTower(
        words,
        look("positional_embedding")[0],
        width,
        _count(tensors, "resblocks."),
        look("resblocks.0.mlp.c_fc.weight")[0],
        Heads(heads, heads, size_of_heads(width, heads), causal=causal),
        look("text_projection.weight")[0],
        not causal,
        activation,
        epsilon,
    )


def _clip(config: Config, tensors: Tensors, name: str, ignore: Any) -> Plan:
    """Without a config, as beside OpenAI's own files, heads have 64 numbers."""
    own = _whole(config, name, ignore)
    image = _part(own, "vision_cfg", ClipTower, name, ignore)
    said = _part(own, "text_cfg", ClipTower, name, ignore)
    # OpenAI's weights have the quick GELU; those of OpenCLIP say so
    act = "quick_gelu" if own.get("quick_gelu", not own) else "gelu"
    default = HEADS if own.get("text_cfg") else None
    text = _text(tensors, name, said.get("heads") or default, act)
    look = lambda path, rank=2: _tensor(tensors, f"visual.{path}", name, rank).shape
    width, _, patch, _ = look("conv1.weight", 4)
    joint = look("proj.weight")[0]
    check_joint(name, text.joint, joint)
    tower = ImageTower(
        patch,
        _size(image, patch, look("positional_embedding")[0] - 1, name),
        width,
        _count(tensors, "visual.transformer.resblocks."),
        _heads_of(width, image.get("head_width") or 64, name, "head_width"),
        look("transformer.resblocks.0.mlp.c_fc.weight")[0],
        joint,
        act,
    )
    words = text.vocabulary
    return Plan(tower, text, special={"bos": words - 2, "eos": words - 1, "pad": 0})


def _siglip(config: Config, tensors: Tensors, name: str, ignore: Any) -> Plan:
    own = _whole(config, name, ignore)
    refuse(own, "a SigLIP", quick_gelu=False)
    image = _part(own, "vision_cfg", TimmTower, name, ignore)
    heads, act = _timm(image.get("timm_model_name"), name)
    # OpenCLIP's defaults are settings too
    refuse(
        {"timm_pool": "avg", "timm_proj": "linear"} | image,
        "an image tower by timm",
        timm_pool="map",
        timm_proj="none",
    )
    said = _part(own, "text_cfg", CustomText, name, ignore)
    refuse(
        {"no_causal_mask": False, "proj_bias": False, "pool_type": "argmax"} | said,
        "a text tower of SigLIP",
        no_causal_mask=True,
        proj_bias=True,
        pool_type="last",
    )
    text = _text(
        tensors,
        name,
        said.get("heads") or HEADS,
        GELU[(said.get("act_kwargs") or {}).get("approximate", "none")],
        (said.get("norm_kwargs") or {}).get("eps", 1e-5),
        causal=False,
    )
    look = lambda path, rank=2: _tensor(tensors, TRUNK + path, name, rank).shape
    width, _, patch, _ = look("patch_embed.proj.weight", 4)
    check_joint(name, text.joint, width)
    size_of_heads(width, heads)
    tower = ImageTower(
        patch,
        _size(image, patch, look("pos_embed")[0], name),
        width,
        _count(tensors, TRUNK + "blocks."),
        heads,
        look("blocks.0.mlp.fc1.weight")[0],
        None,
        act,
        1e-6,
    )
    clean = (said.get("tokenizer_kwargs") or {}).get("clean")
    bare = True if clean == "canonicalize" else None
    return Plan(tower, text, padding=True, special={"pad": 1}, bare=bare)


def _timm(model: str | None, name: str) -> tuple[int, str]:
    """The heads and the activation of a transformer of timm."""
    found = (own for form, own in TIMM.items() if re.fullmatch(form, model or ""))
    for own in found:
        return own
    raise ValueError(
        f"{name} has an image tower of timm, {model!r}, expected a name in its "
        f"open_clip_config.json like one of {', '.join(TIMM)}; give the folder with "
        "that file, or take a pair in the names of transformers"
    )


# -- names


def _blocks(path: str) -> Rules:
    layer = path + "resblocks.{}"
    return (
        (BLOCK + r"norm_(\d)", layer + ".ln_{}"),
        *torch_attention(BLOCK + "attention", layer + ".attn"),
        (BLOCK + "mlp/up", layer + ".mlp.c_fc"),
        (BLOCK + "mlp/down", layer + ".mlp.c_proj"),
    )


IMAGE = (
    ("patches", "visual.conv1"),
    ("class_token", "visual.class_embedding"),
    ("positions", "visual.positional_embedding"),
    ("norm_before", "visual.ln_pre"),
    *_blocks("visual.transformer."),
    ("norm", "visual.ln_post"),
    ("head", "visual.proj"),
)
TEXT = (
    ("embed/embedding", "token_embedding.weight"),
    ("positions/embedding", "positional_embedding"),
    *_blocks(""),
    ("norm", "ln_final"),
    ("head", "text_projection"),
)
POOL = TRUNK + "attn_pool."
TIMM_IMAGE = (
    ("patches", TRUNK + "patch_embed.proj"),
    ("positions", TRUNK + "pos_embed"),
    *timm_blocks(TRUNK),
    ("norm", TRUNK + "norm"),
    ("pool/probe", POOL + "latent"),
    ("pool/query", POOL + "q"),
    ("pool/(key|value)", POOL + "kv.{}"),
    ("pool/out", POOL + "proj"),
    ("pool/norm", POOL + "norm"),
    ("pool/mlp/up", POOL + "mlp.fc1"),
    ("pool/mlp/down", POOL + "mlp.fc2"),
)


def _prepared(tensors: Tensors) -> Tensors:
    """Names without a module of the text tower's own, projections as [out, in], and
    timm's positions [L D], its keys and values apart."""
    out: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        name = re.sub(r"^text\.(transformer\.)?", "", name)
        new = {name: value}
        if name in ("visual.proj", "text_projection"):
            new = {f"{name}.weight": value.T}
        elif name == TRUNK + "pos_embed" and value.shape[:1] == (1,):
            new = {name: value[0]}
        elif name in (f"{POOL}kv.weight", f"{POOL}kv.bias") and value.size % 2 == 0:
            ends = [name.replace("kv.", f"kv.{part}.") for part in ("key", "value")]
            new = dict(zip(ends, np.array_split(value, 2), strict=True))
        if twice := sorted(out.keys() & new.keys()):
            raise ValueError(
                f"got two tensors for {twice}, with and without 'text.', expected one; "
                "save the weights of one model only"
            )
        out |= new
    return out


LAYOUTS = {
    "openai": Layout(
        "CLIP, OpenAI's and OpenCLIP's names", IMAGE, TEXT, _clip, (SCALE,), _prepared
    ),
    "timm": Layout(
        "SigLIP, OpenCLIP's names and timm's",
        TIMM_IMAGE,
        TEXT,
        _siglip,
        (SCALE, BIAS),
        _prepared,
    ),
}
