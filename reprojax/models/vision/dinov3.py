"""DINOv3's vision transformers (arXiv 2508.10104): positions turn queries and keys."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config, Count, Positive, Vision, bounded, refuse
from reprojax.models.vision.layers import Patches, gelu, head
from reprojax.models.vision.vit import Block, attended, refuse_size, roles
from reprojax.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Shapes,
    Tensors,
    count_numbered,
    origin,
    shape_of,
)

ACTIVATIONS: dict[str, Callable] = {"gelu": gelu, "silu": nn.silu}


def turned(
    x: Float[Array, "B L h d"], side: int, theta: float
) -> Float[Array, "B L h d"]:
    """Queries or keys of patches in a square, the last tokens, turned by their place.

    The first half of the angles is by row, the second by column, from -1 to 1 over the
    image; the tokens before have no place.
    """
    batch, _, heads, size = x.shape
    center = 2 * (jnp.arange(side) + 0.5) / side - 1
    speed = 2 * math.pi * theta ** -jnp.arange(0, 1, 4 / size)
    row, column = jnp.divmod(jnp.arange(side**2), side)
    angles = [center[place][:, None] * speed for place in (row, column)]
    angles = jnp.concatenate(angles * 2, axis=-1)[:, None]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    first, x = x[:, : -(side**2)], x[:, -(side**2) :]
    one, two = jnp.split(x, 2, axis=-1)
    x = x * cos + jnp.concatenate([-two, one], axis=-1) * sin
    return jnp.concatenate([first, x], axis=1)


class Attention(nn.Module):
    """Self-attention; "query", "key" and "value" give [B L h d], not yet turned."""

    heads: int
    side: int
    theta: float
    bias: bool
    key_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        biases = {"query": self.bias, "key": self.key_bias, "value": self.bias}
        query, key, value = (
            nn.DenseGeneral(shape, use_bias=bias, name=name)(x)
            for name, bias in biases.items()
        )
        query, key = (turned(v, self.side, self.theta) for v in (query, key))
        return nn.Dense(width, name="out")(attended(query, key, value))


class MLP(nn.Module):
    """Two dense layers around an activation; with `gated` it multiplies a third."""

    hidden: int
    activation: str
    gated: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        act, up = ACTIVATIONS[self.activation], nn.Dense(self.hidden, name="up")(x)
        if self.gated:
            up = act(nn.Dense(self.hidden, name="gate")(x)) * up
        else:
            up = act(up)
        return nn.Dense(x.shape[-1], name="down")(up)


class DINOv3(nn.Module):
    """Patches, a class token, registers, `depth` blocks; gives the class token.

    Patches are the last tokens, so those that a prompt inserts after the class token
    change no other's place.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    registers: int
    activation: str = "gelu"
    gated: bool = False
    epsilon: float = 1e-5
    theta: float = 100.0
    bias: bool = True
    key_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        side = x.shape[1] // self.patch
        x = Patches(self.patch, self.width, name="patches")(x)
        batch, _, width = x.shape
        normal = nn.initializers.normal(0.02)
        tokens = [("class_token", 1), ("registers", self.registers)]
        first = [self.param(n, normal, (1, size, width)) for n, size in tokens if size]
        first = [jnp.broadcast_to(v, (batch, *v.shape[1:])) for v in first]
        x = jnp.concatenate([*first, x], axis=1)
        own = (self.heads, side, self.theta, self.bias, self.key_bias)
        attention = partial(Attention, *own)
        mlp = partial(MLP, self.hidden, self.activation, self.gated)
        norm = partial(nn.LayerNorm, epsilon=self.epsilon)
        for i in range(self.depth):
            x = Block(attention, mlp, norm, True, name=f"block_{i}")(x)
        x = norm(name="norm")(x)
        return head(0)(x[:, 0])


class Settings(Vision, total=False):
    """Settings by transformers."""

    num_hidden_layers: Count
    num_attention_heads: Count
    layer_norm_eps: Positive
    rope_theta: Positive
    hidden_act: str
    mlp_bias: bool
    proj_bias: bool


def _plan(shapes: Shapes, config: Config) -> Plan:
    """Width, depth, patch and the kind of MLP from shapes, the rest from a config."""
    refuse(config, "a DINOv3", mlp_bias=True, proj_bias=True)
    activation = config.get("hidden_act") or "gelu"
    if activation not in ACTIVATIONS:
        refuse(config, "a DINOv3", hidden_act="gelu")
    look = lambda path, default: shape_of(shapes, RULES, path, default)
    named = lambda path: origin(RULES, f"block_0/{path}")[0] in shapes
    width, _, patch, _ = look("patches/kernel", (384, 3, 16, 16))
    depth = config.get("num_hidden_layers") or count_numbered(shapes, BLOCKS)
    depth = bounded(depth, shapes)
    module = DINOv3(
        patch,
        width,
        depth,
        _heads(config, width),
        look("block_0/mlp/up/bias", (4 * width,))[0],
        look("registers", (1, 0, width))[1],
        activation,
        named("mlp/gate/kernel") or named("mlp/gate/bias"),
        config.get("layer_norm_eps") or 1e-5,
        config.get("rope_theta") or 100.0,
        named("attention/query/bias"),
        named("attention/key/bias"),
    )
    size = 224 // patch * patch or patch
    return Plan(module, size, IMAGENET_MEAN, IMAGENET_STD, roles(depth), 0)


def _heads(config: Config, width: int) -> int:
    heads = config.get("num_attention_heads")
    if not heads or width % (4 * heads):
        raise ValueError(
            f"got a DINOv3 of width {width} with {heads or 'no'} heads, expected their "
            "width to be a multiple of 4; call load(..., heads=...)"
        )
    return heads


def _prepare(tensors: Tensors, plan: Plan) -> Tensors:
    refuse_size(plan.size, plan.module.patch)
    return tensors


BLOCK, BLOCKS = r"block_(\d+)", r"layer\.(\d+)\."
RULES = (
    ("patches", "embeddings.patch_embeddings"),
    ("class_token", "embeddings.cls_token"),
    ("registers", "embeddings.register_tokens"),
    (BLOCK + r"/norm_(\d)", "layer.{}.norm{}"),
    (BLOCK + "/attention/query", "layer.{}.attention.q_proj"),
    (BLOCK + "/attention/key", "layer.{}.attention.k_proj"),
    (BLOCK + "/attention/value", "layer.{}.attention.v_proj"),
    (BLOCK + "/attention/out", "layer.{}.attention.o_proj"),
    (BLOCK + r"/scale_(\d)/gamma", "layer.{}.layer_scale{}.lambda1"),
    (BLOCK + "/mlp/(gate|up|down)", "layer.{}.mlp.{}_proj"),
    ("norm", "norm"),
)
LAYOUTS = (
    Layout(
        "DINOv3, transformers names",
        BLOCKS + r"(attention\.[qkvo]_proj|layer_scale\d|mlp\.(gate|up|down)_proj)\.",
        _plan,
        RULES,
        _prepare,
        "dinov3_vit",
        "dinov3_vit",
        Settings,
        "hidden_size|intermediate_size|image_size|patch_size|num_channels"
        "|use_gated_mlp|(query|key|value)_bias|num_register_tokens"
        "|pos_embed_(shift|jitter|rescale)|apply_layernorm|reshape_hidden_states"
        "|stage_names|out_features|out_indices",
    ),
)
