"""Generate one video from its recipe: denoise, capture, decode and encode. Files get their final names once complete.

With a checkpoint path, an interrupted video leaves the files needed to resume: the checkpoint and the captures so far,
under temporary names.
"""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from diffusers import WanPipeline
from torch import Tensor

from wantui.formatting import format_count
from wantui.generation.arrays import to_latents_array
from wantui.generation.captures import make_recorders
from wantui.generation.captures.trajectory import Recorder as TrajectoryRecorder
from wantui.generation.checkpoint import CheckpointListener, CheckpointRefusedError, read_checkpoint
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import denoise_latents, prepare_inputs
from wantui.generation.denoising_state import Checkpoint, DenoisingInputs, DenoisingStep
from wantui.generation.guidance_split import find_guidance_split
from wantui.generation.placement import ensure_on_device, find_device, read_peak_memory, reset_peak_memory
from wantui.generation.provenance import describe_clip_provenance
from wantui.planning import Recipe
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.contact_sheet import ContactSheet
from wantui.storage.mp4 import ClipWriter
from wantui.storage.video_files import VideoFiles, reject_linked_folders, remove_temporary_files
from wantui.storage.zarr_group import PartialCaptureError


class DenoisingListener(Protocol):
    """Listener to the denoising of one video. A listener never changes the inputs and steps that it receives."""

    def on_start(self, inputs: DenoisingInputs, steps_done: int) -> None: ...
    def on_step(self, step: DenoisingStep) -> None: ...
    def on_end(self) -> None: ...


@dataclass(frozen=True)
class GenerationResumed:
    """Event: an earlier process completed the first steps."""

    steps_done: int


@dataclass(frozen=True)
class GenerationRestarted:
    """Event: the video starts from the first step because its checkpoint cannot be used."""

    reason: str


@dataclass(frozen=True)
class FrameDecoded:
    """Event: a frame was decoded."""

    decoded_count: int
    """Number of decoded frames."""
    frame_count: int
    """Number of frames in the video."""


@dataclass(frozen=True)
class GenerationResult:
    """Result of generating one video."""

    latents_sha256: str
    denoise_seconds: float
    """Seconds of encoding, denoising and moving the VAE, with those of earlier processes up to the checkpoint."""
    decode_seconds: float
    peak_memory_bytes: int | None
    """Peak bytes that torch allocated on the GPU; None on a CPU."""
    second_peak_memory_bytes: int | None = None
    """Peak bytes that torch allocated on the second GPU; None with one device."""


@dataclass(frozen=True)
class ReadyToFinalize:
    """Event: denoising and decoding are complete.

    Call `finish_files` once, on any thread, to complete clip and captures.

    If `finish_files` raises, it has removed the unfinished files except the checkpoint.
    """

    finish_files: Callable[[], GenerationResult]


@dataclass(frozen=True)
class StepFinished:
    """Event: a denoising step is complete."""

    step: DenoisingStep
    live_metrics: dict[str, float]
    """Live metrics of the trajectory so far (`GramMatrix.compute_live_metrics`); empty without a trajectory capture."""


def generate_video(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    listeners: Sequence[DenoisingListener] = (),
    embed_prompt: Callable[[str], Tensor] | None = None,
) -> Generator[GenerationResumed | GenerationRestarted | StepFinished | FrameDecoded | GenerationResult, None, None]:
    """Run `generate_frames` to the end; the last event is the finished video."""
    for event in generate_frames(pipeline, recipe, files, listeners, embed_prompt):
        yield event.finish_files() if isinstance(event, ReadyToFinalize) else event


def generate_frames(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    listeners: Sequence[DenoisingListener] = (),
    embed_prompt: Callable[[str], Tensor] | None = None,
) -> Generator[GenerationResumed | GenerationRestarted | StepFinished | FrameDecoded | ReadyToFinalize, None, None]:
    """Generate one video; yield its steps and frames, and finally the remaining work, which needs no GPU.

    If generation ends early (an error, Ctrl-C, the consumer closing the generator), the unfinished files are removed,
    except the checkpoint and its captures, which `storage.video_files.remove_temporary_files` removes.

    Args:
        listeners: receive every step before it is yielded.
        embed_prompt: function that returns the embedding of a prompt, for a pipeline without a text encoder.
    """
    device = find_device(pipeline)
    second_device = None if (split := find_guidance_split(pipeline)) is None else split.device
    reset_peak_memory(device, second_device)
    all_listeners: list[DenoisingListener] = []
    published_paths: list[Path] = []
    background_writer = BackgroundWriter()
    started_at = time.perf_counter()
    with ExitStack() as exit_stack:
        exit_stack.callback(background_writer.close)
        exit_stack.push(partial(_remove_unfinished_files, files, all_listeners, published_paths))
        inputs = prepare_inputs(pipeline, recipe, embed_prompt)
        start = partial(_start_listeners, pipeline, recipe, files, inputs, background_writer, listeners, started_at)
        checkpoint = yield from _start_or_resume(pipeline, recipe, files, start, all_listeners)
        latents = inputs.noise if checkpoint is None else checkpoint.latents
        # Close the loop with this generator, not at garbage collection: closing removes the hooks.
        for step in exit_stack.enter_context(closing(denoise_latents(pipeline, recipe, inputs, checkpoint))):
            for listener in all_listeners:
                listener.on_step(step)
            step.values_by_capture.clear()  # free their memory: listeners and consumers keep the step
            latents = step.latents
            yield StepFinished(step, _get_live_metrics(all_listeners))
        ensure_on_device(pipeline, pipeline.vae)
        denoised_at = time.perf_counter()
        latents_digest = compute_latents_digest(latents)
        contact_sheet = ContactSheet(recipe.frames)
        reject_linked_folders(files)
        clip_tags = _build_clip_tags(pipeline, recipe, latents_digest)
        clip_writer = exit_stack.enter_context(ClipWriter(files.clip_path, recipe.fps, recipe.frames, clip_tags))
        frames = exit_stack.enter_context(closing(decode_frames(pipeline, latents)))
        for decoded_count, frame in enumerate(contact_sheet.collect_frames(frames), start=1):
            clip_writer.write_frame(frame)
            yield FrameDecoded(decoded_count, recipe.frames)
        finished_video = GenerationResult(
            latents_digest,
            denoised_at - started_at + (0.0 if checkpoint is None else checkpoint.seconds),
            time.perf_counter() - denoised_at,
            read_peak_memory(device),
            read_peak_memory(second_device),
        )
        resources = exit_stack.pop_all()
    finish_files = partial(
        _finish_video, resources, finished_video, files, clip_writer, contact_sheet, all_listeners, published_paths
    )
    yield ReadyToFinalize(finish_files)


def _finish_video(
    resources: ExitStack,
    finished_video: GenerationResult,
    files: VideoFiles,
    clip_writer: ClipWriter,
    contact_sheet: ContactSheet,
    listeners: Sequence[DenoisingListener],
    published_paths: list[Path],
) -> GenerationResult:
    """Complete the files of a video, and close everything that rendering opened."""
    with resources:
        clip_writer.finish_clip()
        published_paths.append(files.clip_path)
        contact_sheet.write_sheet(files.sheet_path)
        published_paths.append(files.sheet_path)
        for listener in listeners:
            listener.on_end()
    return finished_video


def _build_clip_tags(pipeline: WanPipeline, recipe: Recipe, latents_digest: str) -> dict[str, str]:
    """Return the metadata of a clip: title and comment, and the recipe and provenance for `rerun`."""
    steps_text = format_count(recipe.steps, "step")
    return {
        "title": recipe.prompt,
        "comment": f"{recipe.model}, seed {recipe.seed}, {steps_text} of {recipe.sampler}, wantui",
        "wantui": recipe.to_json(),
        "wantui_made_with": json.dumps(
            {**describe_clip_provenance(pipeline, recipe), "latents_sha256": latents_digest}
        ),
    }


def _remove_unfinished_files(
    files: VideoFiles,
    listeners: Sequence[DenoisingListener],
    published_paths: Sequence[Path],
    _: type[BaseException] | None,
    error: BaseException | None,
    __: object,
) -> None:
    """Remove the files of an unfinished video, except files from which another process can resume."""
    if error is None:
        return
    for path in published_paths:
        path.unlink(missing_ok=True)
    if files.checkpoint_path is None:
        remove_temporary_files(files)
    elif isinstance(error, GeneratorExit):
        for listener in listeners:
            if isinstance(listener, CheckpointListener):
                listener.write_latest_step()


def _start_or_resume(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    start: Callable[[Checkpoint | None], list[DenoisingListener]],
    all_listeners: list[DenoisingListener],
) -> Generator[GenerationResumed | GenerationRestarted, None, Checkpoint | None]:
    """Start the listeners, from the checkpoint if it can be used; return the checkpoint in use.

    Args:
        start: starts and returns the listeners.
        all_listeners: list to which they are added.
    """
    checkpoint = None
    try:
        if files.checkpoint_path is not None:
            checkpoint = read_checkpoint(files.checkpoint_path, pipeline, recipe)
        all_listeners += start(checkpoint)
    except (CheckpointRefusedError, PartialCaptureError) as refusal:
        yield GenerationRestarted(str(refusal))
        checkpoint = None
        all_listeners[:] = start(None)
    if checkpoint is not None:
        yield GenerationResumed(checkpoint.steps_done)
    return checkpoint


def _get_live_metrics(listeners: Sequence[DenoisingListener]) -> dict[str, float]:
    """Return the live metrics of the trajectory so far; none if it is not recorded."""
    return next((listener.live_metrics for listener in listeners if isinstance(listener, TrajectoryRecorder)), {})


def _start_listeners(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    inputs: DenoisingInputs,
    background_writer: BackgroundWriter,
    listeners: Sequence[DenoisingListener],
    started_at: float,
    checkpoint: Checkpoint | None,
) -> list[DenoisingListener]:
    """Return the started listeners; captures precede the checkpoint, which refers to files of the captures.

    Args:
        started_at: `time.perf_counter()` at the start of the generation.
    """
    earlier_checksums = {} if checkpoint is None else checkpoint.checksums_by_capture
    recorders = make_recorders(
        files.capture_paths,
        recipe,
        background_writer,
        earlier_checksums,
        is_resumable=files.checkpoint_path is not None,
    )
    all_listeners: list[DenoisingListener] = [*listeners, *recorders.values()]
    if files.checkpoint_path is not None:
        checksum_functions = {name: recorder.compute_checksums for name, recorder in recorders.items()}
        earlier_seconds = 0.0 if checkpoint is None else checkpoint.seconds
        all_listeners.append(
            CheckpointListener(
                pipeline,
                recipe,
                files.checkpoint_path,
                checksum_functions,
                lambda: time.perf_counter() - started_at + earlier_seconds,
            )
        )
    for listener in all_listeners:
        listener.on_start(inputs, 0 if checkpoint is None else checkpoint.steps_done)
    return all_listeners


def compute_latents_digest(latents: Tensor) -> str:
    """Return the SHA-256 of the final latents in float32; equal digests mean equal videos."""
    return hashlib.sha256(to_latents_array(latents).tobytes()).hexdigest()
