"""Image files and encoded images as pixels: uint8 [h w C]."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from reprojax.data.checks import listed
from reprojax.data.lazy import refuse
from reprojax.saving.files import open_regular

# What Pillow decodes itself: not EPS, for which it starts another program, nor TGA,
# which has no signature.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM"),
    *("JPEG2000", "AVIF", "HEIF"),
)
ANIMATED = ("PNG", "WEBP", "GIF", "TIFF", "AVIF")  # the others have one main image


def read_images(
    files: Sequence[str | PathLike],
    *,
    size: int = 256,
    on_bad: Callable[[Sequence[tuple[str, Exception]], int], None] = refuse,
) -> np.ndarray:
    """Image files as uint8 [N size size 3].

    Each image is rotated by its EXIF orientation, composed over white where
    transparent, and its central square is resized (bicubic, antialiased), which equals
    resizing the short side to `size` and cropping the centre. Of several frames or
    pages the first is taken; one warning counts such files. Deep grey is scaled to 8
    bits, integers from 0..65535, floats from 0..1. The range is never guessed from an
    image, so that one rule holds for all; values outside it raise.

    Args:
        on_bad: is given [(file, what is wrong)] and the number of all files, where some
            cannot be read. If it returns, those are left out.

    Raises:
        ValueError: files cannot be read, and no `on_bad` came; it names all of them.
    """
    if size < 1:
        raise ValueError(f"got size={size}, expected a side of at least 1 pixel")
    return decode_image(
        [str(f) for f in files], files, lambda image: square(image, size), on_bad
    )


@cache
def endings() -> tuple[str, ...]:
    """The endings of readable files; HEIC's only with pillow-heif."""
    from PIL import Image

    own = {f: [] for f in _formats()}
    for ending, name in Image.registered_extensions().items():
        own.get(name, []).append(ending)
    return tuple(ending for found in own.values() for ending in found)


@cache
def _formats() -> tuple[str, ...]:
    """The FORMATS that have a reader here."""
    from PIL import Image

    Image.init()
    if find_spec("pillow_heif"):  # the extra heif
        import pillow_heif

        pillow_heif.register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_image(
    names: Sequence[str],
    sources: Sequence[str | PathLike | bytes],
    convert: Callable[[Any], np.ndarray],
    on_bad: Callable[[Sequence[tuple[str, Exception]], int], None] = refuse,
) -> np.ndarray:
    """convert(PIL image) of every file or encoded bytes, read in threads, stacked.

    `on_bad` as in `read_images`.
    """
    if not sources:
        raise ValueError(
            f"no images to read; expected files that end with {listed(endings())}"
        )

    def read(source):
        try:
            return opened(source, lambda image: (_animated(image), convert(image)))
        except Exception as error:  # a broken file may raise anything; see below
            return error

    stacked, bad, animated, rows = np.empty(0), [], 0, 0
    _formats()  # registers readers, before any thread does
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for i, result in enumerate(pool.map(read, sources)):
            _progress(i + 1, len(sources))
            if isinstance(result, Exception):
                bad.append((names[i], result))
                continue
            several, pixels = result
            animated += several
            if not rows:
                stacked = np.empty((len(sources), *pixels.shape), np.uint8)
            stacked[rows] = pixels
            rows += 1
    if bad:
        on_bad(bad, len(sources))
    if animated:
        warnings.warn(
            f"{animated} of {len(sources)} images have several frames or pages: the "
            "first of each is taken",
            stacklevel=3,
        )
    return stacked[:rows]


def opened(source: str | PathLike | bytes, convert: Callable[[Any], Any]) -> Any:
    """convert(PIL image) of one file, or of encoded bytes."""
    from PIL import Image, UnidentifiedImageError

    whole = isinstance(source, bytes)
    with io.BytesIO(source) if whole else open_regular(Path(source)) as file:
        try:
            image = Image.open(file, formats=_formats())
        except UnidentifiedImageError:
            file.seek(0)
            raise ValueError(_unknown(file.read(12))) from None
        with image:
            return convert(image)


def _unknown(start: bytes) -> str:
    if start[4:8] == b"ftyp" and "HEIF" not in _formats():
        return "it is HEIC or AVIF, which pip install 'reprojax[heif]' reads"
    return f"it is empty or none of {', '.join(_formats())}"


def _animated(image: Any) -> bool:
    return image.format in ANIMATED and getattr(image, "is_animated", False)


def square(image: Any, size: int) -> np.ndarray:
    """A PIL image as uint8 [size size 3], as `read_images` says."""
    from PIL import Image, ImageOps

    image = rgb(ImageOps.exif_transpose(image))
    side = min(image.size)
    left, top = ((n - side) / 2 for n in image.size)
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)


def rgb(image: Any) -> Any:
    """A PIL image in RGB: deep grey scaled, transparency laid on white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # convert() would clip at 255, not scale
        image = Image.fromarray(_shallow(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _shallow(grey: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits, or of floats, as uint8 by the rule of `read_images`."""
    low, high = grey.min(), grey.max()
    most = 1 if grey.dtype.kind == "f" else 65535
    if not (low >= 0 and high <= most):  # also true for NaN
        raise ValueError(
            f"it is {grey.dtype} grey from {low:.6g} to {high:.6g}, expected 0 to "
            f"{most}; save it with 8 bits"
        )
    if most == 1:
        return np.round(grey * 255).astype(np.uint8)
    if 0 < high < 256:  # more likely 8 bits in a wider type than a black image
        raise ValueError(
            f"it is {grey.dtype} grey from {low} to {high} of {most}, nothing but "
            "black in 8 bits; save it with 8 bits"
        )
    return (grey // 257).astype(np.uint8)


def _progress(done: int, total: int) -> None:
    if total > 500 and (done == total or not done % 50):
        end = "\n" if done == total else ""
        print(f"\rread {done} of {total} images", end=end, file=sys.stderr, flush=True)
