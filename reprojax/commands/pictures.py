"""What a program does to the pixels, as pictures."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from reprojax.core import Params, Program, record
from reprojax.models import Model, Pixels
from reprojax.recipes import map_only

Images = list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]
"""(caption, target image uint8 [h w C], what the network gets [H W 3] in [0, 1], its
signed difference to the input without a prompt [H W 3])"""


def pictures(
    program: Program,
    params: Params,
    backbone: Model[Pixels],
    x: np.ndarray,
    y: np.ndarray,
    classes: Sequence[str],
    n: int = 8,
) -> tuple[Images, np.ndarray | None]:
    """(images, prompt) for a `RunReport`: what the network really receives.

    Of x uint8 [N h w C] with labels y, the first image of each class, then the rest,
    `n` in all. The prompt is what stands in the pixels whatever the image (a frame,
    with NaN inside); else the mean change to the pixels; else the learned tokens.
    """
    rows = _one_of_each(y)[:n]
    x, y = x[rows], y[rows]
    look = partial(_look, backbone=backbone)
    answers, network = look(program, params, x)
    bare = map_only(backbone, targets=len(classes))
    start = bare.init(jax.random.key(0), backbone.frozen, x)
    _, without = look(bare, start, x)
    difference = network - without
    images = [
        (
            f"label {classes[y[i]]}, answered {classes[answers[i]]}",
            x[i],
            np.clip(network[i], 0, 1),
            difference[i],
        )
        for i in range(len(x))
    ]
    black, white = (look(program, params, np.full_like(x, v))[1] for v in (0, 255))
    frame = np.abs(black - white).max((0, -1)) < 1e-6
    if frame.any() and not frame.all():
        return images, np.where(frame[..., None], np.clip(black[0], 0, 1), np.nan)
    if np.abs(difference).max() > 1e-6:
        return images, difference.mean(0)
    return images, _tokens(program, params)


def _one_of_each(y: np.ndarray) -> np.ndarray:
    """The rows in an order in which every class comes once before any comes twice."""
    visit = np.array([(y[:i] == label).sum() for i, label in enumerate(y)])
    return np.lexsort((np.arange(len(y)), visit))


def _look(
    program: Program, params: Params, x: np.ndarray, backbone: Model[Pixels]
) -> tuple[np.ndarray, np.ndarray]:
    """(answers [B], pixels [B H W 3] that the network gets, without normalisation)."""
    call = jax.jit(record(program.apply, ["normalized", "output"]))
    _, seen = call(params, backbone.frozen, x)
    pixels = np.asarray(seen["normalized"], np.float32)
    pixels = pixels * np.asarray(backbone.input.std) + np.asarray(backbone.input.mean)
    return np.asarray(seen["output"]).argmax(-1), pixels


def _tokens(program: Program, params: Params) -> np.ndarray | None:
    """The learned rows [P D] of all sites inside the network, in their order."""
    outer = ("input", "normalized", "output")
    inside = [sites[0] for sites, _ in program.at if sites[0] not in outer]
    leaves: list[Any] = jax.tree.leaves([params.learnable[site] for site in inside])
    rows = [np.asarray(leaf) for leaf in leaves if leaf.ndim == 2]
    same = [row for row in rows if row.shape[1] == rows[0].shape[1]]
    return np.concatenate(same) if same else None
