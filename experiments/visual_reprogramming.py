r"""Reprogram a frozen image classifier for a task that it was never trained on.

    python -m experiments.visual_reprogramming
        the embedded net answers handwritten digits through a learned watermark
    python -m experiments.visual_reprogramming --method padding --map ilm
    python -m experiments.visual_reprogramming --backbone google/vit-base-patch16-224 \
        --target my/photos --method vpt-deep --out runs/photos
    python -m experiments.visual_reprogramming --method bar --budget 200000
        without gradients: the model is only asked

Expected, on two cores (docs/results.md has the controls and more):

    make demo
        letters behind glass: test .95 to 1.00 over 5 seeds; linear probe .57 to .68,
        best map without prompt .19 to .26, random weights .09 to .34; two to three
        minutes
    ... --backbone vit_tiny_patch16_224 --target mnist --train 600 --validation 200 \
        --test 2000 --epochs 10 --batch 30 --learning-rate 0.03 --random-weights 1
        test .872 ± .033 over 3 seeds; best map without prompt .524
    ... --backbone vit_tiny_patch16_224 --target clothing --map blm+15 --resplit \
        --seeds 10 --train 400 --validation 100 --test 149 --epochs 6 --batch 40 \
        --learning-rate 0.01 --random-weights 1
        test .645 ± .035 over 10 resplits; best map without prompt .559; five
        of the resplits take 17 minutes

This is `reprojax train`, which knows the names of our assets too. It prints a table
with the controls below, which row is best, and what to take. It leaves in the run's
folder `report.html`, `results.json` and three programs a seed for
`experiments.predict`: `seed-0.safetensors`, and its controls
`linear-probe-0.safetensors` and `map-only-0.safetensors`. A run that was stopped goes
on with --resume.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from experiments.shared import assets
from reprojax import models
from reprojax.commands import train
from reprojax.commands.outputs import command


@dataclass(frozen=True)
class Config(train.Config):
    """What `reprojax train` takes, and the names of our assets."""

    backbone: Annotated[
        str,
        tyro.conf.arg(
            help=f"{', '.join(models.names())}, a .safetensors file, a folder, or a "
            "Hugging Face name such as google/vit-base-patch16-224; where "
            f"REPROJAX_ASSETS is set also {', '.join(assets.BACKBONES)}"
        ),
    ] = "glyphs"
    target: Annotated[
        str,
        tyro.conf.arg(
            help="digits, letters-behind-glass, an .npz file, a folder of images, or "
            f"tfds:NAME; where REPROJAX_ASSETS is set also {', '.join(assets.IMAGES)}"
        ),
    ] = "digits"


ASSETS = {"load_backbone": assets.load_backbone, "load_task": assets.load_task}
run = partial(
    train.run,
    **ASSETS,
    prog="python -m experiments.visual_reprogramming",
    predict="python -m experiments.predict",
)

if __name__ == "__main__":
    command(run, Config, about=f"{__doc__}\n{train.METHODS_OF_IMAGES}")
