"""The prompt that each model evaluation of a recipe reads."""

from itertools import groupby
from typing import Any, NamedTuple

from wantui.controls.prompt_schedule import PROMPT_SCHEDULE, PromptScheduleRequest, find_recipe_prompt_moments
from wantui.keyframes import KeyframeError
from wantui.planning.recipe import Recipe
from wantui.samplers import count_model_evaluations

STEP_PROMPTS_ATTRIBUTE = "step_prompts"
"""Capture attribute with the prompt of each recorded evaluation; written only with a prompt schedule."""


class EvaluationPrompt(NamedTuple):
    """The prompt of one evaluation, or the mixture of two prompts."""

    prompt: str
    next_prompt: str | None = None
    """Second prompt of a mixture; None without one."""
    share: float = 0.0
    """Share of the way to the second prompt, from 0 to below 1."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, without the fields of a mixture if there is none."""
        return {"prompt": self.prompt} if self.next_prompt is None else self._asdict()


def list_evaluation_prompts(recipe: Recipe) -> list[EvaluationPrompt]:
    """Return the prompt of each of a recipe's model evaluations.

    Raises:
        KeyframeError: a keyframe does not fit the steps; planned recipes never have one.
    """
    request = recipe.find_control_request(PROMPT_SCHEDULE.name)
    if not isinstance(request, PromptScheduleRequest):
        return [EvaluationPrompt(recipe.prompt)] * count_model_evaluations(recipe.sampler, recipe.steps)
    prompts = [marked_prompt.prompt for marked_prompt in recipe.prompts]
    return [
        EvaluationPrompt(prompts[moment.before], prompts[moment.after], moment.share)
        if moment.share
        else EvaluationPrompt(prompts[moment.before])
        for moment in find_recipe_prompt_moments(recipe, request)
    ]


def build_evaluation_prompts_attribute(recipe: Recipe) -> dict[str, Any]:
    """Return the attribute of a capture of all evaluations; empty without a prompt schedule.

    Raises:
        KeyframeError: a keyframe does not fit the steps; planned recipes never have one.
    """
    if recipe.find_control_request(PROMPT_SCHEDULE.name) is None:
        return {}
    return {STEP_PROMPTS_ATTRIBUTE: [step_prompt.to_json() for step_prompt in list_evaluation_prompts(recipe)]}


def describe_evaluation_prompts(recipe: Recipe) -> dict[str, str]:
    """Return the prompts by the consecutive evaluations that read them; empty without a prompt schedule.

    The keys are `evaluations 0 to 9`; the values are `a red ball`, or `a red ball → a blue ball` for a mixture.
    """
    if recipe.find_control_request(PROMPT_SCHEDULE.name) is None:
        return {}
    try:
        evaluation_prompts = list_evaluation_prompts(recipe)
    except KeyframeError as error:  # the recipe was edited by hand
        return {"evaluations": f"unknown: {error}"}
    prompt_by_evaluations, first = {}, 0
    for prompts, members in groupby(evaluation_prompts, lambda step: (step.prompt, step.next_prompt)):
        last = first + len(list(members)) - 1
        evaluations_text = f"evaluation {first}" if first == last else f"evaluations {first} to {last}"
        prompt_by_evaluations[evaluations_text] = " → ".join(filter(None, prompts))
        first = last + 1
    return prompt_by_evaluations
