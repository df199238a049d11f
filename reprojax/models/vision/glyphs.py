"""The embedded backbone: a small convolutional net of our own, trained on drawn glyphs.

128 classes, a figure in a style ("dotted anchor"), 32 x 32 pixels; it never saw digits.
`python -m experiments.train_glyphs` draws, trains and writes glyphs.safetensors, which
also holds the class names and the measured accuracies: `glyphs_card()`.
"""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import Array
from jaxtyping import Float

from reprojax.models.card import Model
from reprojax.models.vision.layers import BatchNorm
from reprojax.models.vision.pixels import Pixels, images
from reprojax.models.weights import HALF

SIZE = 32
WEIGHTS = Path(__file__).with_suffix(".safetensors")

# (width, stride) of each block after the stem. No shortcuts: with them, random weights
# pass the pixels through, and a prompt can use those.
STEM = 24
BLOCKS = ((48, 2), (48, 1), (48, 1), (96, 2), (96, 1), (96, 1), (192, 1))


class Block(nn.Module):
    """A 3x3 convolution, batch norm, relu."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w c"]:
        conv = nn.Conv(
            self.width, (3, 3), self.stride, padding=1, use_bias=False, name="conv"
        )
        return nn.relu(BatchNorm(name="norm")(conv(x)))


class Glyphs(nn.Module):
    """A stem, seven blocks 16, 8 and 4 pixels wide, the mean, and a linear head."""

    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "B 32 32 3"]) -> Float[Array, "B S"]:
        x = Block(STEM, 2, name="stem")(x)
        for i, (width, stride) in enumerate(BLOCKS):
            x = Block(width, stride, name=f"block_{i}")(x)
        return nn.Dense(self.classes, name="head")(x.mean((1, 2)))


def glyphs_model(frozen: Any, classes: tuple[str, ...]) -> Model[Pixels]:
    """The card of a `Glyphs` net with the weights `frozen`."""
    return Model(
        name="glyphs",
        forward=images(Glyphs(len(classes)), SIZE, HALF, HALF),
        frozen=frozen,
        input=Pixels(SIZE, HALF, HALF),
        classes=classes,
        roles={
            "input": ("input", "normalized"),
            "embedding": ("block_0:in",),
            "blocks": tuple(f"block_{i}:in" for i in range(len(BLOCKS))),
            "features": ("head:in",),
        },
    )


def load_glyphs(path: Path = WEIGHTS) -> Model[Pixels]:
    """The embedded backbone, in float32 (kernels are stored in float16)."""
    from safetensors.numpy import load_file

    flat = {
        name: jnp.asarray(tensor, jnp.float32)
        for name, tensor in load_file(path).items()
    }
    frozen = {"params": unflatten_dict(flat, sep="/")}
    return glyphs_model(frozen, tuple(glyphs_card(path)["classes"]))


def glyphs_card(path: Path = WEIGHTS) -> dict[str, Any]:
    """Metadata of the stored weights: class names, training, measured numbers."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["card"])
