"""Swin transformers (arXiv 2103.14030): attention within windows that shift."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config, Positive, Vision, refuse
from reprojax.models.vision.layers import Patches, head
from reprojax.models.vision.resnet import roles
from reprojax.models.vision.vit import MLP, Attention
from reprojax.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Rules,
    Shapes,
    Tensors,
    count_numbered,
    shape_of,
)


class Block(nn.Module):
    """Attention within square windows, and an MLP, each added to its input.

    With `shifts` the grid is rolled by half a window before, and back after; what comes
    together from opposite borders is kept apart. A grid of one window stays in place.
    """

    heads: int
    window: int
    shifts: bool
    hidden: int
    epsilon: float
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        side, window = x.shape[1], self.window
        shift = window // 2 if self.shifts and side > window else 0
        size = ((2 * window - 1) ** 2, self.heads)
        bias = between(self.param("bias_table", nn.initializers.normal(0.02), size))
        if shift:
            bias = bias + apart(side, window, shift)[:, None]
        y = nn.LayerNorm(epsilon=self.epsilon, name="norm_1")(x)
        y = windows(_rolled(y, -shift), window)
        y = Attention(self.heads, self.bias, name="attention")(y, bias)
        x = x + _rolled(places(y, side), shift)
        y = nn.LayerNorm(epsilon=self.epsilon, name="norm_2")(x)
        return x + MLP(self.hidden, name="mlp")(y)


def _rolled(x: Float[Array, "B H W D"], by: int) -> Float[Array, "B H W D"]:
    return jnp.roll(x, (by, by), (1, 2)) if by else x


def windows(x: Float[Array, "B H W D"], side: int) -> Float[Array, "n L D"]:
    """The grid as windows of L = side^2 tokens; the images come first in n."""
    batch, rows, columns, width = x.shape
    x = x.reshape(batch, rows // side, side, columns // side, side, width)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side**2, width)


def places(x: Float[Array, "n L D"], side: int) -> Float[Array, "B H W D"]:
    """Windows back to square grids of `side`."""
    window = math.isqrt(x.shape[1])
    count = side // window
    x = x.reshape(-1, count, count, window, window, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, x.shape[-1])


def between(table: Float[Array, "T h"]) -> Float[Array, "1 h L L"]:
    """The bias of each pair of places in a window, by their distance in rows and
    columns."""
    span = math.isqrt(len(table))  # 2 side - 1 distances
    side = (span + 1) // 2
    row, column = jnp.divmod(jnp.arange(side**2), side)
    far = lambda place: place[:, None] - place[None] + side - 1
    return table[far(row) * span + far(column)].transpose(2, 0, 1)[None]


def apart(side: int, window: int, shift: int) -> Float[Array, "n L L"]:
    """-100 between places of a rolled grid that were not neighbours, else 0."""
    place = jnp.arange(side)
    zone = 1.0 * (place >= side - window) + (place >= side - shift)
    zones = windows((3 * zone[:, None] + zone)[None, :, :, None], window)[..., 0]
    return jnp.where(zones[:, :, None] == zones[:, None], 0.0, -100.0)


class Merge(nn.Module):
    """Squares of 2 x 2 tokens to one of twice the width."""

    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        batch, rows, columns, channels = x.shape
        x = x.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
        # the order of the four: first down, then right
        x = x.transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(batch, rows // 2, columns // 2, 4 * channels)
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(x)
        return nn.Dense(self.width, use_bias=False, name="dense")(x)


class Stage(nn.Module):
    """Blocks of one width; every second one shifts. All but the first stage merge."""

    depth: int
    width: int
    heads: int
    window: int
    hidden: int
    merges: bool
    epsilon: float
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        x = Merge(self.width, name="merge")(x) if self.merges else x
        for i in range(self.depth):
            shifts = i % 2 == 1
            own = (self.heads, self.window, shifts, self.hidden, self.epsilon)
            x = Block(*own, self.bias, name=f"block_{i}")(x)
        return x


class Swin(nn.Module):
    """Patches, stages, a norm, the mean over places, and a linear head.

    Per stage: `depths`, `widths`, `heads`, `windows` (their sides) and `hidden`.
    """

    patch: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    hidden: tuple[int, ...]
    classes: int
    epsilon: float = 1e-5
    bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = Patches(self.patch, self.widths[0], grid=True, name="patches")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="patches_norm")(x)
        each = (self.depths, self.widths, self.heads, self.windows, self.hidden)
        for i, sizes in enumerate(zip(*each, strict=True), 1):
            own = (*sizes, i > 1, self.epsilon, self.bias)
            x = Stage(*own, name=f"stage_{i}")(x)
        x = nn.LayerNorm(epsilon=self.epsilon, name="norm")(x)
        return head(self.classes)(x.mean((1, 2)))


class Settings(Vision, total=False):
    """Settings by transformers."""

    hidden_act: str
    layer_norm_eps: Positive
    use_absolute_embeddings: bool


def _planner(rules: Rules, blocks: str):
    """All from shapes, but the epsilon; windows and heads from the tables of biases."""

    def plan(shapes: Shapes, config: Config) -> Plan:
        refuse(
            config,
            "a Swin",
            hidden_act="gelu",
            use_absolute_embeddings=False,
            global_pool="avg",
        )
        _refuse_windows(config, shapes)
        look = lambda path, default: shape_of(shapes, rules, path, default)
        depths = [count_numbered(shapes, blocks % s) for s in range(STAGES)]
        depths = tuple(depth for depth in depths if depth)
        stem, _, patch, _ = look("patches/kernel", (96, 3, 4, 4))
        widths = tuple(stem * 2**s for s in range(len(depths)))
        tables = [
            look(f"stage_{s}/block_0/bias_table", (169, 1))
            for s in range(1, len(depths) + 1)
        ]
        heads = tuple(heads for _, heads in tables)
        if any(width % h for width, h in zip(widths, heads, strict=True)):
            raise ValueError(
                f"got a Swin of widths {widths} with {heads} heads, by the shapes of "
                "its biases, expected divisors; fetch the file again"
            )
        hidden = tuple(
            look(f"stage_{s}/block_0/mlp/up/bias", (4 * width,))[0]
            for s, width in enumerate(widths, 1)
        )
        classes = look("head/kernel", (*look("head/bias", (0,)), 0))[0]
        sides = tuple((math.isqrt(length) + 1) // 2 for length, _ in tables)
        module = Swin(
            patch,
            depths,
            widths,
            heads,
            sides,
            hidden,
            classes,
            config.get("layer_norm_eps") or 1e-5,
            any(name.endswith(("qkv.bias", "query.bias")) for name in shapes),
        )
        size = patch * 2 ** (len(depths) - 1) * sides[-1]
        return Plan(module, size, IMAGENET_MEAN, IMAGENET_STD, roles(depths), classes)

    return plan


def _refuse_windows(config: Config, shapes: Shapes) -> None:
    """Raise at windows that are no squares."""
    sides = (config.get("model_args") or {}).get("window_size")
    if isinstance(sides, list) and len(sides) == 2 and sides[0] != sides[1]:
        raise ValueError(f"got a Swin with windows of {sides}, expected squares")
    for name, (length, *_) in shapes.items():
        if name.endswith("bias_table") and math.isqrt(length) ** 2 != length:
            raise ValueError(
                f"got a Swin with {length} biases, {name}, expected a square number, "
                "the distances in a square window; fetch the file again"
            )


def _refuse_size(tensors: Tensors, plan: Plan) -> Tensors:
    """Raise unless windows fill each stage's grid."""
    net = plan.module
    for stage, window in enumerate(net.windows):
        step = net.patch * 2**stage
        if plan.size % step or (plan.size // step) % window:
            raise ValueError(
                f"got size {plan.size} for a Swin with patches of {net.patch} pixels "
                f"and windows of {net.windows} places, expected windows that fill the "
                "grid, which halves at each stage: timm and transformers differ in "
                "what they add; call load(..., size=...)"
            )
    return tensors


STAGES = 4  # named apart, because theirs count from 0


def _rules(merge: str, block: str, ours: Rules, other: Rules, later: int) -> Rules:
    """`later`: how much their number of a merging layer is ahead of its stage's."""
    inner = lambda s: (
        (f"stage_{s + 1}/merge/norm", merge % (s + later) + "norm"),
        (f"stage_{s + 1}/merge/dense", merge % (s + later) + "reduction"),
        *(
            (rf"stage_{s + 1}/block_(\d+)/{name}", block % s + theirs)
            for name, theirs in ours
        ),
    )
    return (*other, *(rule for s in range(STAGES) for rule in inner(s)))


TIMM = _rules(
    "layers.%d.downsample.",
    "layers.%d.blocks.{}.",
    (
        ("bias_table", "attn.relative_position_bias_table"),
        (r"norm_(\d)", "norm{}"),
        ("attention/query", "attn.qkv#0"),
        ("attention/key", "attn.qkv#1"),
        ("attention/value", "attn.qkv#2"),
        ("attention/out", "attn.proj"),
        ("mlp/up", "mlp.fc1"),
        ("mlp/down", "mlp.fc2"),
    ),
    (
        ("patches", "patch_embed.proj"),
        ("patches_norm", "patch_embed.norm"),
        ("norm", "norm"),
        ("head", "head.fc"),
    ),
    later=0,
)
SELF = "attention.self."
TRANSFORMERS = _rules(
    "encoder.layers.%d.downsample.",
    "encoder.layers.%d.blocks.{}.",
    (
        ("bias_table", SELF + "relative_position_bias_table"),
        ("norm_1", "layernorm_before"),
        ("norm_2", "layernorm_after"),
        *((f"attention/{name}", SELF + name) for name in ("query", "key", "value")),
        ("attention/out", "attention.output.dense"),
        ("mlp/up", "intermediate.dense"),
        ("mlp/down", "output.dense"),
    ),
    (
        ("patches", "embeddings.patch_embeddings.projection"),
        ("patches_norm", "embeddings.norm"),
        ("norm", "layernorm"),
        ("head", "classifier"),
    ),
    later=-1,
)
LAYOUTS = (
    Layout(
        "Swin, timm names",
        r"layers\.\d\.(blocks\.\d+\.(attn|norm\d|mlp)|downsample)\.",
        _planner(TIMM, r"layers\.%d\.blocks\.(\d+)\."),
        TIMM,
        _refuse_size,
        r"swin|swin_(tiny|small|base|large)_patch4_window\d+_\d+(_in22k)?"
        r"|swin_s3_(tiny|small|base)_224",
        "swin_tiny_patch4_window7_224",
        Settings,
        arguments=r"embed_dim|depths|num_heads|window_size|patch_size|mlp_ratio"
        r"|qkv_bias|drop_rate|\w+_drop_rate",
    ),
    Layout(
        "Swin, transformers names",
        r"encoder\.layers\.\d\.(blocks\.\d+\.(attention|layernorm|intermediate|output)"
        r"|downsample)",
        _planner(TRANSFORMERS, r"encoder\.layers\.%d\.blocks\.(\d+)\."),
        TRANSFORMERS,
        _refuse_size,
        "swin",
        "swin",
        Settings,
        "num_channels|patch_size|embed_dim|hidden_size|depths|num_heads|num_layers"
        "|window_size|mlp_ratio|qkv_bias|image_size|encoder_stride|path_norm"
        "|stage_names|out_features|out_indices",
    ),
)
