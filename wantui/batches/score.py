"""Measure the information gap of videos on disk, with the model that generated them, and store the values."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from wantui import __version__
from wantui.analysis.denoising_states import DenoisingStates
from wantui.analysis.information_gap import QuadratureLevel, ScoredVideo, integrate_levels
from wantui.batches.generating_model import GeneratingModel, get_pipeline_key
from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut
from wantui.batches.score_plan import InformationGapRequest, ScorePlan, ScoreTask
from wantui.controls.lora import LORA
from wantui.errors import UserError
from wantui.generation.errors import NotFiniteError
from wantui.generation.load import resolve_device
from wantui.generation.placement import find_device_name
from wantui.generation.prompt_encoding import make_prompt_encoder
from wantui.generation.renoise import LevelSums, measure_level_gaps
from wantui.generation.token_spans import check_prompt_length
from wantui.planning import CaptureRequests, Recipe, TimedVideo, parse_timed_videos
from wantui.planning.pass_time import estimate_pass_seconds
from wantui.planning.time_estimate import Estimate, select_gpu_videos
from wantui.queue.benchmark_store import load_throughput
from wantui.queue.database import QueueError
from wantui.queue.reader import QueueReader
from wantui.queue.state_dir import find_state_directory
from wantui.storage.information_file import (
    InformationFile,
    InformationFileError,
    LevelEntry,
    ScoreEntry,
    get_information_path,
    merge_information,
    read_information,
    reject_other_measurement,
)
from wantui.storage.write_checks import check_result_path
from wantui.storage.zarr_group import CaptureError
from wantui.worker.pipelines import choose_recipe_plan

if TYPE_CHECKING:
    from torch import Tensor

    from wantui.worker.pipelines import LoadedPipeline

SECONDS_BETWEEN_SAVES = 10.0
"""Maximum seconds of measurements that a killed process loses."""
MAX_QUEUE_WAIT_SECONDS = 1.0
"""Longest wait in seconds for a locked queue, whose past videos only improve the predicted time."""


@dataclass(frozen=True)
class ScoreStarted:
    """Event: the passes begin."""

    video_count: int
    kept_count: int
    """Number of videos that were measured before."""
    pass_count: int
    seconds: Estimate
    """Predicted seconds of all passes, without loading the model."""


@dataclass(frozen=True)
class LevelMeasured:
    """Event: a noise level of a video is measured."""

    task: ScoreTask
    video_number: int
    level_number: int


@dataclass(frozen=True)
class ScoresSaved:
    """Last event: all values are in the file."""

    path: Path
    content: InformationFile


ScoreEvent = ScoreStarted | ModelLoadStarted | LevelMeasured | VideoLeftOut | ScoresSaved


def measure_scores(plan: ScorePlan, request: InformationGapRequest, is_dry_run: bool = False) -> Iterator[ScoreEvent]:
    """Measure the videos of a plan that are not measured yet; yield the cost first, then the progress.

    Values are saved while they are measured, even if the caller closes the generator.

    Args:
        is_dry_run: yield the cost only.

    Raises:
        UserError: the model cannot be loaded, its weights have changed, or the file belongs to another measurement.
        OSError: the file cannot be written.
    """
    if not is_dry_run:
        check_result_path(plan.folder, get_information_path(plan.folder, plan.generic))
    content = _open_content(plan, request, is_dry_run)
    tasks = [task for task in plan.tasks if not _is_measured(task, content)]
    yield _predict_cost(plan, tasks, request)
    if is_dry_run:
        return
    saver = _Saver(plan.folder, content, request.replaces_stored)
    recipes = [recipe for task in tasks for recipe in _list_scoring_recipes(task)]
    model = GeneratingModel(recipes, request.device, request.may_fetch)
    device_name = find_device_name(resolve_device(request.device))
    video_numbers = count(1)
    try:
        for group in _group_by_pipeline(tasks):
            yield from model.load(_list_scoring_recipes(group[0])[0])
            yield from _measure_group(model.loaded, group, plan, saver, device_name, video_numbers)
    finally:
        saver.save()
    yield ScoresSaved(get_information_path(plan.folder, plan.generic), saver.read_all())


def _measure_group(
    loaded: "LoadedPipeline",
    group: Sequence[ScoreTask],
    plan: ScorePlan,
    saver: "_Saver",
    device_name: str,
    video_numbers: Iterator[int],
) -> Iterator[LevelMeasured | VideoLeftOut]:
    """Measure the videos of one pipeline, which is free again afterwards: the next one may not fit beside it."""
    _check_prompt_lengths(loaded, group)
    encode_prompt = _cache_embeddings(loaded)
    for task in group:
        number = next(video_numbers)
        try:
            gaps = []
            for gap in _measure_task(loaded, task, plan, encode_prompt):
                gaps.append(gap)
                yield LevelMeasured(task, number, len(gaps))
        except (CaptureError, ArithmeticError, NotFiniteError) as error:
            yield VideoLeftOut(task.video.name, str(error))
            continue
        saver.add_entry(task.video.entry.id, _make_entry(task, gaps, device_name))


class _Saver:
    """The measured values, written every few seconds.

    Args:
        replaces_other: whether the first save replaces the values of another measurement.
    """

    def __init__(self, folder: Path, content: InformationFile, replaces_other: bool) -> None:
        self.folder, self.content, self.replaces_other = folder, content, replaces_other
        self.saved_at = time.monotonic()
        self.has_unsaved = False

    def add_entry(self, video_id: str, entry: ScoreEntry) -> None:
        self.content = self.content.model_copy(update={"videos": {**self.content.videos, video_id: entry}})
        self.has_unsaved = True
        if time.monotonic() - self.saved_at >= SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        if self.has_unsaved:
            merge_information(self.folder, self.content, self.replaces_other)
            # From now on, another measurement in the file is the result of a later process.
            self.saved_at, self.has_unsaved, self.replaces_other = time.monotonic(), False, False

    def read_all(self) -> InformationFile:
        """Return all values of the file, including values from other processes.

        Raises:
            InformationFileError: another process replaced the values.
        """
        path = get_information_path(self.folder, self.content.generic)
        stored = read_information(path)
        reject_other_measurement(path, stored, self.content)
        return stored or self.content


def _open_content(plan: ScorePlan, request: InformationGapRequest, is_dry_run: bool) -> InformationFile:
    """Return the stored values of the same measurement, if any; remove a damaged file that may be replaced.

    Raises:
        InformationFileError: the file is damaged, or was measured in another way and may not be replaced.
    """
    empty = InformationFile(
        wantui=__version__,
        generic=plan.generic,
        draws=plan.draw_count,
        levels=[LevelEntry(**vars(level)) for level in plan.levels],
        videos={},
    )
    path = get_information_path(plan.folder, plan.generic)
    stored = None
    try:
        stored = read_information(path)
    except InformationFileError:
        if not request.replaces_stored:
            raise
        if not is_dry_run:
            path.unlink()
    if not request.replaces_stored:
        reject_other_measurement(path, stored, empty)
    return stored if stored is not None and stored.has_same_measurement(empty) else empty


def _is_measured(task: ScoreTask, content: InformationFile) -> bool:
    entry, sentence = content.videos.get(task.video.entry.id), task.sentence
    return entry is not None and (entry.prompt, entry.generic_prompt, entry.latents_sha256) == (
        sentence.prompt,
        sentence.generic_prompt,
        task.video.entry.latents_sha256 or "",
    )


def _make_entry(task: ScoreTask, gaps: Sequence[LevelSums], device_name: str) -> ScoreEntry:
    return ScoreEntry(
        prompt=task.sentence.prompt,
        word=task.sentence.word,
        generic_prompt=task.sentence.generic_prompt,
        latents_sha256=task.video.entry.latents_sha256 or "",
        device=device_name,
        squared_gaps=[gap.squared_gap for gap in gaps],
        pointwise_gains=[gap.pointwise_gain for gap in gaps],
        squared_errors=[gap.squared_error for gap in gaps],
    )


def load_past_videos() -> list[TimedVideo]:
    """Return the finished videos of this machine's queue; empty without a usable queue."""
    with (
        suppress(UserError, QueueError),
        QueueReader(find_state_directory().directory, MAX_QUEUE_WAIT_SECONDS) as queue,
    ):
        return parse_timed_videos(queue.list_finished_videos())
    return []


def _predict_cost(plan: ScorePlan, tasks: Sequence[ScoreTask], request: InformationGapRequest) -> ScoreStarted:
    pass_count = len(tasks) * plan.passes_per_video
    if not tasks:
        return ScoreStarted(0, len(plan.tasks), 0, Estimate(0.0, "all videos are measured"))
    device = resolve_device(request.device)
    past_videos = load_past_videos()
    seconds, bases = 0.0, []
    for group in _group_by_pipeline(tasks):
        recipe = _make_scoring_recipe(group[0].recipe)
        memory_plan = choose_recipe_plan(recipe, request.device).plan
        throughput = None
        if device.type == "cuda":
            device_name = find_device_name(device)
            past_videos = select_gpu_videos(past_videos, device_name)
            throughput = load_throughput(find_state_directory().directory, device_name, recipe, memory_plan)
        estimate = estimate_pass_seconds(group[0].recipe, device.type, past_videos, throughput, memory_plan)
        if estimate.value is None:
            return ScoreStarted(len(tasks), len(plan.tasks) - len(tasks), pass_count, estimate)
        seconds += estimate.value * len(group) * plan.passes_per_video
        bases.append(estimate.basis)
    total = Estimate(seconds, "; ".join(dict.fromkeys(bases)))
    return ScoreStarted(len(tasks), len(plan.tasks) - len(tasks), pass_count, total)


def _group_by_pipeline(tasks: Sequence[ScoreTask]) -> list[list[ScoreTask]]:
    """Return the tasks in groups, each of which needs only one loaded pipeline and memory plan."""
    groups: dict[tuple[object, ...], list[ScoreTask]] = {}
    for task in tasks:
        groups.setdefault(get_pipeline_key(task.recipe), []).append(task)
    return list(groups.values())


def _make_scoring_recipe(recipe: Recipe, prompt: str | None = None) -> Recipe:
    """Return a recipe with a video's model and another prompt, for which the pipeline runs two passes at each level."""
    lora = {name: request for name, request in recipe.controls.items() if name == LORA.name}
    changes = {"guidance_scale": 2.0, "guidance_scale_2": None, "capture": CaptureRequests(), "controls": lora}
    return recipe.model_copy(update={**changes, "marks": (), "prompt": recipe.prompt if prompt is None else prompt})


def _list_scoring_recipes(task: ScoreTask) -> list[Recipe]:
    """Return the recipes of a video's two prompts."""
    sentence = task.sentence
    return [_make_scoring_recipe(task.recipe, prompt) for prompt in (sentence.prompt, sentence.generic_prompt)]


def _check_prompt_lengths(loaded: "LoadedPipeline", group: Sequence[ScoreTask]) -> None:
    """Reject prompts that are too long for the model.

    Raises:
        UserError: names the prompt.
    """
    for prompt in dict.fromkeys(recipe.prompt for task in group for recipe in _list_scoring_recipes(task)):
        check_prompt_length(loaded.pipeline.tokenizer, prompt, f"prompt {prompt[:80]!r}")


def _cache_embeddings(loaded: "LoadedPipeline") -> "Callable[[str], Tensor]":
    """Return a function that embeds a prompt and caches the latest embeddings.

    Videos of one sentence are consecutive, so most embeddings are reused.
    """
    return lru_cache(maxsize=4)(make_prompt_encoder(loaded.pipeline, loaded.embeddings))


def _measure_task(
    loaded: "LoadedPipeline", task: ScoreTask, plan: ScorePlan, encode_prompt: "Callable[[str], Tensor]"
) -> Iterator[LevelSums]:
    states = DenoisingStates(task.latents_path, task.recipe, task.video.name)
    latents = states.read_state(states.end)
    sentence = task.sentence
    yield from measure_level_gaps(
        loaded.pipeline,
        latents,
        task.recipe.seed,
        encode_prompt(sentence.prompt),
        encode_prompt(sentence.generic_prompt),
        [level.sigma for level in plan.levels],
        plan.draw_count,
    )


def list_scored_videos(plan: ScorePlan, content: InformationFile) -> list[ScoredVideo]:
    """Return the videos of a plan that are measured, with their information gap."""
    levels = [QuadratureLevel(level.sigma, level.weight, level.is_in_window) for level in content.levels]
    scored = []
    for task in plan.tasks:
        if not _is_measured(task, content):
            continue
        entry, video = content.videos[task.video.entry.id], task.video
        cell = video.manifest.find_cell(video.entry)
        information = integrate_levels(levels, entry.squared_gaps, entry.pointwise_gains)
        scored.append(
            ScoredVideo(
                entry.word, entry.generic_prompt, "" if cell is None else cell.label, video.entry.seed, information
            )
        )
    return scored
