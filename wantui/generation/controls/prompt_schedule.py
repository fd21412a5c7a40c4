"""Prompt schedule: the model reads another prompt, or a mixture of two prompts, in later evaluations."""

from wantui.controls.prompt_schedule import PromptScheduleRequest, find_recipe_prompt_moments
from wantui.generation.preparation import DenoisingPreparation
from wantui.generation.prompt_sequence import PromptSequence


def apply_control(request: PromptScheduleRequest, preparation: DenoisingPreparation) -> None:
    """Locate the evaluations between the prompts, which are already encoded.

    Raises:
        KeyframeError: a keyframe does not fit the steps; planned recipes never have one.
    """
    moments = find_recipe_prompt_moments(preparation.recipe, request)
    preparation.prompts = PromptSequence(preparation.prompts.prompts, moments, request.interpolation)
