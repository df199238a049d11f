"""Prompts in a frozen transformer: learned tokens, keys and edits, steering vectors, or
prompts drawn by a net."""

from reprojax.recipes.prompt_tuning.activation_addition import (
    activation_addition,
    contrast,
    steering,
)
from reprojax.recipes.prompt_tuning.black_box_tuning import black_box_tuning, hinge
from reprojax.recipes.prompt_tuning.black_box_visual_prompting import black_vip
from reprojax.recipes.prompt_tuning.decomposed_prompt_tuning import (
    decomposed_prompt_tuning,
)
from reprojax.recipes.prompt_tuning.hidden_edits import loreft, low_rank_edit
from reprojax.recipes.prompt_tuning.p_tuning_v2 import p_tuning_v2
from reprojax.recipes.prompt_tuning.prefixes import (
    keys_and_values,
    prefix_tuning,
    without_mlp,
)
from reprojax.recipes.prompt_tuning.soft_prompts import (
    from_labels,
    from_text,
    from_vocabulary,
    prompt_tuning,
)
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import vpt_deep, vpt_shallow

__all__ = [
    "activation_addition",
    "black_box_tuning",
    "black_vip",
    "contrast",
    "decomposed_prompt_tuning",
    "from_labels",
    "from_text",
    "from_vocabulary",
    "hinge",
    "keys_and_values",
    "loreft",
    "low_rank_edit",
    "p_tuning_v2",
    "prefix_tuning",
    "prompt_tuning",
    "steering",
    "vpt_deep",
    "vpt_shallow",
    "without_mlp",
]
