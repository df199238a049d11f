"""MobileNetV2 (arXiv 1801.04381) with batch norms folded into the convolutions."""

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config
from reprojax.models.vision.layers import Depthwise, Pointwise, head
from reprojax.models.weights import Layout, Plan, Shapes, shape_of

STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
WIDTHS = (16, 24, 24, 32, 32, 32, *(64,) * 4, *(96,) * 3, *(160,) * 3, 320)


class Block(nn.Module):
    """An inverted residual: expanded, filtered depthwise, projected."""

    width: int
    hidden: int
    stride: int
    expands: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        y = x
        if self.expands:
            y = nn.relu6(Pointwise(self.hidden, name="expand")(y))
        y = nn.relu6(Depthwise(self.stride, name="depthwise")(y))
        y = Pointwise(self.width, name="project")(y)
        return x + y if x.shape == y.shape else y


class MobileNetV2(nn.Module):
    """A stem, 17 blocks, a 1x1 convolution, the mean over places, and a linear head.

    Padding is SAME: at stride 2 the odd row is at the bottom and right. `widths` and
    `hidden` have one entry a block; block 0 does not expand.
    """

    stem: int
    widths: tuple[int, ...]
    hidden: tuple[int, ...]
    top: int
    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = nn.relu6(nn.Conv(self.stem, (3, 3), 2, name="stem")(x))
        for i, (width, hidden) in enumerate(zip(self.widths, self.hidden, strict=True)):
            x = Block(width, hidden, STRIDES[i], i > 0, name=f"block_{i}")(x)
        x = nn.relu6(Pointwise(self.top, name="top")(x))
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


RULES = (
    ("stem", "stem"),
    (r"block_(\d+)/(expand|depthwise|project)", "blocks.{}.{}"),
    ("top", "head"),
    ("head", "classifier"),
)


def _plan(shapes: Shapes, config: Config) -> Plan:
    def wide(path: str, default: int) -> int:
        bias = shape_of(shapes, RULES, f"{path}/bias", (default,))
        rank = 2 if path == "head" else 4
        return shape_of(shapes, RULES, f"{path}/kernel", (*bias, *(0,) * (rank - 1)))[0]

    widths = tuple(wide(f"block_{i}/project", w) for i, w in enumerate(WIDTHS))
    hidden = tuple(wide(f"block_{i}/depthwise", 0) for i in range(len(WIDTHS)))
    classes = wide("head", 0)
    module = MobileNetV2(wide("stem", 32), widths, hidden, wide("top", 1280), classes)
    half = (0.5, 0.5, 0.5)
    return Plan(module, 224, half, half, roles(), classes)


LAYOUTS = (
    Layout(
        "MobileNetV2",
        r"blocks\.\d+\.(expand|depthwise|project)\.",
        _plan,
        RULES,
        names="mobilenet_v2",
    ),
)
