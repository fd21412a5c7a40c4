"""Inputs of the denoising loop before the first step, which controls may change."""

from dataclasses import dataclass, field

from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.bent_attention import ResolvedBend
from wantui.generation.guidance import ClassifierFreeGuidance, GuidanceRule
from wantui.generation.prompt_sequence import PromptSequence
from wantui.planning import Recipe


@dataclass
class DenoisingPreparation:
    """The inputs of the denoising loop while controls are applied in turn."""

    pipeline: WanPipeline
    recipe: Recipe
    evaluation_count: int
    """Model evaluations of the complete denoising."""
    prompts: PromptSequence
    """Prompts of the pass with the prompt: one, or several with a prompt schedule."""
    negative_prompt_embeds: Tensor | None
    """[1, 512, dim]; None if no evaluation runs the unconditional pass."""
    guidance_rule: GuidanceRule = field(default_factory=ClassifierFreeGuidance)
    """Rule that combines both passes."""
    bends_by_context: dict[str, tuple[ResolvedBend, ...]] = field(default_factory=dict)
    """Bends of the attention maps of words by pass: cond or uncond."""

    @property
    def position_grid(self) -> tuple[int, int, int]:
        """Return the number of video positions along frames, height and width."""
        pipeline, recipe = self.pipeline, self.recipe
        patch_frames, patch_height, patch_width = pipeline.transformer.config.patch_size
        return (
            ((recipe.frames - 1) // pipeline.vae_scale_factor_temporal + 1) // patch_frames,
            recipe.height // pipeline.vae_scale_factor_spatial // patch_height,
            recipe.width // pipeline.vae_scale_factor_spatial // patch_width,
        )
