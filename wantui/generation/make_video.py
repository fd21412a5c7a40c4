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

import numpy as np
import torch
from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.arrays import to_latents_array
from wantui.generation.captures import make_recorders
from wantui.generation.captures.trajectory import Recorder as TrajectoryRecorder
from wantui.generation.checkpoint import CheckpointRefusedError, CheckpointTap, read_checkpoint
from wantui.generation.decode import decode_frames
from wantui.generation.denoise import Checkpoint, Start, Step, denoise, prepare
from wantui.generation.placement import ensure_on_device, find_device
from wantui.generation.provenance import describe_clip_provenance
from wantui.planning import Recipe
from wantui.storage.background_writer import BackgroundWriter
from wantui.storage.contact_sheet import ContactSheet
from wantui.storage.mp4 import ClipWriter
from wantui.storage.video_files import VideoFiles, refuse_linked_folders, remove_temporary_files
from wantui.storage.zarr_group import IncompleteCaptureError


class Tap(Protocol):
    """Listener to the denoising of one video. It never changes its inputs."""

    def on_start(self, start: Start, steps_done: int) -> None: ...
    def on_step(self, step: Step) -> None: ...
    def on_end(self) -> None: ...


@dataclass(frozen=True)
class Resumed:
    """Event: an earlier process completed the first steps."""

    steps_done: int


@dataclass(frozen=True)
class Restarted:
    """Event: the video starts from the first step because its checkpoint cannot be used."""

    reason: str


@dataclass(frozen=True)
class Decoded:
    """Event: a frame was decoded."""

    frames: int
    """Number of decoded frames."""
    count: int
    """Number of frames of the video."""


@dataclass(frozen=True)
class FinishedVideo:
    """Results of a finished video."""

    latents_sha256: str
    denoise_seconds: float
    decode_seconds: float
    peak_memory: int | None
    """Most bytes that torch allocated on the GPU; None on a CPU."""


@dataclass(frozen=True)
class ReadyToFinalize:
    """Event: denoising and decoding are complete. Call `finish` once, on any thread, to complete clip and captures.

    If `finish` raises, it has removed the unfinished files except the checkpoint.
    """

    finish: Callable[[], FinishedVideo]


@dataclass(frozen=True)
class StepFinished:
    """Event: a denoising step is complete."""

    step: Step
    figures: dict[str, float]
    """Live metrics of the trajectory so far (`GramMatrix.figures`); empty without a trajectory capture."""


def make_video(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    listeners: Sequence[Tap] = (),
    embeddings: Callable[[str], Tensor] | None = None,
) -> Generator[Resumed | Restarted | StepFinished | Decoded | FinishedVideo, None, None]:
    """Run `begin_video` to the end; the last event is the finished video."""
    for event in begin_video(pipeline, recipe, files, listeners, embeddings):
        yield event.finish() if isinstance(event, ReadyToFinalize) else event


def begin_video(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    listeners: Sequence[Tap] = (),
    embeddings: Callable[[str], Tensor] | None = None,
) -> Generator[Resumed | Restarted | StepFinished | Decoded | ReadyToFinalize, None, None]:
    """Generate one video; yield each denoising step and decoded frame, and finally the remaining work without GPU.

    Args:
        listeners: receive every step before it is yielded.
        embeddings: function that returns the embedding of a prompt, for a pipeline without a text encoder.

    If generation ends early (an error, Ctrl-C, the consumer closing the generator), the unfinished files are removed,
    except the checkpoint and its captures: `storage.video_files.discard` removes those.
    """
    device = find_device(pipeline)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    taps: list[Tap] = []
    published: list[Path] = []
    background = BackgroundWriter()
    started_at = time.perf_counter()
    with ExitStack() as stack:
        stack.callback(background.close)
        stack.push(partial(_remove_unfinished_files, files, taps, published))
        start = prepare(pipeline, recipe, embeddings)
        checkpoint = None
        try:
            if files.checkpoint is not None:
                checkpoint = read_checkpoint(files.checkpoint, pipeline, recipe)
            taps += _start_taps(pipeline, recipe, files, start, checkpoint, background, listeners)
        except (CheckpointRefusedError, IncompleteCaptureError) as refused:
            yield Restarted(str(refused))
            checkpoint = None
            taps[:] = _start_taps(pipeline, recipe, files, start, None, background, listeners)
        if checkpoint is not None:
            yield Resumed(checkpoint.steps_done)
        latents = start.noise if checkpoint is None else checkpoint.latents
        # Close the loop with this generator, not at garbage collection: closing removes the hooks.
        for step in stack.enter_context(closing(denoise(pipeline, recipe, start, checkpoint))):
            for tap in taps:
                tap.on_step(step)
            latents = step.latents
            yield StepFinished(step, next((tap.figures for tap in taps if isinstance(tap, TrajectoryRecorder)), {}))
        ensure_on_device(pipeline, pipeline.vae)
        denoised_at = time.perf_counter()
        digest = compute_latents_digest(latents)
        sheet = ContactSheet(recipe.frames)
        refuse_linked_folders(files)
        tags = _build_clip_tags(pipeline, recipe, digest)
        clip = stack.enter_context(ClipWriter(files.clip, recipe.fps, recipe.frames, tags))
        decoded = stack.enter_context(closing(decode_frames(pipeline, latents)))
        pixels = (np.rint(frame * 255).astype(np.uint8) for frame in decoded)
        for count, frame in enumerate(sheet.watch(pixels), start=1):
            clip.write(frame)
            yield Decoded(count, recipe.frames)
        finished_video = FinishedVideo(
            digest,
            denoised_at - started_at,
            time.perf_counter() - denoised_at,
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        )
        resources = stack.pop_all()
    yield ReadyToFinalize(partial(_finish, resources, finished_video, files, clip, sheet, taps, published))


def _finish(
    resources: ExitStack,
    finished_video: FinishedVideo,
    files: VideoFiles,
    clip: ClipWriter,
    sheet: ContactSheet,
    taps: Sequence[Tap],
    published: list[Path],
) -> FinishedVideo:
    """Complete the files of a video, and close everything that rendering opened."""
    with resources:
        clip.finish()
        published.append(files.clip)
        sheet.write(files.sheet)
        published.append(files.sheet)
        for tap in taps:
            tap.on_end()
    return finished_video


def _build_clip_tags(pipeline: WanPipeline, recipe: Recipe, digest: str) -> dict[str, str]:
    """Return the metadata of a clip: title and comment, and the recipe and provenance for `rerun`."""
    return {
        "title": recipe.prompt,
        "comment": f"{recipe.model}, seed {recipe.seed}, {recipe.steps} steps of {recipe.sampler}, wantui",
        "wantui": recipe.to_json(),
        "wantui_made_with": json.dumps({**describe_clip_provenance(pipeline, recipe), "latents_sha256": digest}),
    }


def _remove_unfinished_files(
    files: VideoFiles,
    taps: Sequence[Tap],
    published: Sequence[Path],
    _: type[BaseException] | None,
    error: BaseException | None,
    __: object,
) -> None:
    """Remove the files of an unfinished video, except those from which another process can resume."""
    if error is None:
        return
    for path in published:
        path.unlink(missing_ok=True)
    if files.checkpoint is None:
        remove_temporary_files(files)
    elif isinstance(error, GeneratorExit):
        for tap in taps:
            if isinstance(tap, CheckpointTap):
                tap.write_latest()


def _start_taps(
    pipeline: WanPipeline,
    recipe: Recipe,
    files: VideoFiles,
    start: Start,
    checkpoint: Checkpoint | None,
    background: BackgroundWriter,
    listeners: Sequence[Tap],
) -> list[Tap]:
    """Return the started taps; captures come before the checkpoint, which refers to their files."""
    earlier = {} if checkpoint is None else checkpoint.captured
    captures = make_recorders(files.captures, recipe, background, earlier, resumable=files.checkpoint is not None)
    taps: list[Tap] = [*listeners, *captures.values()]
    if files.checkpoint is not None:
        stored = {name: capture.compute_checksums for name, capture in captures.items()}
        taps.append(CheckpointTap(pipeline, recipe, files.checkpoint, stored))
    for tap in taps:
        tap.on_start(start, 0 if checkpoint is None else checkpoint.steps_done)
    return taps


def compute_latents_digest(latents: Tensor) -> str:
    """Return the SHA-256 of the final latents in float32; equal digests mean equal videos."""
    return hashlib.sha256(to_latents_array(latents).tobytes()).hexdigest()
