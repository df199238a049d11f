"""How other libraries name the weights and settings of both towers."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

import numpy as np

from reprojax.models.image_text.towers import ImageTower, TextTower
from reprojax.models.language.family import activation, need, size_of_heads
from reprojax.models.language.layers import Heads
from reprojax.models.settings import (
    Common,
    Config,
    Count,
    Positive,
    bounded,
    refuse,
    settings,
)
from reprojax.models.weights import Rules

Tensors = Mapping[str, np.ndarray]


class Layout(NamedTuple):
    """A naming scheme for a pair's tensors."""

    label: str
    image: Rules
    text: Rules
    plan: Callable[[Config, Tensors, str, Any], "Plan"]
    """(config, tensors, the model's name, settings to ignore) -> towers"""
    own: str
    """A pattern of tensors that are neither tower's: scale and bias."""
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors


class Plan(NamedTuple):
    """The towers of a pair, and what their texts need."""

    image: ImageTower
    text: TextTower
    padding: bool = False
    special: Mapping[str, int | None] = {}


# -- settings


class PairSettings(Common, total=False):
    """Settings of a pair's config.json by transformers."""

    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    projection_dim: Count


class Tower(Common, total=False):
    """Settings of one tower."""

    hidden_size: Count
    intermediate_size: Count
    projection_dim: Count
    projection_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    hidden_act: str
    layer_norm_eps: Positive
    # of images
    image_size: Count
    patch_size: Count
    num_channels: Count
    vision_use_head: bool
    # of texts
    vocab_size: Count
    max_position_embeddings: Count
    add_cross_attention: bool
    is_decoder: bool


# Of generation and training, in configs of the first releases.
OLD = (
    r"add_cross_attention|bad_words_ids|begin_suppress_tokens|cross_attention_hidden_size"
    r"|exponential_decay_length_penalty|forced_\w+|pruned_heads|remove_invalid_values"
    r"|suppress_tokens|tf_legacy_loss|tie_(encoder_decoder|word_embeddings)|id2label"
    r"|logit_scale_init_value|\w+_config_dict|sep_token_id|max_length"
)
CLIP = {
    "text": dict(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=8, max_position_embeddings=77, vocab_size=49408,
        hidden_act="quick_gelu", layer_norm_eps=1e-5, bos_token_id=49406,
        eos_token_id=49407, pad_token_id=1,
    ),
    "vision": dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, image_size=224, patch_size=32, num_channels=3,
        hidden_act="quick_gelu", layer_norm_eps=1e-5,
    ),
}  # fmt: skip
SIGLIP = {
    "text": dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, max_position_embeddings=64, vocab_size=32000,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, pad_token_id=1,
    ),
    "vision": dict(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
        num_attention_heads=12, image_size=224, patch_size=16, num_channels=3,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-6, vision_use_head=True,
    ),
}  # fmt: skip


def _both(
    config: Config, defaults: Config, name: str, ignore: Any
) -> tuple[Config, Config, Config]:
    """The settings of the pair, of its text tower and of its image tower.

    transformers leaves out what has the default of its class, so that the defaults are
    settings too.
    """
    whole = settings(config, PairSettings, f"{name}'s config.json", OLD, ignore)
    found = []
    for part in ("text", "vision"):
        own = settings(
            whole.get(f"{part}_config") or {},
            Tower,
            f"{part}_config in {name}'s config.json",
            OLD,
            ignore,
        )
        refuse(own, f"a {part} tower", add_cross_attention=False, is_decoder=False)
        refuse(own, f"a {part} tower", num_channels=3, vision_use_head=True)
        given = {key: value for key, value in own.items() if value is not None}
        found.append(defaults[part] | given)
    return whole, found[0], found[1]


def _image(config: Config, tensors: Tensors, joint: int | None) -> ImageTower:
    return ImageTower(
        need(config, "patch_size"),
        need(config, "image_size"),
        need(config, "hidden_size"),
        bounded(need(config, "num_hidden_layers"), tensors),
        _heads(config),
        need(config, "intermediate_size"),
        joint,
        activation(config, "hidden_act"),
        need(config, "layer_norm_eps"),
    )


def _heads(config: Config) -> int:
    heads = need(config, "num_attention_heads")
    size_of_heads(need(config, "hidden_size"), heads)
    return heads


def _text(config: Config, tensors: Tensors, joint: int, causal: bool) -> TextTower:
    width, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    return TextTower(
        need(config, "vocab_size"),
        need(config, "max_position_embeddings"),
        width,
        bounded(need(config, "num_hidden_layers"), tensors),
        need(config, "intermediate_size"),
        Heads(heads, heads, size_of_heads(width, heads), causal=causal),
        joint,
        projection_bias=not causal,
        activation=activation(config, "hidden_act"),
        epsilon=need(config, "layer_norm_eps"),
    )


def _clip(config: Config, tensors: Tensors, name: str, ignore: Any) -> Plan:
    whole, text, image = _both(config, CLIP, name, ignore)
    joint = whole.get("projection_dim") or 512
    towers = _image(image, tensors, joint), _text(text, tensors, joint, causal=True)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    return Plan(*towers, special={i[:3]: text.get(i) for i in ids})


def _siglip(config: Config, tensors: Tensors, name: str, ignore: Any) -> Plan:
    _, text, image = _both(config, SIGLIP, name, ignore)
    joint = text.get("projection_size") or need(text, "hidden_size")
    if joint != need(image, "hidden_size"):
        raise ValueError(
            f"{name} has texts of width {joint} and images of width "
            f"{image['hidden_size']}, expected one joint space; fetch the files again"
        )
    towers = _image(image, tensors, None), _text(text, tensors, joint, causal=False)
    return Plan(*towers, padding=True, special={"pad": text.get("pad_token_id")})


class OpenClip(TypedDict, total=False):
    """Settings of open_clip_config.json that are read."""

    embed_dim: Count
    quick_gelu: bool
    vision_cfg: dict[str, Any]
    text_cfg: dict[str, Any]


def _openai(config: Config, tensors: Tensors, name: str, ignore: Any) -> Plan:
    """Sizes from the tensors, as OpenAI's own files have no config; heads of 64."""
    config = dict(config.get("model_cfg") or config)
    own = settings(config, OpenClip, f"{name}'s open_clip_config.json", OLD, ignore)
    image = _open_clip(own, "vision_cfg", name, ignore)
    text = _open_clip(own, "text_cfg", name, ignore)
    # OpenAI's weights have the quick GELU; those of OpenCLIP say so
    act = "quick_gelu" if own.get("quick_gelu", not own) else "gelu"
    kernel = _tensor(tensors, "visual.conv1.weight", name)
    width, _, patch, _ = kernel.shape
    length = _tensor(tensors, "visual.positional_embedding", name).shape[0]
    joint = _tensor(tensors, "text_projection", name).shape[1]
    words, wide = _tensor(tensors, "token_embedding.weight", name).shape
    hidden = lambda path: _tensor(
        tensors, f"{path}resblocks.0.mlp.c_fc.weight", name
    ).shape[0]
    size = patch * round((length - 1) ** 0.5)
    heads = text.get("heads") or max(wide // 64, 1)
    return Plan(
        ImageTower(
            patch, size, width, _count(tensors, "visual.transformer."),
            width // (image.get("head_width") or 64), hidden("visual.transformer."),
            joint, act,
        ),
        TextTower(
            words, _tensor(tensors, "positional_embedding", name).shape[0], wide,
            _count(tensors, ""), hidden(""),
            Heads(heads, heads, size_of_heads(wide, heads)), joint, activation=act,
        ),
        special={"bos": words - 2, "eos": words - 1, "pad": 0},
    )  # fmt: skip


OPEN_CLIP = {
    "vision_cfg": r"image_size|layers|width|patch_size|mlp_ratio",
    "text_cfg": r"context_length|vocab_size|width|layers|mlp_ratio",
}


class OpenTower(TypedDict, total=False):
    """Settings of a tower in open_clip_config.json that shapes do not tell."""

    head_width: Count
    heads: Count


def _open_clip(own: Config, part: str, name: str, ignore: Any) -> Config:
    where = f"{part} in {name}'s open_clip_config.json"
    return settings(own.get(part) or {}, OpenTower, where, OPEN_CLIP[part], ignore)


def _tensor(tensors: Tensors, path: str, name: str) -> np.ndarray:
    if path not in tensors:
        raise ValueError(
            f"{name} has no tensor {path}, expected both towers, images' and texts'; "
            "fetch the file again"
        )
    return tensors[path]


def _count(tensors: Tensors, path: str) -> int:
    form = re.compile(rf"{re.escape(path)}resblocks\.(\d+)\.")
    found = (form.match(name) for name in tensors)
    return bounded(1 + max((int(m[1]) for m in found if m), default=-1), tensors)


# -- names

BLOCK = r"block_(\d+)/"


def _blocks(layers: str) -> Rules:
    """transformers' blocks, of either tower."""
    return (
        (BLOCK + r"norm_(\d)", layers + ".{}.layer_norm{}"),
        (BLOCK + "attention/query", layers + ".{}.self_attn.q_proj"),
        (BLOCK + "attention/key", layers + ".{}.self_attn.k_proj"),
        (BLOCK + "attention/value", layers + ".{}.self_attn.v_proj"),
        (BLOCK + "attention/out", layers + ".{}.self_attn.out_proj"),
        (BLOCK + "mlp/up", layers + ".{}.mlp.fc1"),
        (BLOCK + "mlp/down", layers + ".{}.mlp.fc2"),
    )


def _torch(path: str, name: str) -> Rules:
    """torch's MultiheadAttention."""
    parts = [("query", 0), ("key", 1), ("value", 2)]
    return (
        *((f"{path}/{own}/kernel", f"{name}.in_proj_weight#{i}") for own, i in parts),
        *((f"{path}/{own}/bias", f"{name}.in_proj_bias#{i}") for own, i in parts),
        (f"{path}/out", f"{name}.out_proj"),
    )


def _openai_blocks(path: str) -> Rules:
    layer = path + "resblocks.{}"
    return (
        (BLOCK + r"norm_(\d)", layer + ".ln_{}"),
        *_torch(BLOCK + "attention", layer + ".attn"),
        (BLOCK + "mlp/up", layer + ".mlp.c_fc"),
        (BLOCK + "mlp/down", layer + ".mlp.c_proj"),
    )


VISION, TEXT = "vision_model.", "text_model."
CLIP_IMAGE = (
    ("patches", VISION + "embeddings.patch_embedding"),
    ("class_token", VISION + "embeddings.class_embedding"),
    ("positions", VISION + "embeddings.position_embedding.weight"),
    ("norm_before", VISION + "pre_layrnorm"),
    *_blocks(VISION + "encoder.layers"),
    ("norm", VISION + "post_layernorm"),
    ("head", "visual_projection"),
)
CLIP_TEXT = (
    ("embed/embedding", TEXT + "embeddings.token_embedding.weight"),
    ("positions/embedding", TEXT + "embeddings.position_embedding.weight"),
    *_blocks(TEXT + "encoder.layers"),
    ("norm", TEXT + "final_layer_norm"),
    ("head", "text_projection"),
)
SIGLIP_IMAGE = (
    *CLIP_IMAGE,
    ("pool/probe", VISION + "head.probe"),
    *_torch("pool", VISION + "head.attention"),
    ("pool/norm", VISION + "head.layernorm"),
    ("pool/mlp/up", VISION + "head.mlp.fc1"),
    ("pool/mlp/down", VISION + "head.mlp.fc2"),
)
SIGLIP_TEXT = (*CLIP_TEXT[:-1], ("head", TEXT + "head"))
OPENAI_IMAGE = (
    ("patches", "visual.conv1"),
    ("class_token", "visual.class_embedding"),
    ("positions", "visual.positional_embedding"),
    ("norm_before", "visual.ln_pre"),
    *_openai_blocks("visual.transformer."),
    ("norm", "visual.ln_post"),
    ("head", "visual.proj"),
)
OPENAI_TEXT = (
    ("embed/embedding", "token_embedding.weight"),
    ("positions/embedding", "positional_embedding"),
    *_openai_blocks(""),
    ("norm", "ln_final"),
    ("head", "text_projection"),
)


def _turned(tensors: Tensors) -> Tensors:
    """OpenAI stores both projections as [in, out], without a module around them."""
    turned = {"visual.proj", "text_projection"}
    rest = {name: t for name, t in tensors.items() if name not in turned}
    return rest | {f"{n}.weight": tensors[n].T for n in turned if n in tensors}


LAYOUTS = {
    "clip": Layout(
        "CLIP, transformers names", CLIP_IMAGE, CLIP_TEXT, _clip, "logit_scale"
    ),
    "siglip": Layout(
        "SigLIP, transformers names",
        SIGLIP_IMAGE,
        SIGLIP_TEXT,
        _siglip,
        "logit_(scale|bias)",
    ),
    "openai": Layout(
        "CLIP, OpenAI's and OpenCLIP's names",
        OPENAI_IMAGE,
        OPENAI_TEXT,
        _openai,
        r"logit_scale|attn_mask|input_resolution|context_length|vocab_size",
        _turned,
    ),
}
