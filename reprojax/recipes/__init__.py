"""Published methods, one short function each, with their papers' own settings.

`METHODS` and `ALIGNMENTS` are the register that the command line reads; `register` adds
a method of one's own.
"""

from reprojax.recipes.controls import linear_probe, no_prompt
from reprojax.recipes.method import Alignment, BlackBox, Method, Needs, Preset, needs
from reprojax.recipes.model_reprogramming import (
    adversarial_reprogramming,
    black_box_reprogramming,
    padding,
    sample_specific_masks,
    visual_prompting,
    watermark,
)
from reprojax.recipes.prompt_tuning import black_vip, vpt_deep, vpt_shallow
from reprojax.recipes.registry import (
    ALIGNMENTS,
    METHODS,
    build,
    find_alignment,
    find_method,
    methods,
    rebuild,
    register,
)

__all__ = [
    "ALIGNMENTS",
    "Alignment",
    "BlackBox",
    "METHODS",
    "Method",
    "Needs",
    "Preset",
    "adversarial_reprogramming",
    "black_box_reprogramming",
    "black_vip",
    "build",
    "find_alignment",
    "find_method",
    "linear_probe",
    "methods",
    "needs",
    "no_prompt",
    "padding",
    "rebuild",
    "register",
    "sample_specific_masks",
    "visual_prompting",
    "vpt_deep",
    "vpt_shallow",
    "watermark",
]
