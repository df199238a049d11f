"""What `python -m experiments.choose` is told."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.choosing.candidates import Candidate
from experiments.choosing.sizes import Sizes
from reprojax import models
from reprojax.commands import train
from reprojax.data import Task
from reprojax.recipes import BlackBox, find_method


@dataclass(frozen=True)
class Config:
    """Choose the manipulation that is best for a model and a folder of images."""

    backbone: Annotated[
        str,
        tyro.conf.arg(
            help=f"{', '.join(models.names())}, a .safetensors file, a folder, or a "
            "Hugging Face name"
        ),
    ] = "glyphs"
    target: str = "digits"
    """A folder of images, an .npz file, digits, or another name of a data set."""
    minutes: float = 20.0
    """The budget, from start to page."""
    access: Annotated[
        str,
        tyro.conf.arg(help="white, or logits: the model only answers"),
    ] = "white"
    methods: tuple[Path, ...] = ()
    """Python files that register methods of your own."""
    seed: int = 0
    """Of the search. The finals take the seeds behind it."""
    finals: int = 3
    """Seeds of the finals: each draws its own training and validation images."""
    train: int | None = None
    """Training images; by default all that are left."""
    validation: int | None = None
    """Validation images; by default a fifth of the others, or the set's own."""
    test: int | None = None
    """Test images; by default a fifth of all, or the set's own."""
    test_seed: int | None = None
    """Draw other test images, also in place of the set's own."""
    batch: int = 32
    """Images a step, or as many as the paper has if these are fewer."""
    workers: int = 2
    """Processes; 1 on a GPU or TPU."""
    out: Path = Path("runs/choice")
    """A folder for the jobs, the programs, winner.safetensors and report.html."""
    resume: bool = False
    """Go on with the choice in that folder."""

    @property
    def seeds(self) -> list[int]:
        """Of the finals."""
        return [self.seed + 1 + i for i in range(self.finals)]

    @property
    def identity(self) -> dict[str, Any]:
        """The settings that decide what is chosen."""
        names = ("access", "seed", "finals", "batch", "target", "backbone")
        sizes = ("train", "validation", "test", "test_seed")
        return {name: getattr(self, name) for name in (*names, *sizes)}


def check(config: Config) -> None:
    """Raise for numbers that cannot be used."""
    for name in ("finals", "batch", "workers"):
        if getattr(config, name) < 1:
            raise ValueError(
                f"got --{name} {getattr(config, name)}, expected at least 1"
            )
    if not 0 < config.minutes < math.inf:
        raise ValueError(f"got --minutes {config.minutes}, expected a number above 0")
    if config.seed < 0:
        raise ValueError(f"got --seed {config.seed}, expected a number from 0")


def training(
    config: Config, candidate: Candidate, epochs: int, task: Task
) -> train.Config:
    """The settings of `reprojax train` for a candidate.

    Of a method whose model only answers an epoch is four queries a training image.
    """
    preset = find_method(candidate.method).preset
    assert preset is not None  # candidates have something to train
    given: dict[str, Any] = {"epochs": epochs}
    if isinstance(preset, BlackBox):
        given = {"budget": Sizes.of(task).queries(epochs)}
    return train.Config(
        method=candidate.method,
        methods=config.methods,
        map=candidate.map,
        backbone=config.backbone,
        target=config.target,
        learning_rate=candidate.rate,
        batch=min(config.batch, preset.batch),
        out=config.out,
        **given,
    )
