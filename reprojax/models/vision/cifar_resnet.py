"""ResNet-20, 56 and others for 32-pixel images (arXiv 1512.03385, section 4.2)."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from reprojax.models.settings import Config
from reprojax.models.vision.layers import BatchNorm, head
from reprojax.models.vision.resnet import conv, roles
from reprojax.models.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Layout,
    Plan,
    Shapes,
    count_numbered,
    shape_of,
)


class Block(nn.Module):
    """Two convolutions; the shortcut has no weights (the paper's option A)."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        y = conv(self.width, 3, self.stride, name="conv_1")(x)
        y = nn.relu(BatchNorm(name="norm_1")(y))
        y = BatchNorm(name="norm_2")(conv(self.width, 3, name="conv_2")(y))
        x = x[:, :: self.stride, :: self.stride]
        more = self.width - x.shape[-1]
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (more // 2, more - more // 2)))
        return nn.relu(x + y)


class Stage(nn.Module):
    """Blocks of one width; the first may halve the sides."""

    depth: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        for i in range(self.depth):
            x = Block(self.width, 1 if i else self.stride, name=f"block_{i}")(x)
        return x


class CifarResNet(nn.Module):
    """A 3x3 stem, three stages of `width`, 2 `width`, 4 `width`, and a linear head."""

    depths: tuple[int, ...]
    width: int
    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B S"]:
        x = conv(self.width, 3, name="stem")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(x))
        for i, depth in enumerate(self.depths):
            stage = Stage(
                depth, self.width * 2**i, 2 if i else 1, name=f"stage_{i + 1}"
            )
            x = stage(x)
        return head(self.classes)(x.mean((1, 2)))


BLOCK = r"stage_(\d+)/block_(\d+)"
RULES = (
    ("stem", "conv1"),
    ("stem_norm", "bn1"),
    (BLOCK + r"/conv_(\d)", "layer{}.{}.conv{}"),
    (BLOCK + r"/norm_(\d)", "layer{}.{}.bn{}"),
    ("head", "linear"),
)


def _plan(shapes: Shapes, config: Config) -> Plan:
    depths = tuple(
        count_numbered(shapes, rf"layer{s}\.(\d+)\.") or 1 for s in range(1, 4)
    )
    width = shape_of(shapes, RULES, "stem/kernel", (16, 3, 3, 3))[0]
    bias = shape_of(shapes, RULES, "head/bias", (0,))
    classes = shape_of(shapes, RULES, "head/kernel", (*bias, 0))[0]
    module = CifarResNet(depths, width, classes)
    return Plan(module, 32, IMAGENET_MEAN, IMAGENET_STD, roles(depths), classes)


LAYOUTS = (
    Layout(
        "CIFAR ResNet",
        r"layer[123]\.\d+\.(conv|bn)\d|linear\.",
        _plan,
        RULES,
        names="cifar_resnet",
    ),
)
