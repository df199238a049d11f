"""Learned inputs and label maps around a frozen classifier."""

from reprojax.recipes.model_reprogramming.additive_prompts import additive_prompt
from reprojax.recipes.model_reprogramming.adversarial_reprogramming import (
    adversarial_reprogramming,
)
from reprojax.recipes.model_reprogramming.attribute_reprogramming import attrvr
from reprojax.recipes.model_reprogramming.automated_visual_prompting import (
    automated_visual_prompting,
)
from reprojax.recipes.model_reprogramming.black_box_reprogramming import (
    black_box_reprogramming,
)
from reprojax.recipes.model_reprogramming.decoupled_visual_prompts import (
    decoupled_visual_prompts,
)
from reprojax.recipes.model_reprogramming.diversity_aware_prompting import (
    diversity_aware_prompting,
)
from reprojax.recipes.model_reprogramming.enhanced_visual_prompting import (
    enhanced_visual_prompting,
)
from reprojax.recipes.model_reprogramming.label_mapping import padding, watermark
from reprojax.recipes.model_reprogramming.low_rank_visual_prompting import (
    low_rank_visual_prompting,
)
from reprojax.recipes.model_reprogramming.patch_prompting import (
    fixed_patch,
    random_patch,
)
from reprojax.recipes.model_reprogramming.red_circle import red_circle
from reprojax.recipes.model_reprogramming.refine import refine
from reprojax.recipes.model_reprogramming.related_classes import rvp
from reprojax.recipes.model_reprogramming.sample_specific_masks import (
    sample_specific_masks,
)
from reprojax.recipes.model_reprogramming.visual_prompting import visual_prompting
from reprojax.recipes.model_reprogramming.vocabulary_remapping import (
    vocabulary_remapping,
)

__all__ = [
    "additive_prompt",
    "adversarial_reprogramming",
    "attrvr",
    "automated_visual_prompting",
    "black_box_reprogramming",
    "decoupled_visual_prompts",
    "diversity_aware_prompting",
    "enhanced_visual_prompting",
    "low_rank_visual_prompting",
    "fixed_patch",
    "padding",
    "random_patch",
    "red_circle",
    "rvp",
    "refine",
    "sample_specific_masks",
    "visual_prompting",
    "vocabulary_remapping",
    "watermark",
]
