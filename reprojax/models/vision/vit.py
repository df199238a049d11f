"""Vision transformers: ViT (arXiv 2010.11929), DeiT without distillation, DINOv2
(arXiv 2304.07193)."""

import math
import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from reprojax.models.settings import Config, Count, Positive, Vision, bounded, refuse
from reprojax.models.vision.layers import LayerScale, Patches, gelu, head
from reprojax.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Rules,
    Shapes,
    count_numbered,
    origin,
    shape_of,
)

HALF = (0.5, 0.5, 0.5)


class Attention(nn.Module):
    """Self-attention; "query", "key" and "value" give [B L h d].

    A bias for pairs of tokens is added to the scores of each n rows of the batch.
    The softmax's sums divide after the product with the values, which saves a pass over
    [L L].
    """

    heads: int
    bias: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], bias: Float[Array, "n h L L"] | None = None
    ) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        shape = (self.heads, width // self.heads)
        query, key, value = (
            nn.DenseGeneral(shape, use_bias=self.bias, name=name)(x)
            for name in ("query", "key", "value")
        )
        scores = jnp.einsum("blhd,bmhd->bhlm", query * shape[1] ** -0.5, key)
        scores = scores.astype(jnp.float32)
        if bias is not None:
            groups = scores.reshape(-1, *bias.shape)
            scores = (groups + bias.astype(jnp.float32)).reshape(scores.shape)
        # A softmax does not change with this shift, so it needs no gradient.
        top = lax.stop_gradient(scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        mixed = jnp.einsum("bhlm,bmhd->bhld", weights.astype(value.dtype), value)
        mixed = (mixed / total).astype(x.dtype).transpose(0, 2, 1, 3)
        return nn.Dense(width, name="out")(mixed.reshape(*x.shape))


class MLP(nn.Module):
    """Two dense layers around the exact GELU."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B *place D"]) -> Float[Array, "B *place D"]:
        up = gelu(nn.Dense(self.hidden, name="up")(x))
        return nn.Dense(x.shape[-1], name="down")(up)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to its input."""

    heads: int
    hidden: int
    epsilon: float
    layer_scale: bool
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        parts = (
            Attention(self.heads, self.bias, name="attention"),
            MLP(self.hidden, name="mlp"),
        )
        for i, part in enumerate(parts, 1):
            y = part(nn.LayerNorm(epsilon=self.epsilon, name=f"norm_{i}")(x))
            x = x + (LayerScale(name=f"scale_{i}")(y) if self.layer_scale else y)
        return x


class ViT(nn.Module):
    """Patches, a class token, `depth` blocks; the head reads the class token.

    With `with_mean` the head also reads the mean of the patch tokens. These are the
    last tokens, so tokens that a prompt inserts after the class token are excluded.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    classes: int
    epsilon: float = 1e-6
    layer_scale: bool = False
    with_mean: bool = False
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = Patches(self.patch, self.width, name="patches")(x)
        batch, patches, width = x.shape
        normal = nn.initializers.normal(0.02)
        token = self.param("class_token", normal, (1, 1, width))
        positions = self.param("positions", normal, (1, patches + 1, width))
        token = jnp.broadcast_to(token, (batch, 1, width))
        x = jnp.concatenate([token, x], axis=1) + positions
        for i in range(self.depth):
            x = Block(
                self.heads,
                self.hidden,
                self.epsilon,
                self.layer_scale,
                self.bias,
                name=f"block_{i}",
            )(x)
        x = nn.LayerNorm(epsilon=self.epsilon, name="norm")(x)
        features = x[:, 0]
        if self.with_mean:
            features = jnp.concatenate([features, x[:, -patches:].mean(1)], axis=-1)
        return head(self.classes)(features)


def roles(depth: int) -> dict[str, tuple[str, ...]]:
    """{role: sites} of a `ViT`."""
    each = lambda end: tuple(f"block_{i}{end}" for i in range(depth))
    return {
        "input": ("input", "normalized"),
        "embedding": ("block_0:in",),
        "blocks": each(":in"),
        "keys": each("/attention/key:out"),
        "values": each("/attention/value:out"),
        "tokens": ("norm:out",),
        "features": ("head:in",),
    }


class Settings(Vision, total=False):
    """Settings by transformers and, in its model_args, timm."""

    num_hidden_layers: Count
    num_attention_heads: Count
    num_heads: Count
    layer_norm_eps: Positive
    hidden_act: str
    use_swiglu_ffn: bool


def _planner(rules: Rules, block: str, epsilon: float):
    """Width, depth, patch and classes from shapes; heads and epsilon from a config."""

    def plan(shapes: Shapes, config: Config) -> Plan:
        look = lambda path, default: shape_of(shapes, rules, path, default)
        refuse(
            config,
            "a ViT",
            hidden_act="gelu",
            use_swiglu_ffn=False,
            global_pool="token",
            is_encoder_decoder=False,
        )
        width, _, patch, _ = look("patches/kernel", (192, 3, 16, 16))
        length = look("positions", (1, 197, width))[-2]
        hidden = look("block_0/mlp/up/kernel", (4 * width, width))[0]
        classes, *read = look("head/kernel", (*look("head/bias", (0,)), width))
        depth = config.get("num_hidden_layers") or count_numbered(shapes, block)
        depth = bounded(depth, shapes)
        heads = _heads(config, width)
        scaled = any(re.search(r"lambda1|gamma", name) for name in shapes)
        module = ViT(
            patch,
            width,
            depth,
            heads,
            hidden,
            classes,
            config.get("layer_norm_eps") or epsilon,
            layer_scale=scaled,
            with_mean=read == [2 * width],
            bias=any(re.search(r"(qkv|query)\.bias", name) for name in shapes),
        )
        size = patch * math.isqrt(length - 1)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if scaled else (HALF, HALF)
        return Plan(module, size, mean, std, roles(depth), classes)

    return plan


HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}


def _heads(config: Config, width: int) -> int:
    """The config's number of heads, or that of published models of that width."""
    heads = config.get("num_attention_heads") or config.get("num_heads")
    heads = HEADS.get(width) if heads is None else heads
    if not heads or width % heads:
        raise ValueError(
            f"got a ViT of width {width} with {heads or 'no'} heads, expected a "
            "divisor of the width; call load(..., heads=...)"
        )
    return heads


def _fit_positions(name: str):
    """Resize positions of another grid as torch's bicubic interpolation does."""

    def prepare(tensors: dict[str, np.ndarray], plan: Plan) -> dict[str, np.ndarray]:
        patch, old = plan.module.patch, tensors.get(name)
        if plan.size % patch:
            raise ValueError(
                f"got size {plan.size} for patches of {patch} pixels, expected a "
                "multiple; call load(..., size=...)"
            )
        new = plan.size // patch
        if old is None or old.ndim != 3 or old.shape[1] == new * new + 1:
            return tensors
        side = math.isqrt(old.shape[1] - 1)
        if side * side + 1 != old.shape[1]:
            return tensors  # not a grid: `filled` lists it as misshaped
        token, grid = old[:, :1], old[0, 1:].reshape(side, side, -1)
        weights = _bicubic(side, new)
        grid = np.einsum("ai,bj,ijd->abd", weights, weights, grid.astype(np.float32))
        grid = grid.reshape(1, new * new, -1)
        return tensors | {name: np.concatenate([token, grid], axis=1)}

    return prepare


def _bicubic(old: int, new: int) -> np.ndarray:
    """[new, old] weights: Keys' kernel with a = -.75, half-pixel centres, clamped."""
    a, out = -0.75, np.zeros((new, old), np.float32)
    for row in range(new):
        at = (row + 0.5) * old / new - 0.5
        for column in range(math.floor(at) - 1, math.floor(at) + 3):
            t = abs(at - column)
            near = (a + 2) * t**3 - (a + 3) * t**2 + 1
            far = a * (t**3 - 5 * t**2 + 8 * t - 4)
            out[row, min(max(column, 0), old - 1)] += near if t <= 1 else far
    return out


BLOCK = r"block_(\d+)"
TIMM = (
    ("patches", "patch_embed.proj"),
    ("class_token", "cls_token"),
    ("positions", "pos_embed"),
    (BLOCK + r"/norm_(\d)", "blocks.{}.norm{}"),
    (BLOCK + "/attention/query", "blocks.{}.attn.qkv#0"),
    (BLOCK + "/attention/key", "blocks.{}.attn.qkv#1"),
    (BLOCK + "/attention/value", "blocks.{}.attn.qkv#2"),
    (BLOCK + "/attention/out", "blocks.{}.attn.proj"),
    (BLOCK + r"/scale_(\d)/gamma", "blocks.{}.ls{}.gamma"),
    (BLOCK + "/mlp/up", "blocks.{}.mlp.fc1"),
    (BLOCK + "/mlp/down", "blocks.{}.mlp.fc2"),
    ("norm", "norm"),
    ("head", "head"),
)
TRANSFORMERS = (
    ("patches", "embeddings.patch_embeddings.projection"),
    ("class_token", "embeddings.cls_token"),
    ("positions", "embeddings.position_embeddings"),
    (BLOCK + "/attention/query", "encoder.layer.{}.attention.attention.query"),
    (BLOCK + "/attention/key", "encoder.layer.{}.attention.attention.key"),
    (BLOCK + "/attention/value", "encoder.layer.{}.attention.attention.value"),
    (BLOCK + "/attention/out", "encoder.layer.{}.attention.output.dense"),
    ("norm", "layernorm"),
    ("head", "classifier"),
)
VIT = (
    (BLOCK + "/norm_1", "encoder.layer.{}.layernorm_before"),
    (BLOCK + "/norm_2", "encoder.layer.{}.layernorm_after"),
    (BLOCK + "/mlp/up", "encoder.layer.{}.intermediate.dense"),
    (BLOCK + "/mlp/down", "encoder.layer.{}.output.dense"),
)
DINOV2 = (
    (BLOCK + r"/norm_(\d)", "encoder.layer.{}.norm{}"),
    (BLOCK + r"/scale_(\d)/gamma", "encoder.layer.{}.layer_scale{}.lambda1"),
    (BLOCK + "/mlp/up", "encoder.layer.{}.mlp.fc1"),
    (BLOCK + "/mlp/down", "encoder.layer.{}.mlp.fc2"),
)


# architectures whose blocks, classifier and epsilon are those built here
NAMES = (
    r"vit|dinov2|deit_(tiny|small|base)_patch16_\d+|vit_(small|base|large)_patch14_dinov2"
    r"|vit_(tiny|small|base|large|huge|giant|gigantic)_patch\d+_\d+(_in21k|_dino|_miil)?"
)
SHAPES = "hidden_size|intermediate_size|mlp_ratio|image_size|patch_size|num_channels"


def _layout(
    label: str, block: str, own: str, rules: Rules, epsilon: float, names: str = "vit"
) -> Layout:
    """`block` matches a block's tensors; `own` adds what no other layout has."""
    plan, (positions, _) = _planner(rules, block, epsilon), origin(rules, "positions")
    return Layout(
        label,
        block + own,
        plan,
        rules,
        _fit_positions(positions),
        names,
        names if names.isalnum() else "vit_tiny_patch16_224",
        Settings,
        SHAPES + r"|qkv_bias|encoder_stride|pooler_(act|output_size)|apply_layernorm"
        r"|reshape_hidden_states|use_mask_token|stage_names|out_features|out_indices",
        r"embed_dim|depth|patch_size|mlp_ratio|qkv_bias|init_values|dynamic_img_size"
        r"|drop_rate|\w+_drop_rate",
    )


THEIRS = r"encoder\.layer\.(\d+)\."
LAYOUTS = (
    _layout(
        "ViT or DINOv2, timm names", r"blocks\.(\d+)\.", r"attn\.", TIMM, 1e-6, NAMES
    ),
    _layout(
        "DINOv2, transformers names",
        THEIRS,
        r"(layer_scale\d|norm\d|mlp)\.",
        (*TRANSFORMERS, *DINOV2),
        1e-6,
        "dinov2",
    ),
    _layout(
        "ViT, transformers names",
        THEIRS,
        r"layernorm_(before|after)\.",
        (*TRANSFORMERS, *VIT),
        1e-12,
    ),
)
