"""The two towers: images and texts to vectors of one joint space.

CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343).
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from reprojax.core import PyTree, Tokens, last_value
from reprojax.models.language.card import roles as language_roles
from reprojax.models.language.decoder import Block
from reprojax.models.language.layers import (
    MLP,
    Dense,
    Embed,
    Heads,
    Positions,
    check_positions,
    norm,
)
from reprojax.models.vision import vit
from reprojax.models.vision.layers import Patches


class Stem(nn.Module):
    """Patches of 4 pixels by convolutions, one after the other.

    A small transformer learns figures from fewer images than with patches cut out
    (arXiv 2106.14881).
    """

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B L D"]:
        for i, (width, stride) in enumerate(((24, 2), (48, 2), (48, 1))):
            conv = nn.Conv(width, (3, 3), stride, padding=1, name=f"conv_{i}")
            x = nn.relu(conv(x))
        x = x.reshape(len(x), -1, x.shape[-1])
        return nn.Dense(self.width, name="out")(x)


class Pool(nn.Module):
    """A learned query attends to all tokens; then an MLP (SigLIP)."""

    heads: int
    hidden: int
    activation: str
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B D"]:
        width = x.shape[-1]
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, width))
        shape = (self.heads, width // self.heads)
        query = nn.DenseGeneral(shape, name="query")(probe)
        query = jnp.broadcast_to(query, (len(x), *query.shape[1:]))
        key = nn.DenseGeneral(shape, name="key")(x)
        value = nn.DenseGeneral(shape, name="value")(x)
        y = nn.Dense(width, name="out")(vit.attended(query, key, value))
        mlp = MLP(self.hidden, self.activation, name="mlp")
        return (y + mlp(norm(self.epsilon, "norm")(y)))[:, 0]


class ImageTower(nn.Module):
    """A ViT whose answer is a vector [B J] of the joint space.

    CLIP's reads a class token and projects it; SigLIP's has neither, and pools.
    """

    patch: int
    size: int
    width: int
    depth: int
    heads: int
    hidden: int
    joint: int | None = None
    """J, of CLIP's projection; None: SigLIP's pooling, J = D."""
    activation: str = "quick_gelu"
    epsilon: float = 1e-5
    stem: bool = False
    """Convolutions instead of patches."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B J"]:
        clip, start = self.joint is not None, nn.initializers.normal(0.02)
        if self.stem:
            x = Stem(self.width, name="patches")(x)
        else:
            x = Patches(self.patch, self.width, bias=not clip, name="patches")(x)
        if clip:
            token = self.param("class_token", start, (self.width,))
            token = jnp.broadcast_to(token, (len(x), 1, self.width)).astype(x.dtype)
            x = jnp.concatenate([token, x], axis=1)
        length = (self.size // self.patch) ** 2 + clip
        x = x + self.param("positions", start, (length, self.width))
        if clip:
            x = norm(self.epsilon, "norm_before")(x)
        attention = partial(vit.Attention, self.heads)
        mlp = partial(MLP, self.hidden, self.activation)
        parts = (attention, mlp, partial(norm, self.epsilon))
        for i in range(self.depth):
            x = vit.Block(*parts, name=f"block_{i}")(x)
        if self.joint is None:
            own = (self.heads, self.hidden, self.activation, self.epsilon)
            return Pool(*own, name="pool")(norm(self.epsilon, "norm")(x))
        x = norm(self.epsilon, "norm")(x[:, 0])
        return nn.Dense(self.joint, use_bias=False, name="head")(x)


def patch_features(
    frozen: PyTree, tokens: Float[Array, "B L D"], epsilon: float = 1e-5
) -> Float[Array, "B L-1 J"]:
    """Features of the patches, of the last block's tokens, made as CLIP's tower makes
    the image's of the class token, the first."""
    own = frozen["params"]
    normed = norm(epsilon, "norm").apply({"params": own["norm"]}, tokens[:, 1:])
    return normed @ own["head"]["kernel"]


class TextTower(nn.Module):
    """Tokens of ids [R L] to vectors [R J], read at each text's last token.

    CLIP's attends backwards, so padding behind a text changes nothing. SigLIP's attends
    to all, and was trained on texts padded to its number of positions with tokens that
    count (weight 1).
    """

    vocabulary: int
    positions: int
    width: int
    depth: int
    hidden: int
    heads: Heads
    joint: int
    projection_bias: bool = False
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Tokens) -> Float[Array, "R J"]:
        x = Embed(self.vocabulary, self.width, name="embed")(x)
        x = check_positions(x, self.positions)
        x = Positions(self.positions, name="positions")(x)
        normed = partial(norm, self.epsilon)
        mlp = partial(MLP, self.hidden, self.activation)
        for i in range(self.depth):
            x = Block(self.heads, normed, mlp, name=f"block_{i}")(x)
        last = norm(self.epsilon, "norm")(last_value(x))
        return Dense(self.joint, use_bias=self.projection_bias, name="head")(last)


def roles(tower: ImageTower | TextTower) -> dict[str, tuple[str, ...]]:
    """{role: sites} of a tower on its own. Its features are its answer.

    The patches of a tower like CLIP's pass a norm before its blocks, so they have a
    site in front of it, and one behind it.
    """
    if isinstance(tower, TextTower):
        own = language_roles(tower.depth)
        del own["features"]
        return own
    own = vit.roles(tower.depth)
    del own["tokens"]  # CLIP norms its class token alone, SigLIP has none
    if tower.joint is not None:
        own["embedding"] = ("norm_before:in", *own["embedding"])
    return own | {"features": ("output",)}
