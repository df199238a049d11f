"""Llama and its relatives: Llama (arXiv 2302.13971), Mistral (2310.06825), Qwen2 (arXiv
2407.10671), Qwen3 (arXiv 2505.09388), SmolLM2 (arXiv 2502.02737)."""

import math
import re
from functools import partial
from typing import Annotated, Any, TypedDict

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float
from msgspec import Meta

from reprojax.models.language.decoder import Decoder, Make, own_head
from reprojax.models.language.family import (
    Family,
    Tensors,
    activation,
    headless,
    need,
    size_of_heads,
)
from reprojax.models.language.layers import ACTIVATIONS, Dense, Heads
from reprojax.models.settings import (
    Common,
    Config,
    Count,
    Positive,
    bounded,
    refuse,
    settings,
)


class Gated(nn.Module):
    """A gated MLP (SwiGLU, arXiv 2002.05202)."""

    hidden: int
    activation: str
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        gate, up = (
            Dense(self.hidden, use_bias=self.bias, name=name)(x)
            for name in ("gate", "up")
        )
        down = Dense(x.shape[-1], use_bias=self.bias, name="down")
        return down(ACTIVATIONS[self.activation](gate) * up)


class Llama(Decoder):
    """Rotated positions, RMS norms, gated MLPs."""

    activation: str = "silu"
    mlp_bias: bool = False
    epsilon: float = 1e-6

    @nn.nowrap
    def parts(self) -> tuple[Make, Make]:
        mlp = partial(Gated, self.hidden, self.activation, self.mlp_bias)
        return partial(nn.RMSNorm, self.epsilon), mlp


class Rotation(TypedDict, total=False):
    """The keys of rope_parameters, or rope_scaling, that are read."""

    rope_type: str
    type: str
    rope_theta: Positive
    factor: Positive
    low_freq_factor: Positive
    high_freq_factor: Positive
    original_max_position_embeddings: Count
    partial_rotary_factor: float
    factors: list[Positive]


class Settings(Common, total=False):
    """The settings of a config that are read."""

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    num_key_value_heads: Count
    head_dim: Annotated[int, Meta(ge=2, lt=2**16, multiple_of=2)]
    intermediate_size: Count
    max_position_embeddings: Count
    rms_norm_eps: Positive
    hidden_act: str
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    rope_theta: Positive
    rope_parameters: dict[str, Any]
    rope_scaling: dict[str, Any]
    rope_interleaved: bool
    partial_rotary_factor: float
    sliding_window: Count
    use_sliding_window: bool
    layer_types: list[str]
    use_mrope: bool


def plan(config: Config, tensors: Tensors) -> Llama:
    """The module of a config; tensors tell which layers have biases."""
    refuse(
        config,
        "a Llama or one of its kin",
        use_sliding_window=False,
        partial_rotary_factor=1.0,
        rope_interleaved=False,
        use_mrope=False,
    )
    width, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    size = config.get("head_dim") or size_of_heads(width, heads)
    groups = config.get("num_key_value_heads") or heads
    if heads % groups:
        raise ValueError(
            f"got {heads} heads in {groups} groups, expected a divisor; correct "
            "num_key_value_heads in config.json"
        )
    epsilon, kind = need(config, "rms_norm_eps"), config.get("model_type")

    def said(key: str, pattern: str) -> bool:
        """As the config says; if it does not, whether there is such a tensor."""
        found = any(re.fullmatch(rf".*\.{pattern}", name) for name in tensors)
        # Qwen2 has no such setting: its queries, keys and values have biases
        return found if config.get(key) is None or kind == "qwen2" else config[key]

    return Llama(
        vocabulary=need(config, "vocab_size"),
        positions=need(config, "max_position_embeddings"),
        width=width,
        depth=bounded(need(config, "num_hidden_layers"), tensors),
        hidden=need(config, "intermediate_size"),
        heads=Heads(
            heads,
            groups,
            size,
            bias=kind == "qwen2" or said("attention_bias", r"(q_proj|attn_q)\.bias"),
            out_bias=said("attention_bias", r"(o_proj|attn_output)\.bias"),
            frequencies=frequencies(config, size),
            norm=epsilon if kind == "qwen3" else None,
            window=_window(config),
        ),
        activation=activation(config, "hidden_act"),
        mlp_bias=said("mlp_bias", r"(down_proj|ffn_down)\.bias"),
        epsilon=epsilon,
        tied=bool(config.get("tie_word_embeddings", False)),
        headless=headless(config),
    )


def _window(config: Config) -> int | None:
    """How far back a query attends. Qwen2 writes a window but switches it off by a
    flag; Mistral's default is 4,096, and null means none."""
    if config.get("model_type") == "mistral":
        return config.get("sliding_window", 4096)
    if other := {*(config.get("layer_types") or ())} - {"full_attention"}:
        raise ValueError(
            f"got a model with layers of {sorted(other)}, expected full_attention in "
            "all of them; write a module for it, and call language.texts(module)"
        )
    return None


def frequencies(config: Config, size: int) -> tuple[float, ...]:
    """Radians a position for each rotated pair, scaled by `rope_scaling`."""
    both = [config.get(key) for key in ("rope_parameters", "rope_scaling")]
    given = [its for its in both if its]
    if len(given) > 1 and given[0] != given[1]:
        raise ValueError(
            f"got a config with rope_parameters {both[0]} and rope_scaling {both[1]}, "
            "expected one of them; remove the other from config.json"
        )
    scaling = settings(given[0], Rotation, "the rotation") if given else {}
    refuse(scaling, "a rotation", partial_rotary_factor=1.0)
    theta = scaling.get("rope_theta") or config.get("rope_theta") or 1e4
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    plain = [theta ** (-i / size) for i in range(0, size, 2)]
    if kind == "default":
        return tuple(plain)
    if kind == "linear":
        return tuple(f / need(scaling, "factor") for f in plain)
    if kind == "factors":  # one for each pair, from a GGUF file
        return tuple(f / k for f, k in zip(plain, scaling["factors"], strict=True))
    if kind == "llama3":
        return tuple(_llama3(f, scaling) for f in plain)
    raise ValueError(
        f"got the rotary scaling {kind!r}, expected default, linear or llama3; write a "
        "module with Heads(frequencies=...) of your own"
    )


def _llama3(frequency: float, scaling: Config) -> float:
    """Low frequencies are divided by a factor, high ones kept, with a ramp between."""
    context = need(scaling, "original_max_position_embeddings")
    turns = context * frequency / (2 * math.pi)
    low, high = need(scaling, "low_freq_factor"), need(scaling, "high_freq_factor")
    if low >= high:
        raise ValueError(
            f"got a rotation with low_freq_factor {low} and high_freq_factor {high}, "
            "expected the first below the second; correct config.json"
        )
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return (1 - kept) * frequency / need(scaling, "factor") + kept * frequency


def in_halves(tensors: Tensors, module: Llama) -> Tensors:
    """Reorder queries and keys from llama.cpp's rotated pairs (2 i, 2 i + 1) to the
    pairs (i, i + d / 2) of `rotated`."""

    def reordered(name: str, value: np.ndarray) -> np.ndarray:
        if not re.fullmatch(r".*\.attn_[qk]\.(weight|bias)", name):
            return value
        pairs = value.reshape(-1, module.heads.size // 2, 2, *value.shape[1:])
        return pairs.swapaxes(1, 2).reshape(value.shape)

    return {name: reordered(name, value) for name, value in tensors.items()}


BLOCK = r"block_(\d+)/"
TRANSFORMERS = (
    ("embed/embedding", "embed_tokens.weight"),
    (BLOCK + "norm_1", "layers.{}.input_layernorm"),
    (BLOCK + "norm_2", "layers.{}.post_attention_layernorm"),
    (BLOCK + "attention/query", "layers.{}.self_attn.q_proj"),
    (BLOCK + "attention/key", "layers.{}.self_attn.k_proj"),
    (BLOCK + "attention/value", "layers.{}.self_attn.v_proj"),
    (BLOCK + "attention/out", "layers.{}.self_attn.o_proj"),
    (BLOCK + "attention/query_norm", "layers.{}.self_attn.q_norm"),
    (BLOCK + "attention/key_norm", "layers.{}.self_attn.k_norm"),
    (BLOCK + "mlp/(gate|up|down)", "layers.{}.mlp.{}_proj"),
    ("norm", "norm"),
    ("head/words", "lm_head"),
)
GGUF = (
    ("embed/embedding", "token_embd.weight"),
    (BLOCK + "norm_1", "blk.{}.attn_norm"),
    (BLOCK + "norm_2", "blk.{}.ffn_norm"),
    (BLOCK + "attention/query", "blk.{}.attn_q"),
    (BLOCK + "attention/key", "blk.{}.attn_k"),
    (BLOCK + "attention/value", "blk.{}.attn_v"),
    (BLOCK + "attention/out", "blk.{}.attn_output"),
    (BLOCK + "attention/query_norm", "blk.{}.attn_q_norm"),
    (BLOCK + "attention/key_norm", "blk.{}.attn_k_norm"),
    (BLOCK + "mlp/(gate|up|down)", "blk.{}.ffn_{}"),
    ("norm", "output_norm"),
    ("head/words", "output"),
)

FAMILIES = {
    kind: Family(
        label,
        plan,
        TRANSFORMERS,
        own_head("embed_tokens.weight"),
        Settings,
        "max_window_layers",
    )
    for kind, label in (
        ("llama", "Llama"),
        ("mistral", "Mistral"),
        ("qwen2", "Qwen2"),
        ("qwen3", "Qwen3"),
    )
}
GGUF_FAMILIES = {
    # llama.cpp reorders rotated pairs for Llama's names only
    "llama": Family("Llama, GGUF names", plan, GGUF, in_halves, Settings),
    "qwen2": Family("Qwen2, GGUF names", plan, GGUF, settings=Settings),
    "qwen3": Family("Qwen3, GGUF names", plan, GGUF, settings=Settings),
}
