"""One video from its recipe: denoise, capture, decode and encode, with nothing half-written under a final name."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import WanPipeline
from torch import Tensor

from wantui.generation.decode import decode_frames
from wantui.generation.denoise import Start, Step, denoise, prepare
from wantui.generation.versions import made_with
from wantui.planning import Recipe
from wantui.storage.contact_sheet import ContactSheet
from wantui.storage.latents import LatentWriter
from wantui.storage.mp4 import write_mp4


class Tap(Protocol):
    """Something that listens to the denoising of one video. It never changes what it is shown."""

    def on_start(self, start: Start) -> None: ...
    def on_step(self, step: Step) -> None: ...
    def on_end(self) -> None: ...
    def on_failure(self) -> None: ...


@dataclass(frozen=True)
class VideoFiles:
    """Where the parts of one video go."""

    clip: Path
    sheet: Path
    latents: Path


@dataclass(frozen=True)
class MadeVideo:
    """What is known of a finished video."""

    latents_sha256: str
    denoise_seconds: float
    decode_seconds: float
    peak_memory: int | None
    """Bytes that torch held on the GPU at most; nothing on a CPU."""


class LatentTap:
    """Stores the initial noise and the latents of the chosen steps."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe
        self.writer: LatentWriter | None = None

    def on_start(self, start: Start) -> None:
        self.writer = LatentWriter(self.path, tuple(start.noise.shape[1:]), start.sigmas, start.timesteps, self.recipe)
        self.writer.write(0, _array(start.noise))

    def on_step(self, step: Step) -> None:
        if self.writer is not None:
            self.writer.write(step.index + 1, _array(step.latents))

    def on_end(self) -> None:
        if self.writer is not None:
            self.writer.finish()

    def on_failure(self) -> None:
        if self.writer is not None:
            self.writer.discard()


def make_video(pipeline: WanPipeline, recipe: Recipe, files: VideoFiles) -> Iterator[Step | MadeVideo]:
    """Make one video; yields each denoising step, and at last what was made.

    Whatever ends it early (an error, Ctrl-C, the consumer closing the generator) removes what was begun.
    """
    taps: list[Tap] = [LatentTap(files.latents, recipe)] if recipe.capture.latents else []
    device = pipeline._execution_device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    published: list[Path] = []
    began = time.perf_counter()
    try:
        start = prepare(pipeline, recipe)
        latents = start.noise
        for tap in taps:
            tap.on_start(start)
        for step in denoise(pipeline, recipe, start):
            for tap in taps:
                tap.on_step(step)
            latents = step.latents
            yield step
        denoised = time.perf_counter()
        digest = latents_digest(latents)
        sheet = ContactSheet(recipe.frames)
        tags = {
            "title": recipe.prompt,
            "comment": f"{recipe.model}, seed {recipe.seed}, {recipe.steps} steps of {recipe.sampler}, wantui",
            "wantui": recipe.to_json(),
            "wantui_made_with": json.dumps({**made_with(pipeline, recipe), "latents_sha256": digest}),
        }
        pixels = (np.rint(frame * 255).astype(np.uint8) for frame in decode_frames(pipeline, latents))
        write_mp4(files.clip, sheet.watch(pixels), recipe.fps, recipe.frames, tags)
        published.append(files.clip)
        sheet.write(files.sheet)
        published.append(files.sheet)
        for tap in taps:
            tap.on_end()
    except BaseException:
        for path in published:
            path.unlink(missing_ok=True)
        for tap in taps:
            tap.on_failure()
        raise
    yield MadeVideo(
        digest,
        denoised - began,
        time.perf_counter() - denoised,
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )


def latents_digest(latents: Tensor) -> str:
    """SHA-256 of the final latents' float32 bytes; equal digests are equal videos."""
    return hashlib.sha256(_array(latents).tobytes()).hexdigest()


def _array(latents: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.ascontiguousarray(latents[0].float().cpu().numpy())
