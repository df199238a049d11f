"""Image operations before a prompt: sizes, crops, mirrors. Nothing is learned."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from reprojax.core import (
    Given,
    Key,
    Manipulation,
    Params,
    PyTree,
    Scope,
    chain,
    fold,
    stateless,
)
from reprojax.core.guards import check_sizes


def pixels(x: Shaped[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """uint8 in 0..255 as float32 in [0, 1]; floats are returned unchanged."""
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"got images of {x.dtype}, expected uint8 in 0..255 or floats in [0, 1]; "
            "convert them to uint8"
        )
    return x


def resize(size: int, method: str = "bilinear") -> Manipulation:
    """Images [B h w C], uint8 or in [0, 1], as RGB floats [B size size 3] in [0, 1].

    Grey images (C = 1) get three equal channels. Runs on the device, inside the jitted
    step. Shrinking is antialiased.
    """
    check_sizes("resize", size=size)

    def to_size(x: Shaped[Given, "B h w C"]) -> Float[Array, "B H W 3"]:
        if x.ndim != 4 or x.shape[-1] not in (1, 3):
            raise ValueError(
                f"resize got a value of shape {tuple(x.shape)}, expected images "
                "[B h w C] with C = 1 or 3; add the axis, or pick the channels"
            )
        x = pixels(jnp.asarray(x))
        if x.shape[1:3] != (size, size):
            shape = (x.shape[0], size, size, x.shape[3])
            x = jnp.clip(jax.image.resize(x, shape, method), 0, 1)
        return jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x

    return stateless(to_size)


def augmented(size: int, larger: int) -> Manipulation:
    """`resize(size)`; in training, a random crop from `larger` pixels, and a mirror."""
    whole, cut = (
        resize(size),
        chain(resize=resize(larger), crop=crop(size), flip=flip()),
    )

    def apply(params: Params, x: Array, scope: Scope) -> Array:
        if scope.key is None:
            return whole.apply(Params(), x, scope)
        return cut.apply(params, x, scope)

    return Manipulation(cut.init, apply)


def parts(size: int, least: float = 0.08) -> Manipulation:
    """`resize(size)`; in training, a random part of each image, resized, and a mirror.

    A part has `least` to all of the area and sides of 3:4 to 4:3. If none of ten drawn
    ones fits into the image, it is the whole.
    """
    plain, mirror = resize(size), flip()

    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, x: Shaped[Given, "B h w C"], scope: Scope) -> Array:
        if scope.key is None:
            return plain.apply(Params(), x, scope)
        x = pixels(jnp.asarray(x))
        keys = jax.random.split(fold(scope.key, "parts"), len(x))
        cut = jax.vmap(lambda key, image: _part(image, size, least, key))(keys, x)
        own = scope._replace(key=fold(scope.key, "flip"))
        return mirror.apply(Params(), jnp.repeat(cut, 3 // cut.shape[-1], -1), own)

    return Manipulation(init, apply)


def _part(
    x: Float[Array, "h w C"], size: int, least: float, key: Key
) -> Float[Array, "H W C"]:
    top, left, height, width = _box(key, x.shape[0], x.shape[1], least)
    scale = size / jnp.stack([height, width])
    where = -jnp.stack([top, left]) * scale
    shape = (size, size, x.shape[2])
    cut = jax.image.scale_and_translate(x, shape, (0, 1), scale, where, "linear")
    return jnp.clip(cut, 0, 1)


def _box(
    key: Key, height: int, width: int, least: float
) -> tuple[Array, Array, Array, Array]:
    """Top, left, height and width of the first of ten drawn boxes that fits."""
    k = jax.random.split(key, 4)
    area = height * width * jax.random.uniform(k[0], (10,), minval=least)
    ratio = (4 / 3) ** jax.random.uniform(k[1], (10,), minval=-1)
    wide, high = jnp.round(jnp.sqrt(area * ratio)), jnp.round(jnp.sqrt(area / ratio))
    fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
    first = fits.argmax()
    w = jnp.where(fits.any(), wide[first], width)
    h = jnp.where(fits.any(), high[first], height)
    place = lambda key, room: jnp.floor(jax.random.uniform(key) * (room + 1))
    return place(k[2], height - h), place(k[3], width - w), h, w


def _augmentation(function: Callable[[Key | None, Array], Array]) -> Manipulation:
    def init(key: Key, value: PyTree, scope: Scope) -> Params:
        return Params()

    def apply(params: Params, value: Array, scope: Scope) -> Array:
        return function(scope.key, value)

    return Manipulation(init, apply)


def crop(size: int) -> Manipulation:
    """A square [B size size C] at a random place of each image; evaluation: centred."""
    check_sizes("crop", size=size)

    def cut(key: Key | None, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        room = (x.shape[1] - size, x.shape[2] - size)
        if min(room) < 0:
            raise ValueError(
                f"crop({size}) got images of {tuple(x.shape)}, expected at least "
                f"{size} x {size}; put a larger resize before it"
            )
        if key is None:
            top, left = room[0] // 2, room[1] // 2
            return x[:, top : top + size, left : left + size]
        limits = jnp.array(room) + 1
        corners = jax.random.randint(key, (x.shape[0], 2), 0, limits)
        one = lambda image, at: jax.lax.dynamic_slice(
            image, (at[0], at[1], 0), (size, size, x.shape[3])
        )
        return jax.vmap(one)(x, corners)

    return _augmentation(cut)


def flip() -> Manipulation:
    """Mirror each image left to right with probability .5; never in evaluation."""

    def mirror(key: Key | None, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        if key is None:
            return x
        coin = jax.random.bernoulli(key, 0.5, (x.shape[0], 1, 1, 1))
        return jnp.where(coin, x[:, :, ::-1], x)

    return _augmentation(mirror)
