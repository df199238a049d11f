"""What is compared: the registered methods with the label maps and rates that fit."""

from collections.abc import Collection
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np

from reprojax import recipes
from reprojax.core import Program
from reprojax.data import Task
from reprojax.models import Model, Pixels
from reprojax.recipes import BlackBox, Method, Preset

Access = Literal["white", "logits"]
FACTORS = (1.0, 3.0, 0.3, 0.1)
"""Of a method's published rate."""
FIRST_MAP, MAPS = "linear", ("blm+", "blm", "ilm", "flm")
"""Before a method's own, and behind it; the last ones are the first to be left out."""
FIRST = ("watermark", "vpt-deep", "padding", "smm", "vpt-shallow", "vp", "ar")
FIRST += ("lor-vp", "autovp", "evp", "dam-vp", "vp-fixed-patch", "vp-random-patch")
FIRST += ("refine",)
"""A short budget tries these first, behind a user's own methods."""
CONTROLS = ("linear-probe", "map-only")
"""Methods that are measured as controls."""


class Candidate(NamedTuple):
    """A program to train, and its rate."""

    method: str
    map: str | None
    """None: a linear head of the method's own."""
    rate: float

    @property
    def title(self) -> str:
        """The program's name, without its rate."""
        return f"{self.method} with {self.map or 'a linear head'}"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.method}/{self.map or 'head'}/{self.rate:g}"


def candidates(
    backbone: Model[Pixels], task: Task, access: str, own: Collection[str] = ()
) -> tuple[list[Candidate], dict[str, str]]:
    """(what to compare, those first that a short budget should try; {what does not fit:
    why}).

    Args:
        own: names of the user's methods.

    Raises:
        ValueError: an unknown access, or nothing fits.
    """
    if access not in get_args(Access):
        raise ValueError(
            f"got --access {access}, expected white (gradients and features), or "
            "logits (the model only answers)"
        )
    found: list[tuple[tuple[int, int], Candidate]] = []
    left_out: dict[str, str] = {}
    for order, method in enumerate(_methods(backbone, access, own)):
        for rank, name in enumerate(_maps(method)):
            title = Candidate(method.name, name, 0.0).title
            if why := _misfit(method.name, name, backbone, task):
                left_out[title] = why
                continue
            for step, factor in enumerate(FACTORS):
                rate = _rate(method) * factor
                one = Candidate(method.name, name, float(f"{rate:.3g}"))
                found.append(((rank + step, order), one))
    return [one for _, one in sorted(found, key=lambda pair: pair[0])], left_out


def _methods(
    backbone: Model[Pixels], access: str, own: Collection[str]
) -> list[Method]:
    """Of the access: the user's own, then in the order of `FIRST`, then the others."""
    kind = BlackBox if access == "logits" else Preset
    fit = recipes.methods(backbone)
    found = [
        m for n, m in fit.items() if n not in CONTROLS and isinstance(m.preset, kind)
    ]
    rank = {name: i for i, name in enumerate((*own, *FIRST))}
    return sorted(found, key=lambda method: rank.get(method.name, len(rank)))


def _maps(method: Method) -> list[str | None]:
    if method.alignment is None:
        return [None]
    names = dict.fromkeys([FIRST_MAP, method.alignment, *MAPS])
    fits = lambda name: recipes.find_alignment(name).probable or not method.probable
    return [name for name in names if fits(name)]


def _rate(method: Method) -> float:
    assert method.preset is not None  # `_methods` takes no others
    return method.preset.learning_rate


def _misfit(method: str, name: str | None, backbone: Model[Pixels], task: Task) -> str:
    """Why there is no such program for the task; empty if there is."""
    try:
        shapes_of(
            recipes.build(method, backbone, len(task.classes), name), backbone, task
        )
    except ValueError as error:
        return str(error)
    return ""


def shapes_of(program: Program, backbone: Model[Pixels], task: Task) -> Any:
    """Params without values."""
    x, key = task.train.x[:1], jax.random.key(0)
    return jax.eval_shape(program.init, key, backbone.frozen, x)


def learnable(program: Program, backbone: Model[Pixels], task: Task) -> int:
    """How many numbers it learns."""
    params = shapes_of(program, backbone, task)
    return sum(leaf.size for leaf in jax.tree.leaves(params.learnable))


def small(task: Task, batch: int, batches: int = 4) -> Task:
    """A few batches with an image of every class, to see how long a step takes."""
    y = np.asarray(task.train.y)
    one = np.unique(y, return_index=True)[1]
    rest = np.setdiff1d(np.arange(len(y)), one)
    rows = np.concatenate([one, rest])[: max(batches * batch, len(one))]
    train = task.train._replace(x=task.train.x[rows], y=y[rows])
    held = task.validation
    held = held._replace(x=held.x[:batch], y=held.y[:batch])
    return task._replace(train=train, validation=held, test=held)
