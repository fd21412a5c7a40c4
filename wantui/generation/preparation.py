"""Preparation before the first step of a video, which controls may change."""

from dataclasses import dataclass, field

from diffusers import WanPipeline
from torch import Tensor

from wantui.planning import Recipe


@dataclass
class Preparation:
    """The inputs of the denoising loop while controls are applied, one after another."""

    pipeline: WanPipeline
    recipe: Recipe
    evaluations: int
    """Model evaluations of the complete denoising."""
    prompt_embeds: Tensor
    """[1, 512, dim], as the text encoder gave it."""
    negative_prompt_embeds: Tensor | None
    """[1, 512, dim]; None without guidance."""
    token_weights: dict[int, float] = field(default_factory=dict)
    """Factors of the odds of text positions in every cross-attention of the pass with the prompt."""
