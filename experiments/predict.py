"""Use a kept program: labels and probabilities for images.

    python -m experiments.predict --program runs/a/seed-0.safetensors --images photos

This is `reprojax predict`, which knows the frozen models of our assets too.
"""

from dataclasses import dataclass
from functools import partial

from experiments.shared import assets
from reprojax import models
from reprojax.commands import predict
from reprojax.commands.outputs import command


@dataclass(frozen=True)
class Config(predict.Config):
    """What `reprojax predict` takes."""


KNOWN = (*models.names(), *assets.BACKBONES)
main = partial(predict.main, load_backbone=assets.load_backbone, known=KNOWN)

if __name__ == "__main__":
    command(main, Config)
