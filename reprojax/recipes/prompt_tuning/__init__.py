"""Learned tokens in front of a frozen transformer's own."""

from reprojax.recipes.prompt_tuning.visual_prompt_tuning import vpt_deep, vpt_shallow

__all__ = ["vpt_deep", "vpt_shallow"]
