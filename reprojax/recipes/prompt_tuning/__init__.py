"""Learned tokens in front of a frozen transformer's own, or prompts drawn by a net."""

from reprojax.recipes.prompt_tuning.black_box_visual_prompting import black_vip
from reprojax.recipes.prompt_tuning.hidden_edits import loreft, low_rank_edit
from reprojax.recipes.prompt_tuning.prefixes import (
    keys_and_values,
    prefix_tuning,
    without_mlp,
)
from reprojax.recipes.prompt_tuning.soft_prompts import (
    from_labels,
    from_text,
    from_vocabulary,
    label_words,
    prompt_tuning,
)
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import vpt_deep, vpt_shallow

__all__ = [
    "black_vip",
    "from_labels",
    "from_text",
    "from_vocabulary",
    "keys_and_values",
    "label_words",
    "loreft",
    "low_rank_edit",
    "prefix_tuning",
    "prompt_tuning",
    "vpt_deep",
    "vpt_shallow",
    "without_mlp",
]
