"""Declaration of a control: its settings, its part of a recipe, its bytes on the GPU, and its conflicts.

A control is anything that changes the denoising of a video. Its declaration imports no torch; its effect is implemented
in the module of the same name in `wantui.generation.controls`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

from wantui.captures.base import DenoisingSize
from wantui.guidance import DenoisingMoments, EvaluationGuidance
from wantui.section import ConfigSection

if TYPE_CHECKING:
    from wantui.controls.marked_prompt import MarkedPrompt
    from wantui.planning.recipe import Recipe
    from wantui.prompts import Variation


class MarkPosition(Protocol):
    """A mark of a prompt: its text, and the characters where it starts and ends."""

    @property
    def text(self) -> str: ...

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...


class ControlRequest(BaseModel):
    """Part of a recipe that requests one control."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, allow_inf_nan=False)


def list_request_values(request: Any) -> dict[str, Any]:
    """Return the fields of a request as JSON values."""
    return dict(request.model_dump(mode="json"))


def estimate_no_gpu_bytes(request: Any, denoising_size: DenoisingSize) -> int:
    """Return 0, for a control that needs no additional GPU memory."""
    return 0


def return_guidance_unchanged(
    request: Any, evaluations: Sequence[EvaluationGuidance], moments: DenoisingMoments, recipe: "Recipe"
) -> Sequence[EvaluationGuidance]:
    """Return the guidance of each evaluation unchanged, for a control that does not change it."""
    return evaluations


GuidanceChange = Callable[[Any, Sequence[EvaluationGuidance], DenoisingMoments, "Recipe"], Sequence[EvaluationGuidance]]
"""Function that returns the changed guidance from a request, the guidance so far, the moments and the recipe."""


@dataclass(frozen=True)
class ControlKind:
    """The declaration of one control.

    Attributes:
        name: slug, also the name of the module that applies it.
        request_type: pydantic model for its part of a recipe.
        section_key: key of its section in the config file; None for a control that users write in the template.
        settings_type: pydantic model of that section.
        items_key: key of a list in that section, whose items sweeps address by `name`; empty without such a list.
        items_alias: short name of that list, as in `lora.style.strength` for `lora_settings.adapters.style.strength`.
        build_request: function that returns the request for given settings, or None without one.
        build_variation_request: function that returns the request for given settings and one variation of the template,
            or None without one; for a control whose request differs between variations, instead of `build_request`.
        find_conflicts: function that returns the conflicts with a recipe, each as a sentence with a remedy.
        find_block_conflicts: function that returns the conflicts with the number of blocks of the model, as sentences.
        find_prompt_conflicts: function that returns the conflicts with the prompt and the marks of one variation, and
            with the negative prompt, as sentences.
        find_guidance_conflicts: function that returns the conflicts with the guidance of each evaluation, as sentences.
        list_words: function that returns words that the control looks for in the prompts.
        find_warnings: function that returns warnings about a recipe, each as a sentence.
        get_compared_settings: function that returns the JSON values that must be equal in compared videos, named as in
            the config; excludes what is part of the prompt.
        list_shown_values: function that returns the values that people see, by name.
        estimate_gpu_bytes: function that returns the additional predicted bytes on the GPU.
        change_guidance: function that returns the changed guidance of each evaluation: its scale and its passes, from
            which times and memory are predicted. It may raise a KeyframeError.
        changes_only_guidance: True if `change_guidance` is the complete effect; such a control has no module in
            `wantui.generation.controls`.
        keeps_conditional_prediction: True if the prediction with the prompt alone stays that of the loaded model.
            Measures that evaluate the model outside the denoising loop (`wantui score`) refuse videos with any other
            control.
        list_prompts: function that returns the prompts that the model reads besides the recipe's own prompt.
    """

    name: str
    request_type: type[ControlRequest]
    section_key: str | None = None
    settings_type: type[ConfigSection] | None = None
    items_key: str = ""
    items_alias: str = ""
    build_request: Callable[[Any], ControlRequest | None] = lambda settings: None
    build_variation_request: "Callable[[Any, Variation], ControlRequest | None] | None" = None
    find_conflicts: "Callable[[Any, Recipe], Sequence[str]]" = lambda request, recipe: ()
    find_block_conflicts: Callable[[Any, int], Sequence[str]] = lambda request, block_count: ()
    find_prompt_conflicts: Callable[[Any, str, Sequence[MarkPosition], str], Sequence[str]] = (
        lambda request, prompt, marks, negative_prompt: ()
    )
    find_guidance_conflicts: Callable[[Any, Sequence[EvaluationGuidance]], Sequence[str]] = (
        lambda request, evaluations: ()
    )
    list_words: Callable[[Any], Sequence[str]] = lambda request: ()
    find_warnings: "Callable[[Any, Recipe], Sequence[str]]" = lambda request, recipe: ()
    get_compared_settings: Callable[[Any], dict[str, Any]] = list_request_values
    list_shown_values: Callable[[Any], dict[str, Any]] = list_request_values
    estimate_gpu_bytes: Callable[[Any, DenoisingSize], int] = estimate_no_gpu_bytes
    change_guidance: GuidanceChange = return_guidance_unchanged
    changes_only_guidance: bool = False
    keeps_conditional_prediction: bool = False
    list_prompts: "Callable[[Any], tuple[MarkedPrompt, ...]]" = lambda request: ()
