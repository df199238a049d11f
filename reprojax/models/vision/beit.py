"""BEiT (arXiv 2106.08254), and its second version (arXiv 2208.06366)."""

import math
import re

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config, Count, Positive, Vision, bounded, refuse
from reprojax.models.vision.layers import LayerScale, Patches, head
from reprojax.models.vision.vit import MLP, Attention, refuse_size, roles
from reprojax.models.vision.vit_layouts import timm_blocks
from reprojax.models.weights import (
    HALF,
    Layout,
    Plan,
    Rules,
    Shapes,
    Tensors,
    count_numbered,
    origin,
    shape_of,
)


def between(
    table: Float[Array, "T h"], side: int, length: int
) -> Float[Array, "1 h L L"]:
    """A bias for each pair of tokens, of a class token and patches in a square.

    The table holds the distances in rows and columns, then class to patch, patch to
    class, and class to itself. Tokens that a prompt inserts after the class token have
    no bias to any.
    """
    span, ends = 2 * side - 1, len(table) - 3
    place = jnp.arange(length) - (length - side**2)  # of patches from 0
    row, column = jnp.divmod(place, side)
    far = lambda n: n[:, None] - n[None] + side - 1
    index = far(row) * span + far(column)
    patch, first = place >= 0, jnp.arange(length) == 0
    pair = lambda a, b: a[:, None] & b[None]
    for one, other, at in (
        (patch, patch, index),
        (first, patch, ends),
        (patch, first, ends + 1),
        (first, first, ends + 2),
    ):
        index = jnp.where(pair(one, other), at, index)
    known = pair(patch | first, patch | first)
    bias = jnp.where(known[..., None], table[jnp.where(known, index, 0)], 0)
    return bias.transpose(2, 0, 1)[None]


class Block(nn.Module):
    """Pre-norm attention with a bias by distance, and MLP, each added to its input."""

    heads: int
    hidden: int
    side: int
    epsilon: float
    layer_scale: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        size = ((2 * self.side - 1) ** 2 + 3, self.heads)
        table = self.param("bias_table", nn.initializers.normal(0.02), size)
        scaled = lambda i, y: (
            LayerScale(name=f"scale_{i}")(y) if self.layer_scale else y
        )
        y = nn.LayerNorm(epsilon=self.epsilon, name="norm_1")(x)
        bias = between(table, self.side, x.shape[1])
        attention = Attention(self.heads, key_bias=False, name="attention")
        x = x + scaled(1, attention(y, bias))
        y = nn.LayerNorm(epsilon=self.epsilon, name="norm_2")(x)
        return x + scaled(2, MLP(self.hidden, name="mlp")(y))


class BEiT(nn.Module):
    """Patches, a class token without positions, `depth` blocks.

    The head reads the norm of the patches' mean, or else the class token's norm.
    Patches are the last tokens, so those that a prompt inserts after the class token
    change the place of none that is read.
    """

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    classes: int
    side: int
    epsilon: float = 1e-12
    layer_scale: bool = True
    mean: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        side = x.shape[1] // self.patch
        x = Patches(self.patch, self.width, name="patches")(x)
        batch, patches, width = x.shape
        token = self.param("class_token", nn.initializers.normal(0.02), (1, 1, width))
        x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, width)), x], axis=1)
        own = (self.heads, self.hidden, side, self.epsilon, self.layer_scale)
        for i in range(self.depth):
            x = Block(*own, name=f"block_{i}")(x)
        norm = nn.LayerNorm(epsilon=self.epsilon, name="norm")
        features = norm(x[:, -patches:].mean(1)) if self.mean else norm(x)[:, 0]
        return head(self.classes)(features)


class Settings(Vision, total=False):
    """Settings by transformers."""

    num_hidden_layers: Count
    num_attention_heads: Count
    layer_norm_eps: Positive
    hidden_act: str
    use_absolute_position_embeddings: bool
    use_relative_position_bias: bool
    use_shared_relative_position_bias: bool


def _planner(rules: Rules, blocks: str, means: str, epsilon: float):
    """All from shapes, but the epsilon; heads and the grid from a table of biases.
    `means` begins the norm's name in files of models that read the mean."""

    def plan(shapes: Shapes, config: Config) -> Plan:
        mean = any(name.startswith(means) for name in shapes)
        refuse(
            config,
            "a BEiT",
            hidden_act="gelu",
            use_absolute_position_embeddings=False,
            use_relative_position_bias=True,
            use_shared_relative_position_bias=False,
            global_pool="avg" if mean else "token",
        )
        look = lambda path, default: shape_of(shapes, rules, path, default)
        width, _, patch, _ = look("patches/kernel", (768, 3, 16, 16))
        length, heads = look("block_0/bias_table", (732, 1))
        side = (math.isqrt(max(length - 3, 1)) + 1) // 2
        if (2 * side - 1) ** 2 + 3 != length or width % heads:
            raise ValueError(
                f"got a BEiT of width {width} with {length} biases for {heads} heads, "
                "expected 3 more than a square, and heads that divide the width; fetch "
                "the file again"
            )
        depth = config.get("num_hidden_layers") or count_numbered(shapes, blocks)
        depth = bounded(depth, shapes)
        classes = look("head/kernel", (*look("head/bias", (0,)), 0))[0]
        module = BEiT(
            patch,
            width,
            depth,
            heads,
            look("block_0/mlp/up/bias", (4 * width,))[0],
            classes,
            side,
            config.get("layer_norm_eps") or epsilon,
            origin(rules, "block_0/scale_1/gamma")[0] in shapes,
            mean,
        )
        sites = dict(roles(depth))
        if mean:
            sites.pop("tokens")  # no site has them normed
        return Plan(module, patch * side, HALF, HALF, sites, classes)

    return plan


def _prepare(tensors: Tensors, plan: Plan) -> Tensors:
    """One name for either norm, timm's biases as one, tables of the plan's size."""
    net, out = plan.module, {}
    refuse_size(plan.size, net.patch)
    for name, value in tensors.items():
        name = re.sub(r"^fc_norm\.", "norm.", name)
        name = re.sub(r"^pooler\.layernorm\.", "layernorm.", name)
        if name.endswith("bias_table") and value.ndim == 2:
            value = _resized(value, net.side, plan.size // net.patch)
        elif name.endswith("attn.q_bias") and name.replace("q_b", "v_b") in tensors:
            other = tensors[name.replace("q_b", "v_b")]
            name, value = name.replace("q_bias", "qkv.bias"), (value, 0 * value, other)
            value = np.concatenate(value)
        elif name.endswith("v_bias") and name.replace("v_b", "q_b") in tensors:
            continue
        out[name] = value
    return out


def _resized(table: np.ndarray, old: int, new: int) -> np.ndarray:
    """Distances on another grid, linear in rows and columns as in transformers."""
    if old == new or len(table) != (2 * old - 1) ** 2 + 3:
        return table
    weights = _linear(2 * old - 1, 2 * new - 1)
    far = table[:-3].astype(np.float32).reshape(2 * old - 1, 2 * old - 1, -1)
    far = np.einsum("ai,bj,ijh->abh", weights, weights, far)
    return np.concatenate([far.reshape(-1, table.shape[1]), table[-3:]])


def _linear(old: int, new: int) -> np.ndarray:
    """[new, old] weights of linear interpolation, half-pixel centres, clamped."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(1 - abs(at[:, None] - np.arange(old)), 0)


BLOCK = r"block_(\d+)"
TIMM = (
    ("patches", "patch_embed.proj"),
    ("class_token", "cls_token"),
    (BLOCK + "/bias_table", "blocks.{}.attn.relative_position_bias_table"),
    *timm_blocks(),
    (BLOCK + r"/scale_(\d)/gamma", "blocks.{}.gamma_{}"),
    ("norm", "norm"),
    ("head", "head"),
)
SELF, THEIRS = "encoder.layer.{}.attention.attention.", "encoder.layer.{}."
TRANSFORMERS = (
    ("patches", "embeddings.patch_embeddings.projection"),
    ("class_token", "embeddings.cls_token"),
    (
        BLOCK + "/bias_table",
        SELF + "relative_position_bias.relative_position_bias_table",
    ),
    (BLOCK + "/norm_1", THEIRS + "layernorm_before"),
    (BLOCK + "/norm_2", THEIRS + "layernorm_after"),
    (BLOCK + "/attention/(query|key|value)", SELF + "{}"),
    (BLOCK + "/attention/out", THEIRS + "attention.output.dense"),
    (BLOCK + r"/scale_(\d)/gamma", THEIRS + "lambda_{}"),
    (BLOCK + "/mlp/up", THEIRS + "intermediate.dense"),
    (BLOCK + "/mlp/down", THEIRS + "output.dense"),
    ("norm", "layernorm"),
    ("head", "classifier"),
)
LAYOUTS = (
    Layout(
        "BEiT, timm names",
        r"blocks\.\d+\.(gamma_\d|attn\.(q_bias|relative_position_bias_table))",
        _planner(TIMM, r"blocks\.(\d+)\.", "fc_norm.", 1e-6),
        TIMM,
        _prepare,
        r"beit|beit(v2)?_(base|large)_patch16_(224|384|512)",
        "beit_base_patch16_224",
        Settings,
        arguments=r"embed_dim|depth|num_heads|patch_size|mlp_ratio|init_values"
        r"|drop_rate|\w+_drop_rate",
    ),
    Layout(
        "BEiT, transformers names",
        r"encoder\.layer\.\d+\.(lambda_\d|attention\.attention\.relative_position)",
        _planner(TRANSFORMERS, r"encoder\.layer\.(\d+)\.", "pooler.layernorm.", 1e-12),
        TRANSFORMERS,
        _prepare,
        "beit",
        "beit",
        Settings,
        "hidden_size|intermediate_size|image_size|patch_size|num_channels|vocab_size"
        "|use_mask_token|use_mean_pooling|layer_scale_init_value|pool_scales"
        "|(use_)?auxiliary_\\w+|semantic_loss_ignore_index|add_fpn|segmentation_indices"
        "|reshape_hidden_states|stage_names|out_features|out_indices",
    ),
)
