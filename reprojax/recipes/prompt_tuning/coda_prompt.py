"""CODA-Prompt (Smith et al., arXiv 2211.13218)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from reprojax.alignments import linear
from reprojax.core import Manipulation, Program, reprogram, until
from reprojax.core.initial import linear_kernel
from reprojax.formats import components
from reprojax.models import Model, Pixels
from reprojax.operators import prefix, resize
from reprojax.recipes.method import Method, Preset, aligned, needs
from reprojax.recipes.prompt_tuning.pools import attention, checked
from reprojax.recipes.queries import asking
from reprojax.recipes.registry import register


@needs(Pixels, "features", "keys", "values")
def coda_prompt(
    model: Model[Pixels],
    align: Manipulation | None = None,
    *,
    targets: int | None = None,
    size: int | None = None,
    length: int = 4,
    tasks: int = 1,
    blocks: Sequence[int] | None = None,
) -> Program:
    """Keys and values before the image's own, a weighted sum of components in each
    block, with weights from the image's frozen feature (arXiv 2211.13218).

    Args:
        size: components of a block; by default 100, or in a narrower model as many as
            its width, cut to a multiple of the tasks.
        length: keys, and as many values, of a block. The published code counts both,
            so its 8 is 4 here.
        tasks: in how many parts the components are given out: `formats.begin_task`.
        blocks: those with prompts, by default the first five.
    """
    depth = len(model.roles["keys"])
    own = checked(model, range(min(depth, 5)) if blocks is None else blocks)
    size = min(100, model.width) // tasks * tasks if size is None else size
    fmt, to_size = components(size, tasks), resize(model.input.size)
    at: dict = {"input": to_size}
    at |= {attention(model, [i]): prefix(fmt, length) for i in own}
    align = aligned(align, targets, partial(linear, initial=linear_kernel))
    cut = until(model.forward, model.roles["features"][0])
    return asking(reprogram(cut, at, align), model, to_size)


def _adam(rate: float, steps: int, epochs: int) -> optax.GradientTransformation:
    """Adam; the rate falls by epochs along almost a quarter of a cosine."""

    def schedule(step: Any) -> Any:
        epoch = step // steps
        return rate * jnp.cos(99 * math.pi * epoch / (200 * max(epochs - 1, 1)))

    return optax.adam(schedule)


METHOD = Method(
    "coda-prompt",
    coda_prompt,
    preset=Preset(_adam, 0.001, 20, 128),
    enters="keys and values of the first blocks",
    source="arXiv 2211.13218. GT-RIPL/CODA-Prompt, configuration for CIFAR-100: Adam "
    "at .001, 20 epochs a task (50 for ImageNet-R), a cosine by epochs that ends near "
    "zero, batches of 128, 100 components of 4 keys and 4 values, no penalty (the "
    "paper's is `pools.orthogonal`). What differs: images are not augmented, and the "
    "head's bias starts at zero.",
)
register(METHOD)
