"""Sample-specific multi-channel masks, SMM (Cai et al., arXiv 2406.03150)."""

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax.nn.initializers import zeros
from jaxtyping import Array, Float

from reprojax.alignments import one_to_one
from reprojax.core import Manipulation, Program, reprogram
from reprojax.formats import learnable
from reprojax.models import Backbone
from reprojax.operators import masked_add, network, resize
from reprojax.recipes.method import Method, Preset


class MaskGenerator(nn.Module):
    """The published mask network: 26,499 numbers for five layers, 102,339 for six.

    3 x 3 convolutions, each but the last with batch norm and ReLU, a maximum over 2 x 2
    behind the first `pools`; then every value fills a patch of 2^pools pixels.
    """

    layers: int = 5
    pools: int = 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], train: bool
    ) -> Float[Array, "B H W 3"]:
        shape = x.shape
        for i in range(self.layers - 1):
            x = nn.Conv(8 * 2**i, (3, 3), padding=1)(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5)(x))
            if i < self.pools:
                x = nn.max_pool(x, (2, 2), (2, 2))
        return _patches(nn.Conv(3, (3, 3), padding=1)(x), 2**self.pools, shape)


def _patches(x: Array, side: int, shape: tuple[int, ...]) -> Array:
    """Each value repeated over its patch; what the patches do not reach is zero."""
    x = jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)
    rest = [(0, 0), *((0, shape[i] - x.shape[i]) for i in (1, 2)), (0, 0)]
    return jnp.pad(x, rest)


def sample_specific_masks(
    backbone: Backbone,
    targets: int,
    align: Manipulation | None = None,
    *,
    layers: int = 5,
    pools: int = 3,
) -> Program:
    """x + mask(x) * prompt, *after* normalisation (arXiv 2406.03150).

    The prompt starts at zero, so at the first step no gradient reaches the masks.

    Args:
        layers: 5 for ResNets, 6 for ViTs, as published.
        pools: the masks are constant over patches of 2^pools pixels.
    """
    pattern = masked_add(learnable(zeros), network(MaskGenerator(layers, pools)))
    at = {"input": resize(backbone.size), "normalized": pattern}
    align = one_to_one(targets) if align is None else align
    return reprogram(backbone.forward, at | {"output": align})


def _optimizer(
    learning_rate: float, steps: int, epochs: int
) -> optax.GradientTransformation:
    """Adam, its rate times .1 after 50 % and after 72.5 % of the epochs."""
    at = {int(0.5 * epochs) * steps: 0.1, int(0.725 * epochs) * steps: 0.1}
    return optax.adam(optax.piecewise_constant_schedule(learning_rate, at))


METHOD = Method(
    sample_specific_masks,
    Preset(_optimizer, 0.01, epochs=200, batch=256),
    alignment="ilm",
    enters="after normalisation",
)
