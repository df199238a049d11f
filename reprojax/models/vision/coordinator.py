"""BlackVIP's decoder, which makes a prompt for each image (arXiv 2303.14773)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from reprojax.core import Key, Manipulation, Params, PyTree, Scope, until
from reprojax.core.initial import uniform
from reprojax.models import Model, Pixels
from reprojax.operators import network, resize

CHANNELS = 32  # of the first map, which holds the features and the trigger
WIDTHS = (64, 32, 32, 16)  # after each doubling except the last


class Double(nn.Module):
    """Upsample each pixel to 2 x 2, depthwise to `width` channels, or fully."""

    width: int
    full: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W D"]:
        channels = x.shape[-1]
        each = self.width if self.full else self.width // channels
        kernel = self.param("kernel", uniform(4 * each), (2, 2, channels, each))
        if self.full:
            y = jnp.einsum("bhwc,ijcd->bhiwjd", x, kernel.astype(x.dtype))
        else:
            y = jnp.einsum("bhwc,ijcm->bhiwjcm", x, kernel.astype(x.dtype))
        y = y.reshape(len(x), 2 * x.shape[1], 2 * x.shape[2], self.width)
        if self.full:
            return y
        bias = self.param("bias", uniform(4 * each), (self.width,))
        return y + bias.astype(y.dtype)


class Decoder(nn.Module):
    """Features [B D] and a learned trigger -> a prompt [B size size 3].

    At 224 pixels with 768 features it has the published 9,920 parameters: a trigger of
    800 completes the map of 7 x 7 x 32, and five doublings follow.
    """

    size: int

    @nn.compact
    def __call__(
        self, features: Float[Array, "B D"], train: bool
    ) -> Float[Array, "B H W 3"]:
        side, doublings = _grid(self.size)
        free = CHANNELS * side**2 - features.shape[-1]
        start = lambda key, shape: jax.random.uniform(key, shape, maxval=0.1)
        trigger = self.param("trigger", start, (free,)).astype(features.dtype)
        both = jnp.broadcast_to(trigger, (len(features), free))
        flat = jnp.concatenate([features, both], 1)
        x = flat.reshape(-1, CHANNELS, side, side).transpose(0, 2, 3, 1)
        for width in WIDTHS[-(doublings - 1) :]:
            x = Double(max(width, x.shape[-1]))(x)
            x = nn.Dense(width, use_bias=False, kernel_init=_pointwise)(x)
            x = nn.gelu(nn.BatchNorm(not train, momentum=0.9)(x), approximate=False)
        return Double(3, full=True)(x)


def _pointwise(key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
    return uniform(shape[-1])(key, shape, dtype)


def _grid(size: int) -> tuple[int, int]:
    """(side of the first map, doublings from there): 224 is 7 and 5, 32 is 4 and 3."""
    side, doublings = size, 0
    while side % 2 == 0 and side >= 8 and doublings < 5:
        side, doublings = side // 2, doublings + 1
    if doublings < 2:
        raise ValueError(
            f"BlackVIP's decoder got a model of {size} pixels, expected a multiple of "
            "4 from 16 on: it doubles a small map"
        )
    return side, doublings


def coordinator(model: Model[Pixels], encoder: Model[Pixels]) -> Manipulation:
    """clip(x + prompt(x)), from a frozen encoder's features (arXiv 2303.14773).

    x is normalised for the model; the sum is clipped to pixels in [0, 1]. The encoder's
    weights are in `fixed`, because the model may be a black box. The encoder gets
    pixels in its own normalisation, as in its training, and its features are its head's
    input. (The published code passes the backbone's normalisation, CLIP's, to a masked
    autoencoder, and takes the class token before the last norm.)
    """
    mean, std = (np.asarray(a, np.float32) for a in (model.input.mean, model.input.std))
    features = until(encoder.forward, encoder.roles["features"][0])
    decoder, to_size = network(Decoder(model.input.size)), resize(encoder.input.size)

    def look(frozen: PyTree, x: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        pixels = jnp.clip(x.astype(jnp.float32) * std + mean, 0, 1)
        small = to_size.apply(Params(), pixels, Scope())
        # No gradient: the encoder is frozen, and nothing learnable lies below it.
        return jax.lax.stop_gradient(features(frozen, small)).astype(x.dtype)

    def init(key: Key, x: PyTree, scope: Scope) -> Params:
        seen = jax.eval_shape(look, encoder.frozen, x)
        room = CHANNELS * _grid(model.input.size)[0] ** 2
        if seen.shape[-1] >= room:
            raise ValueError(
                f"BlackVIP's decoder has room for {room} numbers at {model.input.size} "
                f"pixels, and {encoder.name} gives {seen.shape[-1]} features; expected "
                "fewer; take another encoder="
            )
        params = decoder.init(key, seen, scope)
        fixed = {"decoder": params.fixed, "encoder": encoder.frozen}
        return Params(params.learnable, fixed)

    def apply(params: Params, x: Any, scope: Scope) -> Array:
        def tap(name: str, value: PyTree) -> PyTree:
            return scope.tap(f"decoder/{name}", value)

        seen = look(params.fixed["encoder"], x)
        own = Params(params.learnable, params.fixed["decoder"])
        prompt = decoder.apply(own, seen, scope._replace(tap=tap))
        low, high = (jnp.asarray((end - mean) / std, x.dtype) for end in (0, 1))
        return jnp.clip(x + prompt.astype(x.dtype), low, high)

    return Manipulation(init, apply)
