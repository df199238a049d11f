"""Tiny frozen backbones with random weights, of every kind that recipes care about."""

from functools import cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import toys

from reprojax.models import Model, Pixels, images
from reprojax.models.vision import cifar_resnet, resnet, vit

# Other numbers in each channel, and none of them neutral: the order of a prompt and the
# normalisation shows.
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES = 12


def _backbone(name: str, module: nn.Module, size: int, roles: Any) -> Model[Pixels]:
    frozen = toys.weights(module, jnp.zeros((1, size, size, 3)))
    frozen = jax.tree_util.tree_map_with_path(_positive, frozen)
    forward = images(module, size, MEAN, STD)
    classes = tuple(f"source {i}" for i in range(CLASSES))
    return Model(name, forward, frozen, Pixels(size, MEAN, STD), roles, classes)


def _positive(path: Any, leaf: jax.Array) -> jax.Array:
    return jnp.abs(leaf) + 0.5 if path[-1].key == "var" else leaf


def vision_transformer(depth: int = 2, classes: int = CLASSES) -> nn.Module:
    return vit.ViT(8, 16, depth, 2, 32, classes)


def residual_net(classes: int = CLASSES) -> nn.Module:
    return cifar_resnet.CifarResNet((1, 1, 1), 4, classes)


@cache
def transformer(depth: int = 2) -> Model[Pixels]:
    """16 x 16 pixels in four patches, 16 wide."""
    return _backbone(
        "tiny transformer", vision_transformer(depth), 16, vit.roles(depth)
    )


@cache
def convolutional(size: int = 16) -> Model[Pixels]:
    """size x size pixels, with batch statistics, 16 features."""
    return _backbone("tiny residual net", residual_net(), size, resnet.roles((1, 1, 1)))


def photos(count: int, side: int = 10, channels: int = 3, seed: int = 0) -> np.ndarray:
    """uint8 [count side side channels]."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side, channels), dtype=np.uint8)
