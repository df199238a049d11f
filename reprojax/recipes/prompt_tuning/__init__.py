"""Learned tokens in front of a frozen transformer's own, or prompts drawn by a net."""

from reprojax.recipes.prompt_tuning.black_box_visual_prompting import black_vip
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import vpt_deep, vpt_shallow

__all__ = ["black_vip", "vpt_deep", "vpt_shallow"]
