"""The control of attention bending: transform the cross-attention maps of words before they multiply the values."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from wantui.captures.base import DenoisingSize
from wantui.captures.contributions import CONTRIBUTIONS
from wantui.controls.base import ControlKind, ControlRequest, MarkPosition
from wantui.controls.bend_settings import (
    MAX_BLOCK_INDEX,
    BendSettings,
    BentPasses,
    Border,
    Strength,
    list_bend_names,
    parse_blocks,
)
from wantui.controls.bend_transforms import AnyBendTransform
from wantui.guidance import EvaluationGuidance
from wantui.keyframes import KeyframeError, KeyframeTimes, find_evaluations_in_range, format_moments, parse_moment_range
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.samplers import compute_noise_levels
from wantui.section import ConfigSection
from wantui.words import find_complete_words

if TYPE_CHECKING:
    from wantui.planning.recipe import Recipe

SECTION_KEY = "attention_bending_settings"
ALL_WORDS = "all"
"""Word that means every token of the prompt, with its end token."""
MAX_BEND_COUNT = 100
BENT_MAP_BYTES = 1 << 27
"""Bytes of float32 maps that are bent at a time; more heads are bent in several groups."""
OUTPUT_CHUNK_BYTES = 1 << 26
"""Bytes of a block's output in float32 that are corrected at a time."""
MAP_COPY_COUNT, CHUNK_COPY_COUNT = 5, 3
"""Numbers of copies in memory at a time: of the bent maps, and of a chunk of the output or the softmax."""
HEAD_DIM = 128
"""Number of channels per head in Wan's transformers."""


class AttentionBendingSettings(ConfigSection):
    """Attention bending: transforms of the cross-attention maps of words."""

    IGNORED_KEYS: ClassVar[dict[str, str]] = {"device": "maps are bent on the device of the model"}

    enabled: bool = True
    """Apply the bends."""
    bends: Annotated[tuple[BendSettings, ...], Field(max_length=MAX_BEND_COUNT)] = ()
    """Bends in the order of application; each has words, a mode and its parameters."""

    @field_validator("bends", mode="after")
    @classmethod
    def complete_names(cls, bends: tuple[BendSettings, ...]) -> tuple[BendSettings, ...]:
        """Give a name to each bend without one; reject two bends with the same name."""
        names = [bend.name for bend in bends if bend.name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two bends have the name {name}. Rename one")
        return tuple(
            bend.model_copy(update={"name": name}) for bend, name in zip(bends, list_bend_names(bends), strict=True)
        )


class BendRequest(ControlRequest):
    """One bend of a recipe."""

    name: str
    words: Annotated[tuple[str, ...], Field(min_length=1)]
    padding: bool = False
    transform: AnyBendTransform
    strength: Strength = 1.0
    blocks: tuple[Annotated[int, Field(ge=0, le=MAX_BLOCK_INDEX)], ...] | None = None
    """Indices of the blocks, rising; None for all."""
    steps: KeyframeTimes | None = None
    """First and last moment, or one moment for both; None for all steps."""
    border: Border = "edge"
    renormalise: bool = False
    passes: BentPasses = "cond"
    if_missing: Literal["refuse", "skip"] = "refuse"

    @property
    def is_identity(self) -> bool:
        """Return whether the bend changes no map."""
        return self.strength == 0 or self.transform.is_identity

    def acts_on_pass(self, context: str) -> bool:
        """Return whether the bend changes a pass (cond or uncond)."""
        return self.passes in (context, "both")

    def find_active_evaluations(self, noise_levels: Sequence[float], step_count: int) -> list[bool]:
        """Return whether the bend acts at each model evaluation.

        Raises:
            KeyframeError: a moment is at a step that the denoising does not have.
        """
        if self.steps is None:
            return [True] * len(noise_levels)
        return find_evaluations_in_range(self.steps, noise_levels, step_count)


class AttentionBendingRequest(ControlRequest):
    """Request to bend attention maps, in the order of the bends."""

    bends: Annotated[tuple[BendRequest, ...], Field(min_length=1, max_length=MAX_BEND_COUNT)]


def build_bend_request(bend: BendSettings) -> BendRequest:
    """Convert a named bend of the settings to the bend of a recipe."""
    return BendRequest.model_validate(
        {
            "name": bend.name,
            "words": bend.words,
            "padding": bend.padding,
            "transform": bend.build_transform(),
            "strength": bend.strength,
            "blocks": None if bend.blocks is None else parse_blocks(bend.blocks),
            "steps": None if bend.steps is None else parse_moment_range(bend.steps),
            "border": bend.border or "edge",
            "renormalise": bend.renormalise,
            "passes": bend.passes,
            "if_missing": bend.if_missing,
        }
    )


def find_word_spans(prompt: str, marks: Sequence[MarkPosition], word: str) -> list[tuple[int, int]]:
    """Return the character span of each of a word's marks; without marks, of each occurrence as a complete word."""
    marked_spans = [(mark.start, mark.end) for mark in marks if mark.text == word]
    if marked_spans:
        return marked_spans
    return find_complete_words(prompt, word)


def _build_request(settings: AttentionBendingSettings) -> AttentionBendingRequest | None:
    if not settings.enabled or not settings.bends:
        return None
    return AttentionBendingRequest(bends=tuple(map(build_bend_request, settings.bends)))


def _find_conflicts(request: AttentionBendingRequest, recipe: "Recipe") -> list[str]:
    conflicts = []
    if recipe.speed == "cached":
        conflicts.append(
            f"{SECTION_KEY} cannot be combined with model_settings.speed: cached, which skips blocks: choose fused"
        )
    if "prompt_schedule" in recipe.controls:
        conflicts.append(
            f"{SECTION_KEY} cannot be combined with prompt_schedule_settings: bends find their words in one prompt, "
            "but the schedule changes it. Remove one of the two"
        )
    if recipe.capture.find_request(CONTRIBUTIONS.name) is not None:
        conflicts.append(
            f"{CONTRIBUTIONS.section_key}.{CONTRIBUTIONS.marks_setting} cannot be combined with attention bending, "
            "which adds values that do not come from the prompt: turn one of them off"
        )
    noise_levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    for bend in request.bends:
        setting = f"{SECTION_KEY}: the bend {bend.name}"
        try:
            if not any(bend.find_active_evaluations(noise_levels, recipe.steps)):
                conflicts.append(f"{setting} has a range that contains no step. Widen it")
        except KeyframeError as error:
            conflicts.append(f"{setting}: {error}")
    return conflicts


def _find_guidance_conflicts(request: AttentionBendingRequest, evaluations: Sequence[EvaluationGuidance]) -> list[str]:
    if any(evaluation.source == "guided" for evaluation in evaluations):
        return []
    return [
        f"{SECTION_KEY}: the bend {bend.name} has passes: uncond, but without guidance there is no such pass. Use cond"
        for bend in request.bends
        if bend.passes == "uncond"
    ]


def _find_block_conflicts(request: AttentionBendingRequest, block_count: int) -> list[str]:
    return [
        f"{SECTION_KEY}: the bend {bend.name} has the block {bend.blocks[-1]}, but the model has blocks 0 to "
        f"{block_count - 1}. Use a smaller index"
        for bend in request.bends
        if bend.blocks and bend.blocks[-1] >= block_count
    ]


def describe_missing_words(
    request: AttentionBendingRequest, prompt: str, marks: Sequence[MarkPosition], negative_prompt: str
) -> Iterator[str]:
    """Yield a sentence for each word that a bend requires but its prompt lacks."""
    for bend in request.bends:
        for context, text in (("cond", prompt), ("uncond", negative_prompt)):
            if not bend.acts_on_pass(context) or bend.if_missing == "skip":
                continue
            for word in bend.words:
                if word != ALL_WORDS and not find_word_spans(text, marks if context == "cond" else (), word):
                    prompt_name = "the prompt" if context == "cond" else "the negative prompt"
                    yield (
                        f"{SECTION_KEY}: the bend {bend.name} needs {word!r}, which {prompt_name} lacks. "
                        "Use a word of the prompt, or set if_missing: skip"
                    )


def _list_words(request: AttentionBendingRequest) -> tuple[str, ...]:
    """Return the words of the prompt that bends address."""
    return tuple(
        dict.fromkeys(
            word for bend in request.bends if bend.acts_on_pass("cond") for word in bend.words if word != ALL_WORDS
        )
    )


def list_shown_values(request: AttentionBendingRequest) -> dict[str, str]:
    """Return each bend in words, by name."""
    return {bend.name: _describe_bend(bend) for bend in request.bends}


def _describe_bend(bend: BendRequest) -> str:
    """Return the words, the transform and the settings that are not the defaults."""
    parameters = bend.transform.model_dump(exclude={"mode"}, exclude_defaults=True)
    parameters_text = ", ".join(f"{name} {_format_parameter(value)}" for name, value in parameters.items())
    parts = [f"{bend.transform.mode} of {', '.join(bend.words)}" + (" and padding" if bend.padding else "")]
    parts[0] += f" ({parameters_text})" if parameters else ""
    parts += [f"strength {bend.strength:g}"] if bend.strength != 1 else []
    parts += [f"blocks {', '.join(map(str, bend.blocks))}"] if bend.blocks is not None else []
    parts += [f"steps {'..'.join(format_moments(bend.steps))}"] if bend.steps is not None else []
    parts += [f"border {bend.border}"] if bend.border != "edge" else []
    parts += ["renormalised"] if bend.renormalise else []
    parts += [f"passes {bend.passes}"] if bend.passes != "cond" else []
    return ", ".join(parts)


def _get_compared_settings(request: AttentionBendingRequest) -> dict[str, Any]:
    """Return the bends as in the config: parameters of a transform are next to the other settings of its bend."""
    bends = [bend.model_dump(mode="json") for bend in request.bends]
    return {"bends": [{**bend.pop("transform"), **bend} for bend in bends]}


def _format_parameter(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _estimate_gpu_bytes(request: AttentionBendingRequest, denoising_size: DenoisingSize) -> int:
    """Return an upper bound on the bytes of bent maps, of an output chunk, and of the output itself."""
    words = [word for bend in request.bends for word in bend.words]
    bends_all = ALL_WORDS in words or any(bend.padding for bend in request.bends)
    # A token has at least one character.
    column_count = TEXT_POSITION_COUNT if bends_all else min(TEXT_POSITION_COUNT, sum(map(len, words)))
    row_count = math.prod(denoising_size.position_grid) * denoising_size.head_count
    return (
        MAP_COPY_COUNT * min(BENT_MAP_BYTES, 4 * row_count * column_count)
        + CHUNK_COPY_COUNT * min(OUTPUT_CHUNK_BYTES, 4 * row_count * HEAD_DIM)
        + denoising_size.dtype_bytes * row_count * HEAD_DIM
    )


ATTENTION_BENDING = ControlKind(
    name="attention_bending",
    request_type=AttentionBendingRequest,
    section_key=SECTION_KEY,
    settings_type=AttentionBendingSettings,
    items_key="bends",
    items_alias="bend",
    build_request=_build_request,
    find_conflicts=_find_conflicts,
    find_guidance_conflicts=_find_guidance_conflicts,
    find_block_conflicts=_find_block_conflicts,
    find_prompt_conflicts=lambda request, prompt, marks, negative_prompt: tuple(
        describe_missing_words(request, prompt, marks, negative_prompt)
    ),
    list_words=_list_words,
    get_compared_settings=_get_compared_settings,
    list_shown_values=list_shown_values,
    estimate_gpu_bytes=_estimate_gpu_bytes,
)
