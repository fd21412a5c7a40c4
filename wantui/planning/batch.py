"""Planning of a batch: the recipes of all videos of a template under a config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wantui.captures import CAPTURES
from wantui.captures.attention import ATTENTION, AttentionRequest
from wantui.captures.trajectory import TRAJECTORY
from wantui.config import Config
from wantui.config.settings import ModelSettings, Settings
from wantui.controls import CONTROLS
from wantui.controls.word_weights import WeightingMethod
from wantui.errors import UserError
from wantui.models.catalogue import NANO, WanModel, find_model
from wantui.models.fingerprint import find_cached_commit, fingerprint_file, fingerprint_model
from wantui.models.magnitudes import load_magnitudes
from wantui.paths import expand_user_path
from wantui.planning.batch_checks import find_duplicate_prompt_warnings, find_refusals, find_settings_warnings
from wantui.planning.model_source import TransformerFile
from wantui.planning.recipe import CaptureRequests, PromptMark, Recipe
from wantui.planning.sizes import check_video_size, resolve_frame_count
from wantui.planning.token_checks import check_prompt_tokens
from wantui.prompts import Template, Variation, count_variations, expand_template, parse_template
from wantui.prompts.cleaning import clean_prompt
from wantui.prompts.expand import format_large_count

MAX_SEED = 2**63 - 1
MAX_BATCH_VIDEOS = 100_000
"""Maximum number of videos in a batch; a manifest of that size has about 120 MB and is read in one piece."""


class PlanError(UserError):
    """Raised for a batch that cannot be planned as requested; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class PlannedVideo:
    """One video of a batch; `variation_index` counts variations from 0, and `seed_number` counts seeds from 1."""

    variation_index: int
    seed_number: int
    recipe: Recipe


@dataclass(frozen=True)
class Batch:
    """A batch with the recipes of all its videos."""

    template: str
    config: Config
    model: WanModel
    variations: tuple[Variation, ...]
    videos: tuple[PlannedVideo, ...]
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]
    """Reasons why this version cannot run the batch, although it can be previewed."""

    @property
    def first_recipe(self) -> Recipe:
        """Recipe of the first video."""
        return self.videos[0].recipe


@dataclass(frozen=True)
class BatchPreview:
    """Summary of a batch, without a recipe for every video; enough to show its content and cost."""

    template: str
    config: Config
    model: WanModel
    variations: tuple[Variation, ...]
    first_recipe: Recipe
    """Recipe of the first video; other videos differ in prompt, marks, weighting and seed."""
    warnings: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def video_count(self) -> int:
        return len(self.variations) * self.config.settings.videos_per_variation


def preview_batch(config: Config, template: str) -> BatchPreview:
    """Expand a template under a config and check the result.

    Raises:
        UserError: the template does not parse or has too many variations, the model is unknown, or a size or seed is
            invalid.
    """
    settings = config.settings
    parsed_template = parse_template(template)
    variations = _expand_variations(parsed_template, settings)
    _parse_setting_path("output_dir", settings.output_dir)
    model = find_model(settings.model_settings.model_id)
    check_video_size(settings.video_settings, model)
    frame_count, frames_warning = resolve_frame_count(settings.video_settings, model)
    first_recipe = _build_first_recipe(settings, model, variations, frame_count)
    uses_marks = first_recipe.capture.attention is not None or any(
        _choose_weighting_method(variation, settings) for variation in variations
    )
    token_checks = check_prompt_tokens(
        model, first_recipe.revision, variations, first_recipe.negative_prompt, uses_marks=uses_marks
    )
    warnings = [
        *map(str, config.warnings),
        *parsed_template.warnings,
        *find_settings_warnings(settings, model, first_recipe, variations),
        *([frames_warning] if frames_warning else []),
        *find_duplicate_prompt_warnings(variations),
        *token_checks.warnings,
    ]
    refusals = [
        *map(str, config.refusals),
        *token_checks.refusals,
        *find_refusals(settings, model, first_recipe, variations),
    ]
    return BatchPreview(template, config, model, variations, first_recipe, tuple(warnings), tuple(refusals))


def _expand_variations(parsed_template: Template, settings: Settings) -> tuple[Variation, ...]:
    """Return the variations of a template.

    Raises:
        UserError: there are too many variations or videos, or a seed exceeds 63 bits.
    """
    variation_count, max_variations = count_variations(parsed_template), settings.prompt_settings.max_variations
    video_count = variation_count * settings.videos_per_variation
    if (
        variation_count <= max_variations and video_count > MAX_BATCH_VIDEOS
    ):  # otherwise expand_template reports the variations
        raise PlanError(
            f"cannot plan {format_large_count(video_count)} videos: a batch has at most {MAX_BATCH_VIDEOS:,}. "
            "Use fewer options or fewer videos_per_variation, or several batches."
        )
    variations = tuple(expand_template(parsed_template, max_variations))
    if settings.model_settings.seed + settings.videos_per_variation - 1 > MAX_SEED:
        raise PlanError("model_settings.seed: the last seed of the batch would exceed 63 bits. Use a smaller seed.")
    return variations


def _build_first_recipe(
    settings: Settings, model: WanModel, variations: tuple[Variation, ...], frame_count: int
) -> Recipe:
    """Return the recipe of the first variation with the first seed."""
    model_settings, video_settings = settings.model_settings, settings.video_settings
    transformer_file = _resolve_transformer_file(model, model_settings)
    first_recipe = Recipe(
        model=model.location if model.is_local and model is not NANO else model.name,
        revision=pin_revision(model, model_settings.revision),
        prompt=variations[0].prompt,
        negative_prompt=clean_prompt(settings.prompt_settings.negative_prompt),
        marks=convert_to_prompt_marks(variations[0]),
        weighting=_choose_weighting_method(variations[0], settings),
        seed=model_settings.seed,
        sampler=model_settings.sampler,
        steps=model_settings.steps,
        flow_shift=model_settings.flow_shift or model.choose_flow_shift(video_settings.width, video_settings.height),
        guidance_scale=model_settings.cfg_scale,
        guidance_scale_2=model_settings.cfg_scale_2,
        width=video_settings.width,
        height=video_settings.height,
        frames=frame_count,
        fps=video_settings.fps,
        dtype=model.dtype if model_settings.dtype == "auto" else model_settings.dtype,
        weights=model_settings.weights if transformer_file is None else "gguf",
        transformer_file=transformer_file,
        speed=model_settings.speed,
        capture=_build_capture_requests(settings, has_marks=any(variation.marks for variation in variations)),
        controls=_build_control_requests(settings),
    )
    if model_settings.speed == "cached" and model.boundary_ratio is None:
        first_recipe = first_recipe.model_copy(
            update={"magnitudes": load_magnitudes(model, first_recipe.source.weights_id)}
        )
    return first_recipe


def plan_batch(config: Config, template: str) -> Batch:
    """Plan all videos of a template under a config, in the order of variations, then seeds (seed, seed + 1, ...).

    Video k of every variation has the same seed, hence the same initial noise.

    Raises:
        UserError: as for `preview_batch`.
    """
    preview = preview_batch(config, template)
    shared_values = dict(preview.first_recipe)
    videos = tuple(
        PlannedVideo(
            variation_index,
            seed_number,
            Recipe(
                **shared_values
                | {
                    "prompt": variation.prompt,
                    "marks": convert_to_prompt_marks(variation),
                    "weighting": _choose_weighting_method(variation, config.settings),
                    "seed": preview.first_recipe.seed + seed_number - 1,
                }
            ),
        )
        for variation_index, variation in enumerate(preview.variations)
        for seed_number in range(1, config.settings.videos_per_variation + 1)
    )
    return Batch(template, config, preview.model, preview.variations, videos, preview.warnings, preview.refusals)


def _resolve_transformer_file(model: WanModel, model_settings: ModelSettings) -> TransformerFile | None:
    if model_settings.transformer_file is None:
        return None
    path = _parse_setting_path("model_settings.transformer_file", model_settings.transformer_file).absolute()
    setting_text = f"model_settings.transformer_file: {path}"
    if model.boundary_ratio is not None:
        raise PlanError(f"{setting_text}: {model.name} has two transformers, which a file cannot replace")
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block forever
            raise PlanError(f"{setting_text} is not a regular file")
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise PlanError(f"{setting_text} is not a GGUF file")
        if path.suffix != ".gguf":
            raise PlanError(
                f"cannot use {setting_text}: diffusers recognises GGUF files by their suffix. Rename it to NAME.gguf"
            )
        return TransformerFile(path=str(path), fingerprint=fingerprint_file(path), bytes=path.stat().st_size)
    except OSError as error:
        raise PlanError(f"{setting_text} cannot be read: {error.strerror}") from None


def _parse_setting_path(setting_key: str, path_text: str) -> Path:
    """Parse the value of a setting as a path.

    Raises:
        PlanError: the value is not a valid path; names the setting.
    """
    try:
        return expand_user_path(path_text)
    except UserError as error:
        raise PlanError(f"{setting_key}: {error}") from None


def convert_to_prompt_marks(variation: Variation) -> tuple[PromptMark, ...]:
    """Convert the marks of a variation to those of a recipe."""
    return tuple(PromptMark(text=m.text, start=m.start, end=m.end, weight=m.weight) for m in variation.marks)


def _choose_weighting_method(variation: Variation, settings: Settings) -> WeightingMethod | None:
    has_weights = any(mark.weight != 1 for mark in variation.marks)
    return settings.prompt_settings.embedding_method if has_weights else None


def _build_capture_requests(settings: Settings, has_marks: bool) -> CaptureRequests:
    """Return the captures that the settings request."""
    request_by_name = {kind.name: kind.build_request(getattr(settings, kind.section_key)) for kind in CAPTURES}
    trajectory, attention = request_by_name.pop(TRAJECTORY.name), request_by_name.pop(ATTENTION.name)
    assert isinstance(attention, AttentionRequest | None)
    assert trajectory is not None
    return CaptureRequests(
        **dict(trajectory),
        geometry=settings.model_settings.speed != "cached" or settings.model_settings.force_capture,
        attention=attention if has_marks else None,
        more={name: dict(request) for name, request in request_by_name.items() if request is not None},
    )


def _build_control_requests(settings: Settings) -> dict[str, Any]:
    """Return the controls that the settings request, by name."""
    control_kinds = [kind for kind in CONTROLS if kind.section_key is not None]
    request_by_name = {
        kind.name: kind.build_request(getattr(settings, str(kind.section_key))) for kind in control_kinds
    }
    return {name: dict(request) for name, request in request_by_name.items() if request is not None}


def pin_revision(model: WanModel, requested_revision: str | None) -> str | None:
    """Return the fingerprint of local weights, the commit of cached weights, or else the requested revision."""
    if model.is_local:
        return fingerprint_model(Path(model.location))
    return find_cached_commit(model.location, requested_revision) or requested_revision
