"""The common parts of causal decoders; a family adds its norm and MLP."""

from collections.abc import Callable

import flax.linen as nn

from reprojax.core import Tokens, on_value
from reprojax.models.language.family import Tensors, one_of
from reprojax.models.language.layers import (
    Attention,
    Embed,
    Head,
    Heads,
    Place,
    Positions,
    check_positions,
)

Make = Callable[..., nn.Module]


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    heads: Heads
    norm: Make
    mlp: Make

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        normed = on_value(self.norm(name="norm_1"), x)
        mixed = Attention(self.heads, name="attention")(normed)
        x = on_value(lambda h: h + mixed, x)
        mlp, norm = self.mlp(name="mlp"), self.norm(name="norm_2")
        return on_value(lambda h: h + mlp(norm(h)), x)


class Decoder(nn.Module):
    """Tokens of ids to Tokens of logits [B L V]; without a head, of vectors.

    Positions are learned unless `heads` has rotary frequencies.
    """

    vocabulary: int
    positions: int
    width: int
    depth: int
    hidden: int
    heads: Heads
    tied: bool = True
    headless: bool = False

    @nn.nowrap
    def parts(self) -> tuple[Make, Make]:
        """The family's norm and MLP, each a function of its name."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        norm, mlp = self.parts()
        embed = Embed(self.vocabulary, self.width, name="embed")
        x = check_positions(embed(x), self.positions)
        if not self.heads.frequencies:
            x = Positions(self.positions, name="positions")(x)
        for i in range(self.depth):
            x = Block(self.heads, norm, mlp, name=f"block_{i}")(x)
        x = on_value(norm(name="norm"), x)
        if self.headless:
            return Place(name="head")(x)
        table = embed.embedding if self.tied else None
        return Head(self.vocabulary, name="head")(x, table)


def own_head(embedding: str) -> Callable[[Tensors, Decoder], Tensors]:
    """Tied models may also, or only, store the embedding's table as lm_head."""

    def prepare(tensors: Tensors, module: Decoder) -> Tensors:
        if module.headless:
            return {n: t for n, t in tensors.items() if n != "lm_head.weight"}
        if module.tied:
            return one_of(tensors, embedding, "lm_head.weight")
        return tensors

    return prepare
