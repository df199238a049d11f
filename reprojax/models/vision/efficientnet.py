"""EfficientNet (arXiv 1905.11946)."""

import math
from typing import Annotated, Any

import flax.linen as nn
from jax import Array
from jaxtyping import Float
from msgspec import Meta

from reprojax.models.settings import Config, Count, Positive, Vision, bounded, refuse
from reprojax.models.vision.layers import BatchNorm, Depthwise, Pointwise, head
from reprojax.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Shapes,
    origin,
    shape_of,
)


class Squeeze(nn.Module):
    """Each channel times a share that the means of all channels give (SENet, arXiv
    1709.01507)."""

    hidden: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = x.mean((1, 2), keepdims=True)
        y = nn.silu(Pointwise(self.hidden, name="reduce")(y))
        return x * nn.sigmoid(Pointwise(x.shape[-1], name="expand")(y))


class Block(nn.Module):
    """An inverted residual: expanded, filtered depthwise, squeezed, projected.

    `hidden` of 0: not expanded. `padding` is that of both axes, before and after.
    """

    width: int
    hidden: int
    squeezed: int
    side: int
    stride: int
    padding: tuple[int, int]
    adds: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        normed = lambda name, y: BatchNorm(self.epsilon, name=f"{name}_norm")(y)
        y = x
        if self.hidden:
            y = Pointwise(self.hidden, bias=False, name="expand")(y)
            y = nn.silu(normed("expand", y))
        filters = Depthwise(
            self.stride, self.side, self.padding, bias=False, name="depthwise"
        )
        y = nn.silu(normed("depthwise", filters(y)))
        y = Squeeze(self.squeezed, name="squeeze")(y)
        y = Pointwise(self.width, bias=False, name="project")(y)
        y = normed("project", y)
        return x + y if self.adds else y


class EfficientNet(nn.Module):
    """A stem, blocks, a 1x1 convolution, the mean over places, and a linear head.

    `blocks` has the arguments of each `Block` but the epsilon.
    """

    stem: int
    blocks: tuple[tuple[Any, ...], ...]
    top: int
    classes: int
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        pads = ((0, 1), (0, 1))
        stem = nn.Conv(self.stem, (3, 3), 2, padding=pads, use_bias=False, name="stem")
        x = nn.silu(BatchNorm(self.epsilon, name="stem_norm")(stem(x)))
        for i, sizes in enumerate(self.blocks):
            x = Block(*sizes, epsilon=self.epsilon, name=f"block_{i}")(x)
        x = Pointwise(self.top, bias=False, name="top")(x)
        x = nn.silu(BatchNorm(self.epsilon, name="top_norm")(x))
        return head(self.classes)(x.mean((1, 2)))


def roles(depth: int) -> dict[str, tuple[str, ...]]:
    """{role: sites} of an `EfficientNet`."""
    blocks = tuple(f"block_{i}:in" for i in range(depth))
    return {
        "input": ("input", "normalized"),
        "embedding": blocks[:1],
        "blocks": blocks,
        "features": ("head:in",),
    }


Stride = Annotated[int, Meta(ge=1, le=2)]


class Settings(Vision, total=False):
    """Settings by transformers."""

    hidden_act: str
    batch_norm_eps: Positive
    pooling_type: str
    depth_coefficient: Positive
    num_block_repeats: list[Count]
    strides: list[Stride]
    depthwise_padding: list[int]


def _stages(config: Config, shapes: Shapes) -> list[tuple[int, bool]]:
    """(stride, whether it is the first of its stage) of each block."""
    given = [config.get(n) for n in ("depth_coefficient", "num_block_repeats")]
    repeats, strides = given[1] or [], config.get("strides") or []
    if not given[0] or not repeats or len(repeats) != len(strides):
        raise ValueError(
            f"got an EfficientNet with depth_coefficient = {given[0]}, "
            f"num_block_repeats = {repeats} and strides = {strides}, expected all "
            "three, one of each for a stage: give the folder with its config.json"
        )
    depths = [math.ceil(given[0] * repeat) for repeat in repeats]
    bounded(sum(depths), shapes)
    out = []
    for depth, stride in zip(depths, strides, strict=True):
        out += [(stride, True), *[(1, False)] * (depth - 1)]
    return out


def _plan(shapes: Shapes, config: Config) -> Plan:
    """Widths and kernels from shapes; strides and padding from a config."""
    if config.get("hidden_act") != "silu":  # the same by another name
        refuse(config, "an EfficientNet", hidden_act="swish")
    refuse(config, "an EfficientNet", pooling_type="mean")
    look = lambda path, default: shape_of(shapes, RULES, path, default)
    stages, odd = _stages(config, shapes), config.get("depthwise_padding") or ()
    blocks = []
    for i, (stride, first) in enumerate(stages):
        at = f"block_{i}/"
        hidden, *_, side = look(at + "depthwise/kernel", (1, 1, 3, 3))
        # what makes an output of half the side, of an even or an odd one
        padding = (side // 2 - (stride == 2 and i not in odd), side // 2)
        expands = origin(RULES, at + "expand/kernel")[0] in shapes
        blocks.append(
            (
                look(at + "project_norm/bias", (1,))[0],
                hidden if expands else 0,
                look(at + "squeeze/reduce/bias", (1,))[0],
                side,
                stride,
                padding,
                not first,
            )
        )
    module = EfficientNet(
        look("stem_norm/bias", (32,))[0],
        tuple(blocks),
        look("top_norm/bias", (1280,))[0],
        look("head/kernel", (*look("head/bias", (0,)), 0))[0],
        config.get("batch_norm_eps") or 1e-3,
    )
    return Plan(
        module, 224, IMAGENET_MEAN, IMAGENET_STD, roles(len(blocks)), module.classes
    )


BLOCK, THEIRS = r"block_(\d+)/", "encoder.blocks.{}."
RULES = (
    ("stem", "embeddings.convolution"),
    ("stem_norm", "embeddings.batchnorm"),
    (BLOCK + "expand", THEIRS + "expansion.expand_conv"),
    (BLOCK + "expand_norm", THEIRS + "expansion.expand_bn"),
    (BLOCK + "depthwise", THEIRS + "depthwise_conv.depthwise_conv"),
    (BLOCK + "depthwise_norm", THEIRS + "depthwise_conv.depthwise_norm"),
    (BLOCK + "squeeze/(reduce|expand)", THEIRS + "squeeze_excite.{}"),
    (BLOCK + "project", THEIRS + "projection.project_conv"),
    (BLOCK + "project_norm", THEIRS + "projection.project_bn"),
    ("top", "encoder.top_conv"),
    ("top_norm", "encoder.top_bn"),
    ("head", "classifier"),
)
LAYOUTS = (
    Layout(
        "EfficientNet, transformers names",
        r"encoder\.(blocks\.\d+\.(expansion|depthwise_conv|squeeze_excite|projection)"
        r"|top_(conv|bn))\.",
        _plan,
        RULES,
        names="efficientnet",
        example="efficientnet",
        settings=Settings,
        harmless="num_channels|image_size|width_coefficient|depth_divisor|kernel_sizes"
        "|in_channels|out_channels|expand_ratios|squeeze_expansion_ratio|hidden_dim"
        "|batch_norm_momentum|drop_connect_rate|num_hidden_layers",
    ),
)
