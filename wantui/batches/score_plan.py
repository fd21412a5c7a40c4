"""Choose the videos for the information gap, and give the reason against each other video. Imports no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wantui.analysis.information_gap import DEFAULT_WINDOW_MIN_SIGMA, QuadratureLevel, choose_quadrature_levels
from wantui.batches.stored_videos import open_finished_states
from wantui.controls import CONTROLS
from wantui.controls.lora import LORA
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.generic_words import (
    GenericSentence,
    GenericWord,
    GenericWordsError,
    find_generic_sentence,
    read_generic_words,
)
from wantui.planning import Recipe
from wantui.planning.guidance_plan import find_boundary_ratio, plan_guidance
from wantui.storage.manifest import Manifest
from wantui.storage.manifest_axes import BatchAxes
from wantui.storage.video_selection import SelectedVideo
from wantui.storage.zarr_group import CaptureError

PASSES_PER_LEVEL = 2
"""Passes through the transformer at each noise level and draw: with the prompt, and with the generic sentence."""


@dataclass(frozen=True)
class InformationGapRequest:
    """Options for measuring the information gap."""

    generic_words: str | None = None
    """Declaration of generic words; None for the declaration of the batch."""
    chosen_generic: str | None = None
    """Generic word to measure, if several generic words replace words of the prompts."""
    window_min_sigma: float = DEFAULT_WINDOW_MIN_SIGMA
    draw_count: int = 1
    device: str = "auto"
    may_fetch: bool = False
    replaces_stored: bool = False
    """Whether to replace values that were measured at other levels or with other draws."""


@dataclass(frozen=True)
class ScoreTask:
    """A video to measure."""

    video: SelectedVideo
    sentence: GenericSentence
    latents_path: Path

    @property
    def recipe(self) -> Recipe:
        return self.video.entry.recipe


@dataclass(frozen=True)
class ScorePlan:
    """The videos to measure."""

    folder: Path
    generic: str
    levels: tuple[QuadratureLevel, ...]
    draw_count: int
    tasks: tuple[ScoreTask, ...]
    left_out: tuple[tuple[str, str], ...]
    """Name and reason of each video that cannot be measured."""
    warnings: tuple[str, ...]

    @property
    def passes_per_video(self) -> int:
        return len(self.levels) * self.draw_count * PASSES_PER_LEVEL


def select_videos_by_conditions(videos: Sequence[SelectedVideo], conditions: Sequence[str]) -> list[SelectedVideo]:
    """Return the videos whose swept settings have the given values.

    Args:
        conditions: values as NAME=VALUE; several values of one setting are alternatives.

    Raises:
        UserError: a condition is unknown, or no video has the values.
    """
    axes = BatchAxes(videos[0].manifest, range(len(videos[0].manifest.videos)))
    positions = axes.find_positions("--where", conditions)
    selected = [
        video
        for video in videos
        if all(axes.get_positions(video.entry)[name] in wanted for name, wanted in positions.items())
    ]
    if not selected:
        raise UserError(f"--where: no selected video has {', '.join(conditions)}. Omit --variation or --seed")
    return selected


def plan_scores(
    folder: Path, manifest: Manifest, videos: Sequence[SelectedVideo], request: InformationGapRequest
) -> ScorePlan:
    """Choose the videos that can be measured.

    Raises:
        UserError: no generic word is declared, several generic words replace words of the prompts, the window is wrong,
            or no video can be measured.
    """
    generic_words = _read_generic_words(folder, manifest, request)
    recipe = videos[0].entry.recipe
    try:
        levels = choose_quadrature_levels(request.window_min_sigma, find_boundary_ratio(recipe))
    except ValueError as error:
        raise UserError(f"--window: {error}") from None
    tasks: list[ScoreTask] = []
    left_out: list[tuple[str, str]] = []
    for video in videos:
        try:
            tasks.append(_make_task(video, generic_words, request.chosen_generic))
        except (UserError, GenericWordsError, CaptureError) as error:
            left_out.append((video.name, str(error)))
    if not tasks:
        reason, count = Counter(reason for _, reason in left_out).most_common(1)[0]
        if len(videos) == 1:
            raise UserError(f"cannot measure {videos[0].name} in {folder}: {reason}")
        affected_text = "each" if count == len(videos) else format_count(count, "video")
        raise UserError(
            f"cannot measure any of {format_count(len(videos), 'video')} in {folder}. The reason for {affected_text}: "
            f"{reason}"
        )
    generics = list(dict.fromkeys(task.sentence.generic for task in tasks))
    if len(generics) > 1:
        raise UserError(
            f"several generic words replace words of the prompts: {', '.join(generics)}. Choose one with --of"
        )
    return ScorePlan(
        folder, generics[0], levels, request.draw_count, tuple(tasks), tuple(left_out), tuple(_find_warnings(tasks))
    )


def _read_generic_words(folder: Path, manifest: Manifest, request: InformationGapRequest) -> tuple[GenericWord, ...]:
    generic_words = read_generic_words(request.generic_words, manifest.config, str(folder))
    known = [entry.generic for entry in generic_words]
    if request.chosen_generic is not None and request.chosen_generic not in known:
        raise UserError(
            f"--of: no words are declared for {request.chosen_generic!r}. Declared generic words: {', '.join(known)}"
        )
    return generic_words


def _make_task(video: SelectedVideo, generic_words: tuple[GenericWord, ...], chosen_generic: str | None) -> ScoreTask:
    """Return the task of a video.

    Raises:
        UserError, GenericWordsError, CaptureError: it cannot be measured.
    """
    recipe = video.entry.recipe
    states = open_finished_states(video)
    if (reason := _explain_changed_distribution(recipe)) is not None:
        raise UserError(reason)
    return ScoreTask(video, find_generic_sentence(recipe.prompt, generic_words, chosen_generic), states.path)


def _explain_changed_distribution(recipe: Recipe) -> str | None:
    """Return why a video's distribution is not the distribution of the model with the prompt alone; None if it is."""
    if recipe.speed == "cached":
        return "it was generated with speed: cached, which skips blocks. Generate it with speed: fused"
    controls = [
        kind.name.replace("_", " ")
        for kind in CONTROLS
        if not kind.keeps_conditional_prediction and recipe.find_control_request(kind.name) is not None
    ]
    if controls:
        return f"it was generated with {' and '.join(controls)}, so it is not a sample of its prompt alone"
    return None


def _find_warnings(tasks: Sequence[ScoreTask]) -> list[str]:
    """Return warnings about the interpretation of the values."""
    warnings = []
    recipes = [task.recipe for task in tasks]
    count_text = format_count(len(tasks), "video")
    guided_count = sum(
        any(evaluation.source != "conditional" for evaluation in plan_guidance(recipe)) for recipe in recipes
    )
    if guided_count:
        warnings.append(
            f"{guided_count} of {count_text} were generated with guidance, which changes the distribution of videos: "
            "the values are not -ln p of the word. Generate a batch with cfg_scale=1"
        )
    fp8_count = sum(recipe.speed == "fp8" for recipe in recipes)
    if 0 < fp8_count < len(recipes):
        warnings.append(
            f"{fp8_count} of {count_text} were generated with speed fp8, which changes videos and velocities, so "
            f"differences between the values may come from the speed. Choose one with --where speed=fp8"
        )
    if "bfloat16" in {recipe.dtype for recipe in recipes}:
        warnings.append(
            "bfloat16 adds the square of its rounding error to the gap; the error cancels in the pointwise form, so "
            "use that column"
        )
    adapted_count = sum(recipe.find_control_request(LORA.name) is not None for recipe in recipes)
    if adapted_count:
        warnings.append(
            f"{adapted_count} of {count_text} were generated with LoRA adapters: the values describe the adapted "
            "model. With a step-distilled adapter, the model does not predict flow velocities, so the values are "
            "meaningless"
        )
    return warnings
