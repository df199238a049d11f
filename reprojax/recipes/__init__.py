"""Published methods, one short function each, with their papers' own settings.

`METHODS` and `ALIGNMENTS` are the registry that the command line reads. Each file here
adds its method by `register`, as a user's own file does.
"""

from reprojax.alignments.named import ALIGNMENTS, Alignment, find_alignment
from reprojax.recipes import prompt_instruction
from reprojax.recipes.controls import linear_probe, map_only
from reprojax.recipes.method import BlackBox, Method, Needs, Preset, needs
from reprojax.recipes.model_reprogramming import (
    adversarial_reprogramming,
    automated_visual_prompting,
    black_box_reprogramming,
    diversity_aware_prompting,
    enhanced_visual_prompting,
    fixed_patch,
    low_rank_visual_prompting,
    padding,
    random_patch,
    red_circle,
    refine,
    sample_specific_masks,
    visual_prompting,
    watermark,
)
from reprojax.recipes.prompt_tuning import (
    black_vip,
    coda_prompt,
    coop,
    dual_prompt,
    e2vpt,
    explicit_visual_prompting,
    learning_to_prompt,
    vpt_deep,
    vpt_shallow,
)
from reprojax.recipes.registry import (
    METHODS,
    build,
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
    "automated_visual_prompting",
    "build",
    "coop",
    "diversity_aware_prompting",
    "enhanced_visual_prompting",
    "coda_prompt",
    "dual_prompt",
    "e2vpt",
    "explicit_visual_prompting",
    "find_alignment",
    "find_method",
    "learning_to_prompt",
    "linear_probe",
    "low_rank_visual_prompting",
    "methods",
    "needs",
    "map_only",
    "fixed_patch",
    "padding",
    "random_patch",
    "red_circle",
    "refine",
    "prompt_instruction",
    "rebuild",
    "register",
    "sample_specific_masks",
    "visual_prompting",
    "vpt_deep",
    "vpt_shallow",
    "watermark",
]
