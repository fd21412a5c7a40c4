"""Checks of a planned batch: warnings, and refusals (reasons why it cannot run). No check changes a recipe."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from wantui.captures import CAPTURES
from wantui.config.settings import Settings
from wantui.controls import ControlKind, ControlRequest
from wantui.formatting import format_count, shorten_text
from wantui.models.catalogue import NANO, WanModel
from wantui.models.fetch import find_replaced_parts
from wantui.models.fingerprint import find_cached_commit
from wantui.models.parts import PartError, check_model_files
from wantui.models.text_positions import TEXT_POSITION_COUNT
from wantui.planning.fp8_checks import find_fp8_refusals
from wantui.planning.guidance_checks import find_guidance_refusals
from wantui.planning.guidance_plan import plan_guidance, uses_unconditional_pass
from wantui.planning.recipe import Recipe
from wantui.planning.requirements import explain_missing_package
from wantui.planning.second_gpu import find_second_gpu_conflict
from wantui.prompts import Variation, list_marks, list_prompts
from wantui.prompts.foreign_syntax import find_negative_prompt_warnings, format_excerpt
from wantui.samplers import find_sampler_schedule

MAX_ENLARGEMENT = 4
"""Maximum size of a video without a warning, as a multiple of nano's training size."""


def find_settings_warnings(
    settings: Settings, model: WanModel, first_recipe: Recipe, variations: tuple[Variation, ...]
) -> list[str]:
    """Return warnings about the settings of a batch, except about its controls and guidance.

    `_CellPlanner` calls this once for cells that agree in what it reads: read nothing else that a sweep can change.

    Args:
        first_recipe: recipe of the first video.
    """
    latent_settings = settings.latent_analysis_settings
    warnings = [
        *find_negative_prompt_warnings(settings.prompt_settings.negative_prompt),
        *_find_unused_capture_warnings(settings),
    ]
    if not _list_mark_captures(settings):
        warnings += _find_unused_mark_warnings(variations, list_control_words(first_recipe))
    if latent_settings.store_latents and latent_settings.storage_dtype == "float16":
        warnings.append(
            "latent_analysis_settings.storage_dtype: rounding to float16 adds turning to the stored latents, about 1 "
            "rad over 50 steps (recorded as float16_turning_added). `wantui analyze` uses the exact states unless "
            "--from-latents is given"
        )
    if first_recipe.speed == "cached" and not first_recipe.magnitudes:
        calibration_hint = (
            "" if model.boundary_ratio else f"; to reduce the error, run `wantui models calibrate` once on {model.name}"
        )
        warnings.append(
            f"model_settings.speed: cached uses the first block to decide which steps to skip{calibration_hint}"
        )
    requested_revision = settings.model_settings.revision
    if model.is_local and requested_revision is not None:
        warnings.append(
            f"model_settings.revision: {shorten_text(requested_revision)} has no effect, because {model.name} is a "
            "local folder, not a hub model: remove the setting, or copy the files of that revision into the folder"
        )
    if not model.is_local and find_cached_commit(model.location, requested_revision) is None:
        warnings.append(
            f"the weights of {model.name} are not on this machine: the first video will download them. To download "
            f"them now, run `wantui models fetch {model.name}`"
        )
    return warnings


def find_cell_refusals(
    settings: Settings, model: WanModel, first_recipe: Recipe, variations: tuple[Variation, ...]
) -> list[str]:
    """Return the reasons why the videos of one cell cannot be generated.

    Args:
        settings: settings of the cell.
        first_recipe: recipe of the cell's first video.
    """
    return [
        *_find_control_conflicts(model, first_recipe, variations),
        *find_guidance_refusals(settings, model, first_recipe),
        *_find_negative_length_refusals(first_recipe),
    ]


def find_shared_refusals(
    settings: Settings, model: WanModel, first_recipe: Recipe, variations: tuple[Variation, ...]
) -> list[str]:
    """Return the reasons why all cells with the same speed cannot run.

    `_CellPlanner` calls this once for cells that agree in what it reads: read nothing else that a sweep can change.

    Args:
        first_recipe: recipe of the first video.
    """
    return [
        *_find_capture_refusals(settings, first_recipe, variations),
        *_find_weights_refusals(settings, model, first_recipe),
        *find_fp8_refusals(settings, model, first_recipe),
        *_find_second_gpu_refusals(settings, first_recipe),
        *_find_length_refusals(variations),
    ]


def _find_control_conflicts(model: WanModel, recipe: Recipe, variations: tuple[Variation, ...]) -> list[str]:
    """Return reasons why the controls of a recipe cannot be applied."""
    conflicts: list[str] = []
    evaluations = plan_guidance(recipe)
    for kind, request in recipe.control_requests:
        conflicts += kind.find_conflicts(request, recipe)
        conflicts += kind.find_block_conflicts(request, model.block_count)
        conflicts += kind.find_guidance_conflicts(request, evaluations)
        conflicts += _find_prompt_conflicts(kind, request, recipe, variations)
    return conflicts


def _find_prompt_conflicts(
    kind: ControlKind, request: ControlRequest, recipe: Recipe, variations: tuple[Variation, ...]
) -> list[str]:
    """Return the conflicts of a control with prompts, each with the first variation that has the conflict."""
    variation_ids_by_conflict: dict[str, list[str]] = {}
    for variation in variations:
        for conflict in kind.find_prompt_conflicts(request, variation.prompt, variation.marks, recipe.negative_prompt):
            variation_ids_by_conflict.setdefault(conflict, []).append(variation.id)
    conflicts = []
    for conflict, variation_ids in variation_ids_by_conflict.items():
        others_text = f" and {format_count(len(variation_ids) - 1, 'other')}" if len(variation_ids) > 1 else ""
        conflicts.append(f"variation {variation_ids[0]}{others_text}: {conflict}")
    return conflicts


def find_control_warnings(recipe: Recipe) -> list[str]:
    """Return the warnings about the controls of a recipe."""
    return [text for kind, request in recipe.control_requests for text in kind.find_warnings(request, recipe)]


def find_size_warnings(model: WanModel, recipe: Recipe) -> list[str]:
    """Return a warning for a video of nano that is far larger or longer than the clips of its training."""
    if model is not NANO:
        return []
    from wantui.models.nano.world import CLIP_FRAME_COUNT, CLIP_SIDE_PIXELS  # imports numpy

    longest_side = max(recipe.width, recipe.height)
    if longest_side <= MAX_ENLARGEMENT * CLIP_SIDE_PIXELS and recipe.frames <= MAX_ENLARGEMENT * CLIP_FRAME_COUNT:
        return []
    trained_size = f"{CLIP_SIDE_PIXELS}x{CLIP_SIDE_PIXELS} pixels and {CLIP_FRAME_COUNT} frames"
    return [
        f"nano was trained on {trained_size}, but the videos have {recipe.width}x{recipe.height} and {recipe.frames}: "
        f"set video_settings.width={CLIP_SIDE_PIXELS}, height={CLIP_SIDE_PIXELS} and frames={CLIP_FRAME_COUNT}, as the "
        "preset nano does"
    ]


def find_duplicate_prompt_warnings(variations: tuple[Variation, ...]) -> list[str]:
    """Return a warning for each variation that has the prompt of an earlier variation."""
    first_id_by_prompts: dict[tuple[str, ...], str] = {}
    warnings = []
    for variation in variations:
        prompts = list_prompts(variation)
        if prompts in first_id_by_prompts:
            noun = "prompts" if len(prompts) > 1 else "prompt"
            warnings.append(f"variations {first_id_by_prompts[prompts]} and {variation.id} have the same {noun}")
        first_id_by_prompts.setdefault(prompts, variation.id)
    return warnings


def list_control_words(recipe: Recipe) -> tuple[str, ...]:
    """Return the words that the controls of a recipe look for in the prompts."""
    return tuple(word for kind, request in recipe.control_requests for word in kind.list_words(request))


def _find_unused_mark_warnings(variations: tuple[Variation, ...], control_words: Sequence[str]) -> list[str]:
    """Return a warning about marks without a weight that no control looks for, while attention is not stored."""
    marks = [mark for variation in variations for mark in list_marks(variation)]
    unused_marks = list(
        dict.fromkeys(mark.text for mark in marks if mark.weight == 1 and mark.text not in control_words)
    )
    if not unused_marks:
        return []
    words_text = f"({format_excerpt(unused_marks[0])})"
    if len(unused_marks) > 1:
        words_text += f" and {format_count(len(unused_marks) - 1, 'other mark')}"
    verb = "store" if len(unused_marks) > 1 else "stores"
    attention_text = "turn on attention maps (store_attention, --store-attention)"
    return [f"{words_text} {verb} nothing: {attention_text}, or add a weight, as in (word:1.5)"]


def describe_altered_trajectory(settings: Settings) -> str | None:
    """Return why captures would not show the model's own trajectory, and what to choose instead; None if they would."""
    if settings.model_settings.speed == "cached":
        return (
            "model_settings.speed: cached skips blocks, so captures would not show the model's own computation: "
            "choose fused"
        )
    if find_sampler_schedule(settings.model_settings.sampler).adds_noise:
        return (
            f"model_settings.sampler: {settings.model_settings.sampler} adds noise in each step, so captures would not "
            "show the model's own trajectory: choose another sampler"
        )
    return None


def _find_unused_capture_warnings(settings: Settings) -> Iterator[str]:
    """Warn about parts of a capture that are on while the capture itself is off."""
    for kind in CAPTURES:
        section = getattr(settings, kind.section_key)
        if not kind.marks_setting or getattr(section, kind.marks_setting):
            continue
        parts = [name for name in type(section).model_fields if name.startswith("store_") and getattr(section, name)]
        if parts:
            verb = "has" if len(parts) == 1 else "have"
            yield (
                f"{kind.section_key}: {' and '.join(parts)} {verb} no effect, because {kind.marks_setting} is off: "
                "turn it on"
            )


def _list_mark_captures(settings: Settings) -> list[str]:
    """Return the settings that are on and store data of each marked word."""
    return [
        kind.marks_setting
        for kind in CAPTURES
        if kind.marks_setting and kind.build_request(getattr(settings, kind.section_key)) is not None
    ]


def _find_capture_refusals(settings: Settings, first_recipe: Recipe, variations: tuple[Variation, ...]) -> list[str]:
    refusals = []
    if not any(map(list_marks, variations)):
        refusals += [
            f"{name} is on, but the template marks no words: write (word) for each word to store"
            for name in _list_mark_captures(settings)
        ]
    captures = first_recipe.capture
    stores_captures = captures.latents or captures.attention is not None or bool(captures.more)
    alteration = describe_altered_trajectory(settings)
    if alteration is not None and stores_captures and not settings.model_settings.force_capture:
        refusals.append(f"{alteration}, turn captures off, or set model_settings.force_capture")
    latent_settings = settings.latent_analysis_settings
    if latent_settings.store_predicted_clean and not latent_settings.store_latents:
        refusals.append("latent_analysis_settings.store_predicted_clean needs store_latents")
    return refusals


def _find_weights_refusals(settings: Settings, model: WanModel, first_recipe: Recipe) -> list[str]:
    """Return reasons why no worker could load the weights."""
    refusals = []
    if model.is_local:
        try:
            check_model_files(Path(model.location), find_replaced_parts(first_recipe.transformer_file))
        except PartError as error:
            refusals.append(f"the model in {model.location} is incomplete: {error}")
    if first_recipe.transformer_file is not None and settings.model_settings.weights != "full":
        refusals.append(
            f"model_settings.weights: {settings.model_settings.weights} cannot be combined with a transformer_file, "
            "which has its own precision"
        )
    if missing_package := explain_missing_package(first_recipe.weights):
        refusals.append(missing_package)
    return refusals


def _find_second_gpu_refusals(settings: Settings, recipe: Recipe) -> list[str]:
    """Return the reason why two GPUs cannot compute the videos on any machine."""
    if settings.model_settings.gpus_per_video == 1:
        return []
    conflict = find_second_gpu_conflict(recipe, settings.model_settings.device)
    if conflict is None:
        return []
    return [f"model_settings.gpus_per_video: 2 {conflict}. Set it to 1, which gives bit-identical videos"]


def _find_length_refusals(variations: tuple[Variation, ...]) -> list[str]:
    """Reject prompts that are certainly too long."""
    for variation in variations:
        for prompt in list_prompts(variation):
            prompt_name = "" if prompt == variation.prompt else f"{format_excerpt(prompt)!r} in the schedule of "
            if refusal := _find_length_refusal(f"{prompt_name}variation {variation.id}", prompt, "prompt"):
                return [refusal]
    return []


def _find_negative_length_refusals(recipe: Recipe) -> list[str]:
    """Reject a negative prompt that is certainly too long, if a pass reads it."""
    if not uses_unconditional_pass(recipe):
        return []
    key = "prompt_settings.negative_prompt"
    refusal = _find_length_refusal(key, recipe.negative_prompt, "negative prompt")
    return [] if refusal is None else [refusal]


def _find_length_refusal(subject: str, prompt: str, prompt_name: str) -> str | None:
    """Reject a prompt that is certainly too long: a word takes at least one token, and the end token one more."""
    if len(prompt) < 2 * TEXT_POSITION_COUNT - 1 or (word_count := len(prompt.split())) < TEXT_POSITION_COUNT:
        return None
    return (
        f"{subject} has {word_count} words, but the model reads only {TEXT_POSITION_COUNT} tokens and would ignore the "
        f"rest: shorten the {prompt_name}"
    )
