"""Prompts in a frozen transformer: learned tokens, keys, hidden edits, steering."""

from reprojax.recipes.prompt_tuning.activation_addition import activation_addition
from reprojax.recipes.prompt_tuning.aligned_gradients import prograd
from reprojax.recipes.prompt_tuning.black_box_tuning import black_box_tuning
from reprojax.recipes.prompt_tuning.black_box_visual_prompting import black_vip
from reprojax.recipes.prompt_tuning.coda_prompt import coda_prompt
from reprojax.recipes.prompt_tuning.conditional_context import cocoop
from reprojax.recipes.prompt_tuning.context_optimisation import coop
from reprojax.recipes.prompt_tuning.decomposed_prompt_tuning import (
    decomposed_prompt_tuning,
)
from reprojax.recipes.prompt_tuning.dual_prompt import dual_prompt
from reprojax.recipes.prompt_tuning.e2vpt import e2vpt
from reprojax.recipes.prompt_tuning.explicit_visual_prompting import (
    explicit_visual_prompting,
)
from reprojax.recipes.prompt_tuning.hidden_edits import loreft
from reprojax.recipes.prompt_tuning.independent_prompts import ivlp, prompt_src
from reprojax.recipes.prompt_tuning.knowledge_guided_context import kgcoop
from reprojax.recipes.prompt_tuning.learning_to_prompt import learning_to_prompt
from reprojax.recipes.prompt_tuning.multimodal_prompts import maple
from reprojax.recipes.prompt_tuning.optimal_transport import optimal_transport
from reprojax.recipes.prompt_tuning.p_tuning_v2 import p_tuning_v2
from reprojax.recipes.prompt_tuning.prefixes import prefix_tuning, without_mlp
from reprojax.recipes.prompt_tuning.soft_prompts import prompt_tuning
from reprojax.recipes.prompt_tuning.tip_adapter import tip_adapter, tip_adapter_f
from reprojax.recipes.prompt_tuning.tuning_at_test_time import tpt
from reprojax.recipes.prompt_tuning.visual_prompt_tuning import vpt_deep, vpt_shallow

__all__ = [
    "activation_addition",
    "black_box_tuning",
    "black_vip",
    "cocoop",
    "coda_prompt",
    "coop",
    "decomposed_prompt_tuning",
    "dual_prompt",
    "e2vpt",
    "kgcoop",
    "explicit_visual_prompting",
    "ivlp",
    "learning_to_prompt",
    "loreft",
    "maple",
    "p_tuning_v2",
    "optimal_transport",
    "prefix_tuning",
    "prompt_src",
    "prograd",
    "prompt_tuning",
    "tip_adapter",
    "tip_adapter_f",
    "tpt",
    "vpt_deep",
    "vpt_shallow",
    "without_mlp",
]
