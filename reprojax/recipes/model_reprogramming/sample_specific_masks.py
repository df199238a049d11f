"""Sample-specific multi-channel masks, SMM (Cai et al., arXiv 2406.03150)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.nn.initializers import zeros
from jaxtyping import Array, Float

from reprojax.alignments import one_to_one
from reprojax.core import Manipulation, Program, PyTree, reprogram
from reprojax.formats import learnable
from reprojax.models import Model, Pixels
from reprojax.operators import augmented, masked_add, network, resize
from reprojax.recipes.method import Method, Preset, adam_in_steps, aligned, needs
from reprojax.recipes.sizes import is_transformer, scaled, uniform


class MaskGenerator(nn.Module):
    """The published mask network: 26,499 numbers for five layers, 102,339 for six.

    3 x 3 convolutions, each but the last with batch norm and ReLU, a maximum over 2 x 2
    behind the first `pools`; then every value fills a patch of 2^pools pixels. Weights
    and biases start as PyTorch's do.

    Args:
        channels: of the masks; 1 is the mean of what the last convolution would see,
            for all three colours, without that convolution.
    """

    layers: int = 5
    pools: int = 3
    channels: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool
    ) -> Float[Array, "B H W 3"]:
        shape = x.shape
        for i in range(self.layers - 1):
            x = _convolution(8 * 2**i, x.shape[-1])(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)(x))
            if i < self.pools:
                x = nn.max_pool(x, (2, 2), (2, 2))
        if self.channels == 3:
            x = _convolution(3, x.shape[-1])(x)
        else:
            x = jnp.repeat(x.mean(-1, keepdims=True), 3, axis=-1)
        return _patches(x, 2**self.pools, shape)


def _convolution(width: int, before: int) -> nn.Conv:
    start: Any = uniform(9 * before)
    return nn.Conv(width, (3, 3), padding=1, kernel_init=start, bias_init=start)


def _patches(x: Array, side: int, shape: tuple[int, ...]) -> Array:
    """Each value repeated over its patch; what the patches do not reach is zero."""
    x = jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)
    rest = [(0, 0), *((0, shape[i] - x.shape[i]) for i in (1, 2)), (0, 0)]
    return jnp.pad(x, rest)


@needs(Pixels)
def sample_specific_masks(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    layers: int | None = None,
    pools: int = 3,
    channels: int = 3,
    augment: bool = False,
) -> Program:
    """x + mask(x) * prompt, *after* normalisation (arXiv 2406.03150).

    The prompt starts at zero, so at the first step no gradient reaches the masks.

    Args:
        layers: of the mask network; by default 6 for transformers and 5 for others, as
            published.
        pools: the masks are constant over patches of 2^pools pixels.
        channels: 3, or 1 mask for all colours.
        augment: a random crop of 224 in 256 and a mirror, in training, as published;
            see `watermark` for why it is off.
    """
    layers = (6 if is_transformer(model) else 5) if layers is None else layers
    _check(layers, pools, channels)
    size = model.input.size
    whole = augmented(size, scaled(256, model)) if augment else resize(size)
    masks = network(MaskGenerator(layers, pools, channels))
    pattern = masked_add(learnable(zeros), masks)
    at = {"input": whole, "normalized": pattern}
    align = aligned(align, targets, one_to_one)
    return reprogram(model.forward, at, align)


def _check(layers: int, pools: int, channels: int) -> None:
    if layers < 2 or not 0 <= pools < layers or channels not in (1, 3):
        raise ValueError(
            f"sample_specific_masks got layers={layers}, pools={pools} and "
            f"channels={channels}, expected at least 2 layers, fewer pools than "
            "layers, and 1 or 3 channels; published are 5 or 6 layers and 3 pools"
        )


def _optimizer(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam in steps; a mask network of six layers has a tenth of the rate, constant."""
    falling = adam_in_steps(learning_rate, steps, epochs)
    constant = optax.adam(learning_rate / 10)

    def groups(learnable: PyTree) -> PyTree:
        mask = learnable["normalized"]["mask"]
        how = "constant" if "BatchNorm_4" in mask else "falling"
        own = {"prompt": "falling", "mask": jax.tree.map(lambda _: how, mask)}
        return jax.tree.map(lambda _: "falling", learnable) | {"normalized": own}

    return optax.partition({"falling": falling, "constant": constant}, groups)


METHOD = Method(
    "smm",
    sample_specific_masks,
    preset=Preset(_optimizer, 0.01, epochs=200, batch=256),
    alignment="ilm",
    enters="after normalisation",
    source="arXiv 2406.03150. tmlr-group/SMM: Adam at .01, times .1 at epochs 100 and "
    "144 (the paper prints 145) of 200; the same for a mask network of five layers, "
    "for one of six .001 throughout. Batches of 256 (the paper: 64 for DTD and "
    "OxfordPets). Its crop and mirror are `augment`.",
)
