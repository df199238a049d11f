"""MobileNetV2 (arXiv 1801.04381), with batch norms, or with those folded into the
convolutions."""

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config, Positive, Vision, refuse
from reprojax.models.vision.layers import BatchNorm, Depthwise, Pointwise, head
from reprojax.models.weights import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Rules,
    Shapes,
    shape_of,
)

STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
WIDTHS = (16, 24, 24, 32, 32, 32, *(64,) * 4, *(96,) * 3, *(160,) * 3, 320)
DEPTHS = (1, 2, 3, 4, 3, 3, 1)


class Block(nn.Module):
    """An inverted residual: expanded, filtered depthwise, projected.

    It is added to an input of its shape, unless it is the first, which does not expand.
    """

    width: int
    hidden: int
    stride: int
    expands: bool
    epsilon: float | None
    same: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        folded, y = self.epsilon is None, x
        if self.expands:
            y = Pointwise(self.hidden, bias=folded, name="expand")(y)
            y = nn.relu6(normed(y, "expand", self.epsilon))
        pads = None if self.same else (1, 1)
        y = Depthwise(self.stride, 3, pads, folded, name="depthwise")(y)
        y = nn.relu6(normed(y, "depthwise", self.epsilon))
        y = Pointwise(self.width, bias=folded, name="project")(y)
        y = normed(y, "project", self.epsilon)
        adds = self.expands and self.stride == 1 and x.shape == y.shape
        return x + y if adds else y


def normed(
    x: Float[Array, "B H W C"], name: str, epsilon: float | None
) -> Float[Array, "B H W C"]:
    """The batch norm behind a convolution; for no epsilon it is folded."""
    return x if epsilon is None else BatchNorm(epsilon, name=f"{name}_norm")(x)


class MobileNetV2(nn.Module):
    """A stem, 17 blocks, a 1x1 convolution, the mean over places, and a linear head.

    `widths` and `hidden` have one entry a block; block 0 does not expand. An `epsilon`
    of None: batch norms are folded. Padding is `same`, at stride 2 the odd row at the
    bottom and right, or equal on all sides.
    """

    stem: int
    widths: tuple[int, ...]
    hidden: tuple[int, ...]
    top: int
    classes: int
    epsilon: float | None = None
    same: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        folded, pads = self.epsilon is None, "SAME" if self.same else 1
        stem = nn.Conv(self.stem, (3, 3), 2, padding=pads, use_bias=folded, name="stem")
        x = nn.relu6(normed(stem(x), "stem", self.epsilon))
        for i, (width, hidden) in enumerate(zip(self.widths, self.hidden, strict=True)):
            own = (width, hidden, STRIDES[i], i > 0, self.epsilon, self.same)
            x = Block(*own, name=f"block_{i}")(x)
        x = Pointwise(self.top, bias=folded, name="top")(x)
        x = nn.relu6(normed(x, "top", self.epsilon))
        return head(self.classes)(x.mean((1, 2)))


def roles() -> dict[str, tuple[str, ...]]:
    """{role: sites} of a `MobileNetV2`."""
    blocks = tuple(f"block_{i}:in" for i in range(len(STRIDES)))
    return {
        "input": ("input", "normalized"),
        "embedding": blocks[:1],
        "blocks": blocks,
        "features": ("head:in",),
    }


class Settings(Vision, total=False):
    """Settings by transformers."""

    hidden_act: str
    layer_norm_eps: Positive
    tf_padding: bool
    first_layer_is_expansion: bool
    output_stride: int


def _planner(rules: Rules, epsilon: float | None, timm: bool = False):
    """All from shapes, but the epsilon and the padding."""

    def plan(shapes: Shapes, config: Config) -> Plan:
        refuse(
            config,
            "a MobileNetV2",
            hidden_act="relu6",
            first_layer_is_expansion=True,
            output_stride=32,
            global_pool="avg",
        )

        def wide(path: str, default: int) -> int:
            """The outputs of a layer, by its kernel, or else by what is behind."""
            own, rank = epsilon is None or path == "head", 2 if path == "head" else 4
            bias = f"{path}/bias" if own else f"{path}_norm/bias"
            found = shape_of(shapes, rules, bias, (default,))
            kernel = (*found, *(0,) * (rank - 1))
            return shape_of(shapes, rules, f"{path}/kernel", kernel)[0]

        same = config.get("tf_padding")
        widths = tuple(wide(f"block_{i}/project", w) for i, w in enumerate(WIDTHS))
        hidden = tuple(wide(f"block_{i}/depthwise", 0) for i in range(len(WIDTHS)))
        module = MobileNetV2(
            wide("stem", 32),
            widths,
            hidden,
            wide("top", 1280),
            wide("head", 0),
            epsilon and (config.get("layer_norm_eps") or epsilon),
            (not timm) if same is None else same,
        )
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if timm else (HALF, HALF)
        return Plan(module, 224, mean, std, roles(), module.classes)

    return plan


RULES = (
    ("stem", "stem"),
    (r"block_(\d+)/(expand|depthwise|project)", "blocks.{}.{}"),
    ("top", "head"),
    ("head", "classifier"),
)
PLACES = tuple((s, j) for s, depth in enumerate(DEPTHS) for j in range(depth))
INNER = (
    ("expand", "conv_pw", 1),
    ("depthwise", "conv_dw", 2),
    ("project", "conv_pwl", 3),
)
FIRST = (("depthwise", "conv_dw", 1), ("project", "conv_pw", 2))
TIMM = (
    ("stem", "conv_stem"),
    ("stem_norm", "bn1"),
    *(
        rule
        for i, (s, j) in enumerate(PLACES)
        for ours, theirs, norm in (INNER if i else FIRST)
        for rule in (
            (f"block_{i}/{ours}", f"blocks.{s}.{j}.{theirs}"),
            (f"block_{i}/{ours}_norm", f"blocks.{s}.{j}.bn{norm}"),
        )
    ),
    ("top", "conv_head"),
    ("top_norm", "bn2"),
    ("head", "classifier"),
)
PARTS = {"expand": "expand_1x1", "depthwise": "conv_3x3", "project": "reduce_1x1"}
TRANSFORMERS = (
    ("stem", "conv_stem.first_conv.convolution"),
    ("stem_norm", "conv_stem.first_conv.normalization"),
    *(
        rule
        for i in range(len(STRIDES))
        for ours, theirs in PARTS.items()
        for at in ((f"layer.{i - 1}" if i else "conv_stem") + f".{theirs}.",)
        for rule in (
            (f"block_{i}/{ours}", at + "convolution"),
            (f"block_{i}/{ours}_norm", at + "normalization"),
        )
    ),
    ("top", "conv_1x1.convolution"),
    ("top_norm", "conv_1x1.normalization"),
    ("head", "classifier"),
)
LAYOUTS = (
    Layout(
        "MobileNetV2",
        r"blocks\.\d+\.(expand|depthwise|project)\.",
        _planner(RULES, None),
        RULES,
        names="mobilenet_v2",
        settings=Settings,
    ),
    Layout(
        "MobileNetV2, timm names",
        r"blocks\.\d\.\d\.(conv_(dw|pwl?)|bn\d)\.",
        _planner(TIMM, 1e-5, timm=True),
        TIMM,
        names=r"mobilenetv2|mobilenetv2_(035|050|075|100|140)",
        example="mobilenetv2_100",
        settings=Settings,
        arguments=r"drop_rate|\w+_drop_rate",
    ),
    Layout(
        "MobileNetV2, transformers names",
        r"layer\.\d+\.(expand_1x1|conv_3x3|reduce_1x1)\.|conv_stem\.\w+\.",
        _planner(TRANSFORMERS, 1e-3),
        TRANSFORMERS,
        names="mobilenet_v2",
        example="mobilenet_v2",
        settings=Settings,
        harmless="num_channels|image_size|depth_multiplier|depth_divisible_by|min_depth"
        "|expand_ratio|finegrained_output|semantic_loss_ignore_index",
    ),
)
