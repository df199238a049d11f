"""ResNet-18, 34, 50 and others (arXiv 1512.03385), strides in 3x3 convolutions."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from reprojax.models.settings import Config, Vision, refuse
from reprojax.models.vision.layers import BatchNorm, Pointwise, Stem, head
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


def conv(width: int, side: int, stride: int = 1, *, name: str) -> nn.Module:
    """A convolution with equal padding on all sides, as in torch; no bias."""
    if side == 1:
        return Pointwise(width, stride, bias=False, name=name)
    return nn.Conv(
        width, (side, side), stride, padding=side // 2, use_bias=False, name=name
    )


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 to four times the width."""

    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        steps = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.bottleneck:
            steps = [(self.width, 1, 1), steps[0], (4 * self.width, 1, 1)]
        y = x
        for i, (width, side, stride) in enumerate(steps, 1):
            y = conv(width, side, stride, name=f"conv_{i}")(y)
            y = BatchNorm(name=f"norm_{i}")(y)
            y = nn.relu(y) if i < len(steps) else y
        if self.stride > 1 or x.shape[-1] != y.shape[-1]:
            x = conv(y.shape[-1], 1, self.stride, name="shortcut")(x)
            x = BatchNorm(name="shortcut_norm")(x)
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks of one width; the first may halve the sides."""

    depth: int
    width: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        for i in range(self.depth):
            stride = 1 if i else self.stride
            x = Block(self.width, stride, self.bottleneck, name=f"block_{i}")(x)
        return x


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """A 3x3 maximum at stride 2, padded by one: over three rows, then three columns.

    On a CPU, forward and gradient take half the time of a maximum over all nine, and a
    third of `lax.reduce_window`'s.
    """
    for axis in (1, 2):
        pads = [(int(i == axis),) * 2 for i in range(4)]
        padded = jnp.pad(x, pads, constant_values=-jnp.inf)
        end = 2 * ((x.shape[axis] + 1) // 2) - 1
        shifted = [lax.slice_in_dim(padded, i, i + end, 2, axis) for i in range(3)]
        x = functools.reduce(jnp.maximum, shifted)
    return x


class ResNet(nn.Module):
    """A 7x7 stem, four stages, the mean over places, and a linear head."""

    stem: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottleneck: bool
    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = BatchNorm(name="stem_norm")(Stem(self.stem, name="stem")(x))
        # the maximum first: it commutes with relu, and leaves a quarter of the values
        x = nn.relu(max_pool(x))
        for i, (depth, width) in enumerate(
            zip(self.depths, self.widths, strict=True), 1
        ):
            stride = 1 if i == 1 else 2
            x = Stage(depth, width, stride, self.bottleneck, name=f"stage_{i}")(x)
        return head(self.classes)(x.mean((1, 2)))


def roles(depths: tuple[int, ...]) -> Mapping[str, tuple[str, ...]]:
    """{role: sites} of a network of stages."""
    blocks = tuple(
        f"stage_{s}/block_{b}:in" for s, d in enumerate(depths, 1) for b in range(d)
    )
    return {
        "input": ("input", "normalized"),
        "embedding": blocks[:1],
        "blocks": blocks,
        "features": ("head:in",),
    }


class Settings(Vision, total=False):
    """Settings by transformers."""

    hidden_act: str
    downsample_in_bottleneck: bool
    downsample_in_first_stage: bool


def _planner(rules: Rules, blocks: Callable[[int], str]):
    def plan(shapes: Shapes, config: Config) -> Plan:
        refuse(
            config,
            "a ResNet",
            global_pool="avg",
            hidden_act="relu",
            downsample_in_bottleneck=False,
            downsample_in_first_stage=False,
        )
        depths = [count_numbered(shapes, blocks(s)) for s in range(1, 5)]
        depths = tuple(depth for depth in depths if depth) or (2, 2, 2, 2)
        look = lambda path, default: shape_of(shapes, rules, path, default)
        stem = look("stem/kernel", (64, 3, 7, 7))[0]
        widths = tuple(
            look(f"stage_{s}/block_0/conv_1/kernel", (stem * 2 ** (s - 1), 0, 0, 0))[0]
            for s in range(1, len(depths) + 1)
        )
        bottleneck = origin(rules, "stage_1/block_0/conv_3/kernel")[0] in shapes
        classes = look("head/kernel", (*look("head/bias", (0,)), 0))[0]
        module = ResNet(stem, depths, widths, bottleneck, classes)
        return Plan(module, 224, IMAGENET_MEAN, IMAGENET_STD, roles(depths), classes)

    return plan


BLOCK = r"stage_(\d+)/block_(\d+)"
TORCHVISION = (
    ("stem", "conv1"),
    ("stem_norm", "bn1"),
    (BLOCK + r"/conv_(\d)", "layer{}.{}.conv{}"),
    (BLOCK + r"/norm_(\d)", "layer{}.{}.bn{}"),
    (BLOCK + "/shortcut", "layer{}.{}.downsample.0"),
    (BLOCK + "/shortcut_norm", "layer{}.{}.downsample.1"),
    ("head", "fc"),
)
THEIRS = "encoder.stages.%d.layers.{}."  # counted from 0
TRANSFORMERS = (
    ("stem", "embedder.embedder.convolution"),
    ("stem_norm", "embedder.embedder.normalization"),
    *(
        (rf"stage_{s + 1}/block_(\d+)/{ours}", THEIRS % s + theirs)
        for s in range(4)
        for ours, theirs in (
            *((f"conv_{i + 1}", f"layer.{i}.convolution") for i in range(3)),
            *((f"norm_{i + 1}", f"layer.{i}.normalization") for i in range(3)),
            ("shortcut", "shortcut.convolution"),
            ("shortcut_norm", "shortcut.normalization"),
        )
    ),
    ("head", "classifier.1"),
)
LAYOUTS = (
    Layout(
        "ResNet, torchvision or timm names",
        r"layer4\.\d+\.(conv|bn)\d|layer\d\.\d+\.downsample|fc\.",
        _planner(TORCHVISION, lambda s: rf"layer{s}\.(\d+)\."),
        TORCHVISION,
        names=r"resnet|((tv|gluon|ssl|swsl)_)?resnet(18|26|34|50|101|152|200)(_v1b)?",
        example="resnet50",
        settings=Settings,
        arguments=r"drop_rate|\w+_drop_rate",
    ),
    Layout(
        "ResNet, transformers names",
        r"encoder\.stages\.\d+\.layers\.\d+\.(layer|shortcut)\.",
        _planner(TRANSFORMERS, lambda s: rf"encoder\.stages\.{s - 1}\.layers\.(\d+)\."),
        TRANSFORMERS,
        names="resnet",
        example="resnet",
        settings=Settings,
        harmless="num_channels|embedding_size|hidden_sizes|depths|layer_type"
        "|stage_names|out_features|out_indices",
    ),
)
