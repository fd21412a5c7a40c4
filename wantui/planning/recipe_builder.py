"""Build the recipe of a video from settings, a model and a variation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wantui.captures import CAPTURES
from wantui.captures.attention import ATTENTION, AttentionRequest
from wantui.captures.guidance_gap import GUIDANCE_GAP
from wantui.captures.trajectory import TRAJECTORY
from wantui.config.settings import ModelSettings, Settings
from wantui.controls import CONTROLS, ControlRequest
from wantui.controls.marked_prompt import PromptMark
from wantui.controls.word_weights import WeightingMethod
from wantui.errors import UserError
from wantui.models.catalogue import NANO, WanModel
from wantui.models.fingerprint import find_cached_commit, fingerprint_file, fingerprint_model
from wantui.models.magnitudes import load_magnitudes
from wantui.paths import expand_user_path
from wantui.planning.batch_checks import describe_altered_trajectory
from wantui.planning.model_source import TransformerFile
from wantui.planning.recipe import CaptureRequests, Recipe
from wantui.prompts import ScheduledPrompt, Variation, list_marks
from wantui.prompts.cleaning import clean_prompt
from wantui.section import ConfigSection


class PlanError(UserError):
    """Raised for a batch that cannot be planned as requested; the message gives the reason and the remedy."""


class RecipeBuilder:
    """Builder of a batch's recipes; reads the weights once for all cells of a sweep.

    Raises:
        UserError: a file of the model cannot be used.
    """

    def __init__(self, settings: Settings, model: WanModel, variations: Sequence[Variation]) -> None:
        self.model = model
        self.has_marks = any(map(list_marks, variations))
        self.transformer_file = _resolve_transformer_file(model, settings.model_settings)
        self.revision = pin_revision(model, settings.model_settings.revision)
        self._captures_by_alteration: dict[str | None, CaptureRequests] = {}
        self._requests_by_section: dict[int, tuple[ConfigSection, ControlRequest | None]] = {}

    def build_first_recipe(self, settings: Settings, frame_count: int, variation: Variation) -> Recipe:
        """Return the recipe of a variation with the first seed.

        Raises:
            UserError: a control cannot be requested as its settings say.
        """
        model, model_settings, video_settings = self.model, settings.model_settings, settings.video_settings
        first_recipe = Recipe(
            model=model.location if model.is_local and model is not NANO else model.name,
            revision=self.revision,
            negative_prompt=clean_prompt(settings.prompt_settings.negative_prompt),
            seed=settings.seed_list[0],
            sampler=model_settings.sampler,
            steps=model_settings.steps,
            flow_shift=model_settings.flow_shift
            or model.choose_flow_shift(video_settings.width, video_settings.height),
            guidance_scale=model_settings.cfg_scale,
            guidance_scale_2=model_settings.cfg_scale_2,
            width=video_settings.width,
            height=video_settings.height,
            frames=frame_count,
            fps=video_settings.fps,
            dtype=model.dtype if model_settings.dtype == "auto" else model_settings.dtype,
            weights=model_settings.weights if self.transformer_file is None else "gguf",
            transformer_file=self.transformer_file,
            speed=model_settings.speed,
            capture=self._build_capture_requests(settings),
            **build_variation_values(variation, settings, self._build_control_requests(settings)),
        )
        if model_settings.speed == "cached" and model.boundary_ratio is None:
            first_recipe = first_recipe.model_copy(
                update={"magnitudes": load_magnitudes(model, first_recipe.source.weights_id)}
            )
        return first_recipe

    def _build_capture_requests(self, settings: Settings) -> CaptureRequests:
        """Return the captures that the settings request, cached by the reason why the trajectory is altered."""
        alteration = describe_altered_trajectory(settings)
        if alteration not in self._captures_by_alteration:
            self._captures_by_alteration[alteration] = _build_capture_requests(settings, self.has_marks)
        return self._captures_by_alteration[alteration]

    def _build_control_requests(self, settings: Settings) -> dict[str, Any]:
        """Return the controls that the settings request for all variations alike, by name."""
        requests = {}
        for kind in CONTROLS:
            if kind.section_key is None or kind.build_variation_request is not None:
                continue
            section = getattr(settings, kind.section_key)
            if id(section) not in self._requests_by_section:  # cells share sections: build each request once
                self._requests_by_section[id(section)] = section, kind.build_request(section)
            request = self._requests_by_section[id(section)][1]
            if request is not None:
                requests[kind.name] = dict(request)
        return requests


def _resolve_transformer_file(model: WanModel, model_settings: ModelSettings) -> TransformerFile | None:
    if model_settings.transformer_file is None:
        return None
    path = parse_setting_path("model_settings.transformer_file", model_settings.transformer_file).absolute()
    setting_text = f"model_settings.transformer_file: {path}"
    if model.boundary_ratio is not None:
        raise PlanError(f"{setting_text}: {model.name} has two transformers, and one file cannot replace both")
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
        raise PlanError(f"{setting_text} cannot be read: {error.strerror or error}") from None


def parse_setting_path(setting_key: str, path_text: str) -> Path:
    """Parse the value of a setting as a path.

    Raises:
        PlanError: the value is not a valid path; names the setting.
    """
    try:
        return expand_user_path(path_text)
    except UserError as error:
        raise PlanError(f"{setting_key}: {error}") from None


def build_variation_values(
    variation: Variation, settings: Settings, shared_controls: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the fields of a recipe that differ between variations.

    Args:
        shared_controls: requests of controls by name; those that depend on the variation are replaced.
    """
    controls = dict(shared_controls)
    for kind in CONTROLS:
        if kind.section_key is not None and kind.build_variation_request is not None:
            controls.pop(kind.name, None)
            request = kind.build_variation_request(getattr(settings, kind.section_key), variation)
            if request is not None:
                controls[kind.name] = request
    return {
        "prompt": variation.prompt,
        "marks": convert_to_prompt_marks(variation),
        "weighting": choose_weighting_method(variation, settings),
        "controls": controls,
    }


def convert_to_prompt_marks(variation: Variation | ScheduledPrompt) -> tuple[PromptMark, ...]:
    """Convert the marks of a variation, or of one of its later prompts, to recipe marks."""
    return tuple(PromptMark(text=m.text, start=m.start, end=m.end, weight=m.weight) for m in variation.marks)


def choose_weighting_method(variation: Variation, settings: Settings) -> WeightingMethod | None:
    """Return the method of weighting words; None if a variation has no weights."""
    has_weights = any(mark.weight != 1 for mark in list_marks(variation))
    return settings.prompt_settings.embedding_method if has_weights else None


def _build_capture_requests(settings: Settings, has_marks: bool) -> CaptureRequests:
    """Return the captures that the settings request."""
    request_by_name = {
        kind.name: kind.build_request(getattr(settings, kind.section_key))
        if has_marks or not kind.marks_setting
        else None
        for kind in CAPTURES
    }
    trajectory, attention = request_by_name.pop(TRAJECTORY.name), request_by_name.pop(ATTENTION.name)
    guidance_gap = request_by_name.pop(GUIDANCE_GAP.name)
    assert isinstance(attention, AttentionRequest | None)
    assert trajectory is not None
    return CaptureRequests(
        **dict(trajectory),
        geometry=describe_altered_trajectory(settings) is None or settings.model_settings.force_capture,
        attention=attention,
        guidance_gap=guidance_gap is not None,
        more={name: dict(request) for name, request in request_by_name.items() if request is not None},
    )


def pin_revision(model: WanModel, requested_revision: str | None) -> str | None:
    """Return the fingerprint of local weights, the commit of cached weights, or else the requested revision."""
    if model.is_local:
        return fingerprint_model(Path(model.location))
    return find_cached_commit(model.location, requested_revision) or requested_revision
