"""What a program does to the pixels, as pictures."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from reprojax.core import Params, Program, PyTree, record
from reprojax.data import Split, in_order
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
) -> tuple[Images, np.ndarray | None]:
    """(images, prompt) for a `RunReport`: what the network really receives.

    Of x uint8 [N h w C] with labels y. The prompt is what stands in the pixels whatever
    the image (a frame, with NaN inside); else the mean change to the pixels; None where
    the pixels are as they were. Tokens inside the network are no pictures.
    """
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
    return images, None


def answers_of(
    program: Program,
    params: Params,
    backbone: Model[Pixels],
    split: Split,
    batch: int = 50,
) -> np.ndarray:
    """The class that the program gives to each image of a split, [N]."""
    call = jax.jit(program.apply)
    found = [
        np.asarray(call(params, backbone.frozen, x)).argmax(-1)
        for x, *_ in in_order(split, min(batch, len(split.y)))
    ]
    return np.concatenate(found)[: len(split.y)]


def by_class(
    y: np.ndarray, answers: np.ndarray, classes: Sequence[str], most: int = 20
) -> list[tuple[str, ...]]:
    """(accuracy, class, images, what it is taken for most often) of each class.

    Of more than `most` classes those with the lowest accuracy. A class without images
    is left out.
    """
    rows = []
    for label, name in enumerate(classes):
        own = answers[y == label]
        if not len(own):
            continue
        wrong = Counter(own[own != label].tolist()).most_common(1)
        taken = f"{classes[wrong[0][0]]} ({wrong[0][1]})" if wrong else ""
        rows.append(((own == label).mean(), name, str(len(own)), taken))
    if len(rows) > most:
        rows = sorted(rows, key=lambda row: row[0])[:most]
    return [(f"{share:.3f}", *rest) for share, *rest in rows]


def examples(split: Split, n: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """`n` images uint8 [n h w C] and labels, each class once before one comes twice."""
    rows = _one_of_each(split.y)[:n]
    return split.x[rows], split.y[rows]


def mistakes(
    split: Split, answers: np.ndarray, classes: Sequence[str], n: int = 8
) -> list[tuple[str, np.ndarray]]:
    """(caption, image uint8 [h w C]) of wrong answers, each class once before twice."""
    wrong = np.flatnonzero(answers != split.y)
    wrong = wrong[_one_of_each(split.y[wrong])][:n]
    if not len(wrong):
        return []
    pairs = zip(split.y[wrong].tolist(), answers[wrong].tolist(), strict=True)
    captions = [f"label {classes[i]}, answered {classes[j]}" for i, j in pairs]
    return list(zip(captions, split.x[wrong], strict=True))


def _one_of_each(y: np.ndarray) -> np.ndarray:
    """The rows in an order in which every class comes once before any comes twice."""
    order = np.argsort(y, kind="stable")
    _, starts, counts = np.unique(y[order], return_index=True, return_counts=True)
    visit = np.empty(len(y), int)  # how often its class came before
    visit[order] = np.arange(len(y)) - np.repeat(starts, counts)
    return np.argsort(visit, kind="stable")


def _look(
    program: Program, params: Params, x: np.ndarray, backbone: Model[Pixels]
) -> tuple[np.ndarray, np.ndarray]:
    """(answers [B], pixels [B H W 3] that the network gets, without normalisation)."""
    seen = _recorded(program, params, backbone.frozen, x)
    pixels = np.asarray(seen["normalized"], np.float32)
    pixels = pixels * np.asarray(backbone.input.std) + np.asarray(backbone.input.mean)
    return np.asarray(seen["output"]).argmax(-1), pixels


@partial(jax.jit, static_argnums=0)  # one compilation for all images of a program
def _recorded(
    program: Program, params: Params, frozen: PyTree, x: jax.Array
) -> dict[str, jax.Array]:
    return record(program.apply, ["normalized", "output"])(params, frozen, x)[1]
