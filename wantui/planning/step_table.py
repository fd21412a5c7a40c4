"""Table of what changes during a denoising run: guidance, prompt, bends and adapters at each step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from wantui.controls.attention_bending import ATTENTION_BENDING, AttentionBendingRequest
from wantui.controls.lora import LORA, LoraRequest
from wantui.guidance import EvaluationGuidance, VelocitySource
from wantui.planning.evaluation_prompts import EvaluationPrompt, list_evaluation_prompts
from wantui.planning.guidance_plan import find_boundary_ratio, plan_guidance
from wantui.planning.recipe import Recipe
from wantui.samplers import compute_noise_levels

MAX_DECIMALS = 3
"""Maximum number of decimals in a guidance scale."""
SOURCE_NOTES: dict[VelocitySource, str] = {
    "guided": "",
    "conditional": "one pass",
    "reused": "difference reused",
    "zero": "no change",
}
"""Notes next to the guidance scale that say how an evaluation gets its velocity."""


@dataclass(frozen=True)
class StepTable:
    """Rows of consecutive model evaluations with equal values."""

    headers: tuple[str, ...]
    """`evaluation`, `sigma`, and the names of what changes."""
    rows: tuple[tuple[str, ...], ...]


def build_step_table(recipe: Recipe) -> StepTable | None:
    """Return the table of values that change during the denoising of a recipe; None if no value changes.

    Raises:
        KeyframeError: a keyframe does not fit the steps; planned recipes never have one.
    """
    noise_levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    columns = {
        "guidance": _format_guidance(plan_guidance(recipe)),
        "prompt": [_format_prompt(step_prompt) for step_prompt in list_evaluation_prompts(recipe)],
        "bends": _list_active_bends(recipe, noise_levels),
        "lora": _list_active_adapters(recipe, noise_levels),
    }
    varying = {name: texts for name, texts in columns.items() if len(set(texts)) > 1}
    if not varying:
        return None
    rows, first = [], 0
    for texts, members in groupby(zip(*varying.values(), strict=True)):
        last = first + len(list(members)) - 1
        span = (f"{first}", f"{noise_levels[first]:.3f}")
        if last > first:
            span = (f"{first} to {last}", f"{noise_levels[first]:.3f} to {noise_levels[last]:.3f}")
        rows.append((*span, *texts))
        first = last + 1
    return StepTable(("evaluation", "sigma", *varying), tuple(rows))


def _format_guidance(evaluations: Sequence[EvaluationGuidance]) -> list[str]:
    """Return the scale of each evaluation, all with equally many decimals, and how its velocity is obtained."""
    scales = [evaluation.scale for evaluation in evaluations]
    decimals = next((d for d in range(MAX_DECIMALS) if all(round(s, d) == s for s in scales)), MAX_DECIMALS)
    texts = [f"{scale:.{decimals}f}" for scale in scales]
    width = max(map(len, texts))
    return [
        f"{text:>{width}}" + (f" ({note})" if (note := SOURCE_NOTES[evaluation.source]) else "")
        for text, evaluation in zip(texts, evaluations, strict=True)
    ]


def _format_prompt(step_prompt: EvaluationPrompt) -> str:
    if step_prompt.next_prompt is None:
        return step_prompt.prompt
    return f"{step_prompt.prompt} → {step_prompt.next_prompt} ({100 * step_prompt.share:.0f}%)"


def _list_active_bends(recipe: Recipe, noise_levels: Sequence[float]) -> list[str]:
    """Return the names of the bends that act at each evaluation."""
    names_by_evaluation: list[list[str]] = [[] for _ in noise_levels]
    request = recipe.find_control_request(ATTENTION_BENDING.name)
    for bend in request.bends if isinstance(request, AttentionBendingRequest) else ():
        is_active = bend.find_active_evaluations(noise_levels, recipe.steps)
        for names, acts in zip(names_by_evaluation, is_active, strict=True):
            names += [bend.name] if acts else []
    return [", ".join(names) or "none" for names in names_by_evaluation]


def _list_active_adapters(recipe: Recipe, noise_levels: Sequence[float]) -> list[str]:
    """Return the adapters at each evaluation with their strengths, which may differ between two transformers."""
    request, boundary = recipe.find_control_request(LORA.name), find_boundary_ratio(recipe)
    if not isinstance(request, LoraRequest):
        return ["none"] * len(noise_levels)
    texts = [
        ", ".join(f"{name} {strength:g}" for name, _, strength in request.list_merged_files(is_second)) or "none"
        for is_second in (False, True)
    ]
    return [texts[boundary is not None and level < boundary] for level in noise_levels]
