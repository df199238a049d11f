"""How transformers names the weights and settings of both towers."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


class Plan(NamedTuple):
    """The towers of a pair, and what their texts need."""

    image: ImageTower
    text: TextTower
    padding: bool = False
    special: Mapping[str, int | None] = {}
    bare: bool | None = None
    """Whether texts lose their punctuation; None: their tokeniser's class says it."""


class Layout(NamedTuple):
    """A naming scheme for a pair's tensors."""

    label: str
    image: Rules
    text: Rules
    plan: Callable[[Config, Tensors, str, Any], Plan]
    """(config, prepared tensors, the model's name, settings to ignore) -> towers"""
    numbers: tuple[str, ...]
    """Tensors of one number that are neither tower's: scale and bias."""
    prepare: Callable[[Tensors], Tensors] = lambda tensors: tensors


def check_joint(name: str, text: int, image: int) -> None:
    """Raise unless both towers give vectors of one space."""
    if text != image:
        raise ValueError(
            f"{name} has texts of width {text} and images of width {image}, expected "
            "one joint space; fetch the files again"
        )


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
    widths = [
        tensors[f"{tower}_projection.weight"].shape[0]
        for tower in ("text", "visual")
        if f"{tower}_projection.weight" in tensors
    ]
    if len(widths) == 2:  # if one is missing, so is its tower, or its list says it
        check_joint(name, *widths)
    towers = _image(image, tensors, joint), _text(text, tensors, joint, causal=True)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    return Plan(*towers, special={i[:3]: text.get(i) for i in ids})


def _siglip(config: Config, tensors: Tensors, name: str, ignore: Any) -> Plan:
    _, text, image = _both(config, SIGLIP, name, ignore)
    joint = text.get("projection_size") or need(text, "hidden_size")
    check_joint(name, joint, need(image, "hidden_size"))
    towers = _image(image, tensors, None), _text(text, tensors, joint, causal=False)
    return Plan(*towers, padding=True, special={"pad": text.get("pad_token_id")})


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


def torch_attention(path: str, name: str) -> Rules:
    """torch's MultiheadAttention."""
    parts = [("query", 0), ("key", 1), ("value", 2)]
    return (
        *((f"{path}/{own}/kernel", f"{name}.in_proj_weight#{i}") for own, i in parts),
        *((f"{path}/{own}/bias", f"{name}.in_proj_bias#{i}") for own, i in parts),
        (f"{path}/out", f"{name}.out_proj"),
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
    *torch_attention("pool", VISION + "head.attention"),
    ("pool/norm", VISION + "head.layernorm"),
    ("pool/mlp/up", VISION + "head.mlp.fc1"),
    ("pool/mlp/down", VISION + "head.mlp.fc2"),
)
SIGLIP_TEXT = (*CLIP_TEXT[:-1], ("head", TEXT + "head"))
SCALE, BIAS = "logit_scale", "logit_bias"
LAYOUTS = {
    "clip": Layout("CLIP, transformers names", CLIP_IMAGE, CLIP_TEXT, _clip, (SCALE,)),
    "siglip": Layout(
        "SigLIP, transformers names",
        SIGLIP_IMAGE,
        SIGLIP_TEXT,
        _siglip,
        (SCALE, BIAS),
    ),
}
