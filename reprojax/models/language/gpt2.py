"""GPT-2 (Radford et al. 2019)."""

import re
from functools import partial

import flax.linen as nn

from reprojax.models.language.decoder import Decoder, Make, own_head
from reprojax.models.language.family import (
    Family,
    Tensors,
    activation,
    headless,
    need,
    size_of_heads,
)
from reprojax.models.language.layers import MLP, Heads, norm
from reprojax.models.settings import Common, Config, Count, Positive, bounded, refuse


class GPT2(Decoder):
    """Learned positions, layer norms."""

    activation: str = "gelu_new"
    epsilon: float = 1e-5

    @nn.nowrap
    def parts(self) -> tuple[Make, Make]:
        mlp = partial(MLP, self.hidden, self.activation)
        return partial(norm, self.epsilon), mlp


class Settings(Common, total=False):
    """The settings of a config that are read."""

    vocab_size: Count
    n_embd: Count
    n_head: Count
    n_positions: Count
    n_layer: Count
    n_inner: Count
    activation_function: str
    layer_norm_epsilon: Positive
    tie_word_embeddings: bool
    scale_attn_weights: bool
    scale_attn_by_inverse_layer_idx: bool
    add_cross_attention: bool


def plan(config: Config, tensors: Tensors) -> GPT2:
    """The module of a config."""
    refuse(
        config,
        "a GPT-2",
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    width, heads = need(config, "n_embd"), need(config, "n_head")
    return GPT2(
        vocabulary=need(config, "vocab_size"),
        positions=need(config, "n_positions"),
        width=width,
        depth=bounded(need(config, "n_layer"), tensors),
        hidden=config.get("n_inner") or 4 * width,
        heads=Heads(heads, heads, size_of_heads(width, heads)),
        activation=activation(config, "activation_function"),
        epsilon=need(config, "layer_norm_epsilon"),
        tied=bool(config.get("tie_word_embeddings", True)),
        headless=headless(config),
    )


def prepare(tensors: Tensors, module: GPT2) -> Tensors:
    """Transpose kernels, which GPT-2 stores as [in, out]."""
    return {
        name: t.T if re.search(r"\.c_(attn|proj|fc)\.weight", name) else t
        for name, t in own_head("wte.weight")(tensors, module).items()
    }


BLOCK = r"block_(\d+)/"
RULES = (
    ("embed/embedding", "wte.weight"),
    ("positions/embedding", "wpe.weight"),
    (BLOCK + r"norm_(\d)", "h.{}.ln_{}"),
    (BLOCK + "attention/query", "h.{}.attn.c_attn#0"),
    (BLOCK + "attention/key", "h.{}.attn.c_attn#1"),
    (BLOCK + "attention/value", "h.{}.attn.c_attn#2"),
    (BLOCK + "attention/out", "h.{}.attn.c_proj"),
    (BLOCK + "mlp/up", "h.{}.mlp.c_fc"),
    (BLOCK + "mlp/down", "h.{}.mlp.c_proj"),
    ("norm", "ln_f"),
    ("head/words", "lm_head"),
)
FAMILIES = {
    "gpt2": Family(
        "GPT-2", plan, RULES, prepare, Settings, r"n_ctx|summary_\w+|is_decoder"
    )
}
