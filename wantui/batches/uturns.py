"""U-turns: add noise to the final latents of a video, and denoise them again with the generic prompt.

x_s = (1 - s) x + s e, with the final latents x and noise e that depends on the seed alone, so concepts are paired;
all noise levels of a seed share it. It is not the initial noise of the video, on which x depends. The continued
denoising has the sampler, steps and guidance of the video; multistep samplers start again with their first order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wantui.analysis.denoising_states import DenoisingStates
from wantui.batches.replay_events import ModelLoadStarted, VideoLeftOut
from wantui.batches.stored_videos import open_finished_states, predict_pass_seconds
from wantui.controls.attention_bending import ATTENTION_BENDING
from wantui.controls.prompt_schedule import PROMPT_SCHEDULE
from wantui.controls.word_weights import WORD_WEIGHTS
from wantui.errors import UserError
from wantui.generation.errors import NotFiniteError
from wantui.generic_words import GenericWord, GenericWordsError, find_generic_sentence
from wantui.keyframes import list_evaluation_steps
from wantui.planning import CaptureRequests, Recipe
from wantui.planning.guidance_plan import plan_guidance
from wantui.samplers import compute_noise_levels, find_sampler_schedule
from wantui.storage.uturn_file import (
    UTurnEntry,
    add_uturn,
    get_uturn_folder,
    get_uturn_index_path,
    has_uturn_files,
    make_uturn_clip_path,
    read_uturns,
    try_lock_uturn,
    write_uturn_state,
)
from wantui.storage.video_files import make_parent_folders
from wantui.storage.video_selection import SelectedVideo
from wantui.storage.zarr_group import CaptureError

if TYPE_CHECKING:
    from torch import Tensor

    from wantui.worker.pipelines import LoadedPipeline

LEVEL_DIGITS = 6


@dataclass(frozen=True)
class UTurnTask:
    """One U-turn to make."""

    video: SelectedVideo
    states: DenoisingStates
    entry: UTurnEntry
    pass_count: int
    """Number of passes through the transformer."""

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the continued denoising: with the generic prompt, and without captures."""
        update = {"prompt": self.entry.generic_prompt, "marks": (), "capture": CaptureRequests()}
        return self.video.entry.recipe.model_copy(update=update)


@dataclass(frozen=True)
class UTurnPlan:
    """The U-turns of a batch."""

    folder: Path
    generic_prompts: tuple[str, ...]
    finished: tuple[UTurnEntry, ...]
    """U-turns that exist already."""
    tasks: tuple[UTurnTask, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def pass_count(self) -> int:
        return sum(task.pass_count for task in self.tasks)

    @property
    def predicted_seconds(self) -> float | None:
        """Return the predicted seconds of all passes and decodings; None if a video was not timed."""
        pass_seconds = predict_pass_seconds((task.video, task.pass_count) for task in self.tasks)
        if pass_seconds is None:
            return None
        return pass_seconds + sum(task.video.entry.seconds.get("decode", 0.0) for task in self.tasks)


@dataclass(frozen=True)
class UTurnStep:
    """Event: a step of a U-turn is done."""

    task: UTurnTask
    task_number: int
    step_number: int


@dataclass(frozen=True)
class UTurnDone:
    """Event: a U-turn is complete, with its clip."""

    task: UTurnTask
    clip_path: Path


UTurnEvent = ModelLoadStarted | UTurnStep | UTurnDone | VideoLeftOut


def find_uturn_evaluation(recipe: Recipe, sigma: float) -> tuple[int, float]:
    """Return the evaluation nearest to a noise level at which denoising can start, and its noise level.

    With heun, a U-turn can start only at the first evaluation of a step. It cannot start at the first step, which has
    pure noise.

    Raises:
        UserError: the denoising has one step only.
    """
    levels = compute_noise_levels(recipe.sampler, recipe.steps, recipe.flow_shift)
    evaluates_twice = len(levels) > recipe.steps
    starts = [
        index
        for index, step in enumerate(list_evaluation_steps(len(levels), recipe.steps))
        if step > 0 and (not evaluates_twice or index == 2 * step)
    ]
    if not starts:
        raise UserError("it has only one denoising step, so denoising cannot start later")
    index = min(starts, key=lambda start: abs(levels[start] - sigma))
    return index, round(float(levels[index]), LEVEL_DIGITS)


def plan_uturns(
    folder: Path, videos: Sequence[SelectedVideo], generic_words: Sequence[GenericWord], sigmas: Sequence[float]
) -> UTurnPlan:
    """Choose the U-turns to make; existing U-turns are kept.

    Raises:
        UserError: no video can be used, or the existing U-turns have another generic prompt.
    """
    finished = read_uturns(folder)
    finished_by_id = {entry.id: entry for entry in finished if has_uturn_files(folder, entry)}
    tasks: dict[str, UTurnTask] = {}
    left_out: list[tuple[str, str]] = []
    wanted: dict[str, UTurnEntry] = {}
    for video in videos:
        try:
            states = open_finished_states(video)
            entries = _list_entries(video, generic_words, sigmas)
        except (UserError, GenericWordsError, CaptureError) as error:
            left_out.append((video.name, str(error)))
            continue
        for entry in entries:
            wanted[entry.id] = entry
            if not _has_current_files(folder, entry, finished_by_id.get(entry.id)):
                tasks[entry.id] = UTurnTask(video, states, entry, _count_passes(video.entry.recipe, entry.evaluation))
    if not wanted:
        raise UserError(f"cannot make a U-turn of any video: {left_out[0][0]}: {left_out[0][1]}")
    kept = tuple(entry for entry in finished_by_id.values() if entry.id not in tasks)
    prompts = tuple(dict.fromkeys(entry.generic_prompt for entry in wanted.values()))
    return UTurnPlan(folder, prompts, kept, tuple(tasks.values()), tuple(left_out))


def _has_current_files(folder: Path, entry: UTurnEntry, earlier: UTurnEntry | None) -> bool:
    """Return whether an entry can keep the files of an earlier entry with the same id.

    Raises:
        UserError: the earlier entry has another generic prompt.
    """
    if earlier is None or earlier.source_sha256 != entry.source_sha256:
        return False
    if earlier.generic_prompt != entry.generic_prompt:
        raise UserError(
            f"{get_uturn_folder(folder)} has U-turns with the generic prompt {earlier.generic_prompt!r}, not "
            f"{entry.generic_prompt!r}. To make U-turns with another prompt, first move that folder away"
        )
    return True


def _list_entries(
    video: SelectedVideo, generic_words: Sequence[GenericWord], sigmas: Sequence[float]
) -> list[UTurnEntry]:
    recipe = video.entry.recipe
    if recipe.speed == "cached":
        raise UserError("it was generated with speed: cached, which skips blocks. Generate it with speed: fused")
    if find_sampler_schedule(recipe.sampler).adds_noise:
        raise UserError(f"its sampler {recipe.sampler} adds noise in each step. Use a sampler without added noise")
    refused_controls = (
        (PROMPT_SCHEDULE, "a prompt schedule"),
        (ATTENTION_BENDING, "attention bending"),
        (WORD_WEIGHTS, "word weights"),
    )
    for kind, name in refused_controls:
        if recipe.find_control_request(kind.name) is not None:
            raise UserError(f"it was generated with {name}, which a U-turn cannot apply to the generic prompt")
    sentence = find_generic_sentence(recipe.prompt, tuple(generic_words))
    starts = dict.fromkeys(find_uturn_evaluation(recipe, sigma) for sigma in sigmas)
    return [
        UTurnEntry(
            source=video.entry.id,
            source_sha256=video.entry.latents_sha256,
            generic_prompt=sentence.generic_prompt,
            evaluation=evaluation,
            sigma=sigma,
        )
        for evaluation, sigma in starts
    ]


def _count_passes(recipe: Recipe, evaluation: int) -> int:
    return sum(each.pass_count for each in plan_guidance(recipe, first_evaluation=evaluation)[evaluation:])


def generate_uturns(plan: UTurnPlan, device: str = "auto", may_fetch: bool = False) -> Iterator[UTurnEvent]:
    """Generate the U-turns of a plan; write the index after each, so that an interrupted call can be repeated.

    Several processes may generate U-turns of one batch: U-turns that another process has generated since the plan are
    skipped.

    Raises:
        UserError: the model cannot be loaded, its weights have changed, or another process has made U-turns with
            another generic prompt.
        OSError: a file cannot be written.
        RuntimeError: the device is out of memory.
    """
    from wantui.batches.generating_model import GeneratingModel

    model = GeneratingModel([task.recipe for task in plan.tasks], device, may_fetch)
    make_parent_folders(plan.folder, get_uturn_index_path(plan.folder))
    for number, task in enumerate(plan.tasks, 1):
        yield from model.load(task.recipe)
        name = f"{task.video.name}, noise level {task.entry.sigma:.3f}"
        with try_lock_uturn(plan.folder, task.entry) as is_locked:
            if not is_locked:
                yield VideoLeftOut(name, "another process is generating this U-turn")
                continue
            if _has_current_files(plan.folder, task.entry, _find_finished_uturn(plan.folder, task.entry.id)):
                continue
            try:
                for step_number, latents in enumerate(_run_uturn(model.loaded, task), 1):  # noqa: B007 -- the last one is used
                    yield UTurnStep(task, number, step_number)
                _store_uturn(model.loaded, plan.folder, task, latents)
            except (CaptureError, ArithmeticError, NotFiniteError) as error:
                yield VideoLeftOut(name, str(error))
                continue
            add_uturn(plan.folder, task.entry)
        yield UTurnDone(task, make_uturn_clip_path(plan.folder, task.entry))


def _find_finished_uturn(folder: Path, uturn_id: str) -> UTurnEntry | None:
    """Return the U-turn with an id if its files exist by now, or None."""
    entries = (entry for entry in read_uturns(folder) if entry.id == uturn_id and has_uturn_files(folder, entry))
    return next(entries, None)


def _run_uturn(loaded: "LoadedPipeline", task: UTurnTask) -> "Iterator[Tensor]":
    """Yield the latents after each step of a U-turn."""
    from wantui.generation.denoise import prepare_inputs
    from wantui.generation.replay import continue_denoising, draw_uturn_noise

    final = task.states.read_state(task.states.end).astype(np.float64)
    noise = draw_uturn_noise(final.shape, task.video.entry.seed)
    levels = compute_noise_levels(task.recipe.sampler, task.recipe.steps, task.recipe.flow_shift)
    sigma = float(levels[task.entry.evaluation])
    state = ((1 - sigma) * final + sigma * noise).astype(np.float32)
    inputs = prepare_inputs(loaded.pipeline, task.recipe, loaded.embeddings)
    for step in continue_denoising(loaded.pipeline, task.recipe, inputs, state, task.entry.evaluation):
        yield step.latents


def _store_uturn(loaded: "LoadedPipeline", folder: Path, task: UTurnTask, latents: "Tensor") -> None:
    """Write the projected final latents and the clip of a U-turn."""
    from wantui.generation.decode import decode_stored_frames
    from wantui.generation.gram import StateProjection
    from wantui.generation.placement import ensure_on_device
    from wantui.storage.mp4 import ClipWriter

    pipeline, recipe = loaded.pipeline, task.recipe
    write_uturn_state(folder, task.entry, StateProjection(latents.numel(), latents.device)(latents))
    ensure_on_device(pipeline, pipeline.vae)
    tags = {
        "title": f"{task.video.name}, U-turn at noise level {task.entry.sigma:.3f}",
        "comment": recipe.prompt,
    }
    frames = decode_stored_frames(pipeline, latents[0].float().cpu().numpy())
    with ClipWriter(make_uturn_clip_path(folder, task.entry), recipe.fps, recipe.frames, tags) as writer:
        for frame in frames:
            writer.write_frame(frame)
        writer.finish_clip()
