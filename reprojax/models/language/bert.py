"""BERT (arXiv 1810.04805) and RoBERTa (arXiv 1907.11692): masked encoders."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float

from reprojax.core import Tokens, on_value
from reprojax.models.language.family import (
    Family,
    Tensors,
    activation,
    headless,
    need,
    one_of,
    size_of_heads,
)
from reprojax.models.language.layers import (
    ACTIVATIONS,
    MLP,
    Attention,
    Dense,
    Embed,
    Heads,
    Place,
    Positions,
    by_table,
    check_positions,
    norm,
)
from reprojax.models.settings import Common, Config, Count, Positive, bounded, refuse


class Segments(nn.Module):
    """Adds the first segment's vector to every token.

    To mark a second segment, `add` the difference of the two vectors after "embed".
    """

    types: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        init = nn.initializers.normal(0.02)
        table = self.param("embedding", init, (self.types, x.value.shape[-1]))
        return on_value(lambda h: h + table[0], x)


class Block(nn.Module):
    """Post-norm attention and MLP: each is added to its input, then normed."""

    heads: Heads
    hidden: int
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        mixed = Attention(self.heads, name="attention")(x)
        first, second = (norm(self.epsilon, f"norm_{i}") for i in (1, 2))
        mlp = MLP(self.hidden, self.activation, name="mlp")
        x = on_value(lambda h: first(h + mixed), x)
        return on_value(lambda h: second(h + mlp(h)), x)


class MaskedHead(nn.Module):
    """A dense layer, the site "words:in", then logits by the embedding's table."""

    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Tokens, table: Float[Array, "V D"]) -> Tokens:
        bias = self.param("bias", nn.initializers.zeros, table.shape[:1])
        dense, after = (
            Dense(table.shape[1], name="dense"),
            norm(self.epsilon, "norm"),
        )
        act = ACTIVATIONS[self.activation]
        x = Place(name="words")(on_value(lambda h: after(act(dense(h))), x))
        return on_value(lambda h: by_table(h, table) + bias, x)


class Bert(nn.Module):
    """Tokens of ids to Tokens of logits [B L V]; without a head, of vectors.

    Every token attends to every other. RoBERTa's table of positions begins at `offset`.
    """

    vocabulary: int
    positions: int
    width: int
    depth: int
    hidden: int
    heads: Heads
    types: int = 2
    activation: str = "gelu"
    epsilon: float = 1e-12
    offset: int = 0
    headless: bool = False
    head_activation: str = "gelu"

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        embed = Embed(self.vocabulary, self.width, name="embed")
        x = check_positions(embed(x), self.positions)
        x = Positions(self.positions, self.offset, name="positions")(x)
        x = Segments(self.types, name="segments")(x)
        x = on_value(norm(self.epsilon, "norm"), x)
        for i in range(self.depth):
            x = Block(
                self.heads,
                self.hidden,
                self.activation,
                self.epsilon,
                name=f"block_{i}",
            )(x)
        if self.headless:
            return Place(name="head")(x)
        return MaskedHead(self.head_activation, self.epsilon, name="head")(
            x, embed.embedding
        )


class Settings(Common, total=False):
    """The settings of a config that are read."""

    vocab_size: Count
    hidden_size: Count
    num_hidden_layers: Count
    num_attention_heads: Count
    intermediate_size: Count
    max_position_embeddings: Count
    type_vocab_size: Count
    hidden_act: str
    layer_norm_eps: Positive
    position_embedding_type: str
    is_decoder: bool
    add_cross_attention: bool
    tie_word_embeddings: bool


def plan(config: Config, tensors: Tensors) -> Bert:
    """The module of a config."""
    refuse(
        config,
        "a BERT",
        position_embedding_type="absolute",
        is_decoder=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    width, heads = need(config, "hidden_size"), need(config, "num_attention_heads")
    # RoBERTa counts positions from the one after its padding id
    roberta = config.get("model_type") == "roberta"
    offset = need(config, "pad_token_id") + 1 if roberta else 0
    positions = need(config, "max_position_embeddings") - offset
    if offset < 0 or positions < 1:
        raise ValueError(
            f"got a RoBERTa with pad_token_id = {offset - 1} and "
            f"max_position_embeddings = {positions + offset}, expected positions after "
            "the padding's; correct config.json"
        )
    return Bert(
        vocabulary=need(config, "vocab_size"),
        positions=positions,
        width=width,
        depth=bounded(need(config, "num_hidden_layers"), tensors),
        hidden=need(config, "intermediate_size"),
        heads=Heads(heads, heads, size_of_heads(width, heads), causal=False),
        types=need(config, "type_vocab_size"),
        activation=activation(config, "hidden_act"),
        epsilon=need(config, "layer_norm_eps"),
        offset=offset,
        headless=headless(config),
        # RoBERTa's head uses the exact GELU, whatever the blocks use
        head_activation="gelu" if roberta else activation(config, "hidden_act"),
    )


def _own_head(head: str) -> Callable[[Tensors, Bert], Tensors]:
    """Remove a head's decoder, which is tied to the embedding and the head's bias."""

    def prepare(tensors: Tensors, module: Bert) -> Tensors:
        if module.headless:
            return {n: t for n, t in tensors.items() if not n.startswith(head)}
        words = "embeddings.word_embeddings.weight"
        tensors = one_of(tensors, words, f"{head}.decoder.weight")
        return one_of(tensors, f"{head}.bias", f"{head}.decoder.bias")

    return prepare


BLOCK = r"block_(\d+)/"
ENCODER = (
    ("embed/embedding", "embeddings.word_embeddings.weight"),
    ("positions/embedding", "embeddings.position_embeddings.weight"),
    ("segments/embedding", "embeddings.token_type_embeddings.weight"),
    ("norm", "embeddings.LayerNorm"),
    (BLOCK + "attention/(query|key|value)", "encoder.layer.{}.attention.self.{}"),
    (BLOCK + "attention/out", "encoder.layer.{}.attention.output.dense"),
    (BLOCK + "norm_1", "encoder.layer.{}.attention.output.LayerNorm"),
    (BLOCK + "norm_2", "encoder.layer.{}.output.LayerNorm"),
    (BLOCK + "mlp/up", "encoder.layer.{}.intermediate.dense"),
    (BLOCK + "mlp/down", "encoder.layer.{}.output.dense"),
)
BERT = (
    ("head/dense", "cls.predictions.transform.dense"),
    ("head/norm", "cls.predictions.transform.LayerNorm"),
    ("head/bias", "cls.predictions.bias"),
)
ROBERTA = (
    ("head/dense", "lm_head.dense"),
    ("head/norm", "lm_head.layer_norm"),
    ("head/bias", "lm_head.bias"),
)
FAMILIES = {
    "bert": Family(
        "BERT",
        plan,
        (*ENCODER, *BERT),
        _own_head("cls.predictions"),
        Settings,
        r"pooler_\w+|directionality",
    ),
    "roberta": Family(
        "RoBERTa", plan, (*ENCODER, *ROBERTA), _own_head("lm_head"), Settings
    ),
}
