"""Prompt instruction: fixed prompts in words, in front of a frozen language model."""

from reprojax.recipes.prompt_instruction.in_context import few_shot, kate, zero_shot
from reprojax.recipes.prompt_instruction.reasoning import (
    chain_of_thought,
    self_consistency,
    zero_shot_chain_of_thought,
)

__all__ = [
    "chain_of_thought",
    "few_shot",
    "kate",
    "self_consistency",
    "zero_shot",
    "zero_shot_chain_of_thought",
]
