"""GPT-2 (Radford et al. 2019)."""

import re

import flax.linen as nn

from reprojax.models.language.family import (
    Family,
    Tensors,
    activation,
    headless,
    need,
    refuse,
)
from reprojax.models.language.layers import (
    MLP,
    Attention,
    Embed,
    Head,
    Heads,
    Place,
    Positions,
    check_positions,
    norm,
)
from reprojax.models.weights import Config
from reprojax.sequence import Tokens, on_value


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to what came."""

    heads: Heads
    hidden: int
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        normed = on_value(norm(self.epsilon, "norm_1"), x)
        mixed = Attention(self.heads, name="attention")(normed)
        x = on_value(lambda h: h + mixed, x)
        mlp = MLP(self.hidden, self.activation, name="mlp")
        second = norm(self.epsilon, "norm_2")
        return on_value(lambda h: h + mlp(second(h)), x)


class GPT2(nn.Module):
    """Tokens of ids to Tokens of logits [B L V]; without a head, of vectors."""

    vocabulary: int
    positions: int
    width: int
    depth: int
    hidden: int
    heads: Heads
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    tied: bool = True
    headless: bool = False

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        embed = Embed(self.vocabulary, self.width, name="embed")
        x = check_positions(embed(x), self.positions)
        x = Positions(self.positions, name="positions")(x)
        for i in range(self.depth):
            x = Block(
                self.heads,
                self.hidden,
                self.activation,
                self.epsilon,
                name=f"block_{i}",
            )(x)
        x = on_value(norm(self.epsilon, "norm"), x)
        if self.headless:
            return Place(name="head")(x)
        table = embed.embedding if self.tied else None
        return Head(self.vocabulary, name="head")(x, table)


def plan(config: Config, tensors: Tensors) -> GPT2:
    """The module of a config."""
    refuse(
        config,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    width, heads = need(config, "n_embd"), need(config, "n_head")
    return GPT2(
        vocabulary=need(config, "vocab_size"),
        positions=need(config, "n_positions"),
        width=width,
        depth=need(config, "n_layer"),
        hidden=config.get("n_inner") or 4 * width,
        heads=Heads(heads, heads, width // heads),
        activation=activation(config, "activation_function"),
        epsilon=need(config, "layer_norm_epsilon"),
        tied=bool(config.get("tie_word_embeddings", True)),
        headless=headless(config),
    )


def prepare(tensors: Tensors, module: GPT2) -> Tensors:
    """GPT-2 stores its kernels [in, out]; tied checkpoints may hold a copy."""
    spare = module.tied or module.headless
    return {
        name: t.T if re.search(r"\.c_(attn|proj|fc)\.weight", name) else t
        for name, t in tensors.items()
        if not (spare and name == "lm_head.weight")
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
FAMILIES = {"gpt2": Family("GPT-2", plan, RULES, prepare)}
