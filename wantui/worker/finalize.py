"""Finalisation of a video: a thread completes its files during the next video, then its manifest entry is updated."""

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wantui.checksums import compute_file_sha256
from wantui.generation.make_video import GenerationResult
from wantui.planning import Recipe
from wantui.planning.memory_plan import ChosenPlan
from wantui.queue.events import VideoDone
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoEntry, to_relative_paths
from wantui.storage.manifest_store import ManifestStore, find_video_entry
from wantui.storage.video_files import VideoFiles, remove_temporary_files


@dataclass(frozen=True)
class PendingFinalization:
    """A decoded video whose files a thread is completing."""

    claim: Claim
    files: VideoFiles
    manifest_store: ManifestStore
    chosen_plan: ChosenPlan
    predicted_seconds: float | None
    """Predicted seconds for the video."""
    device_type: str
    step_seconds: float | None
    """Typical seconds of a step; None if no step was timed."""
    started_at: float
    """Monotonic time of the start, seconds."""
    finished_video: Future[GenerationResult]
    gpu_count: int = 1
    """Number of GPUs that shared the passes of a guided step."""
    gpu_name: str | None = None
    """Name of the GPU; None on a CPU."""

    def wait_for_files(self) -> GenerationResult:
        """Wait until the files are complete; return the finished video.

        Raises:
            Exception: the files could not be written.
        """
        while True:
            with suppress(KeyboardInterrupt):  # SIGINT is meant for a step; the next step checks for requests
                return self.finished_video.result()


def record_finished_video(queue: Queue, pending: PendingFinalization, folder: BatchFolder) -> None:
    """Wait for the files of a video, enter them and its results in the manifest, and record it as done in the queue.

    Raises:
        LostClaimError: the worker's claim has ended.
        Exception: the files could not be written.
    """
    claim = pending.claim
    finished_video = pending.wait_for_files()
    queue.check_claim(claim)
    recipe = find_video_entry(pending.manifest_store.read_manifest(), claim.video_index, folder).recipe
    # Read the files before the manifest is locked: other processes wait for the lock.
    written_files = _measure_video_files(recipe, folder, pending.files)
    write_results = partial(
        _write_manifest_entry, pending=pending, finished_video=finished_video, written_files=written_files
    )
    pending.manifest_store.edit_video_entry(claim.video_index, write_results)
    remove_temporary_files(pending.files)
    entry = pending.manifest_store.read_manifest().videos[claim.video_index]
    queue.record_done(claim, _make_done_event(entry, pending))


@dataclass(frozen=True)
class _WrittenFiles:
    """The files of a finished video, as in its manifest entry."""

    paths_by_kind: dict[str, str]
    """Paths relative to the batch folder, by kind."""
    sha256_by_kind: dict[str, str]
    """Checksums by kind."""
    total_bytes: int
    """Total size."""


def _measure_video_files(recipe: Recipe, folder: BatchFolder, files: VideoFiles) -> _WrittenFiles:
    """Return the checksums and sizes of a finished video's files; large files take seconds."""
    paths_by_kind = {"clip": files.clip_path, "sheet": files.sheet_path}
    for kind, _ in recipe.capture_requests:
        if kind.name in files.capture_paths:
            paths_by_kind[kind.file_key] = files.capture_paths[kind.name]
    return _WrittenFiles(
        to_relative_paths(folder, paths_by_kind),
        {kind: compute_file_sha256(path) for kind, path in paths_by_kind.items() if path.is_file()},
        sum(_measure_bytes(path) for path in paths_by_kind.values()),
    )


def _write_manifest_entry(
    entry: VideoEntry, pending: PendingFinalization, finished_video: GenerationResult, written_files: _WrittenFiles
) -> None:
    """Write the results of a video into its manifest entry."""
    entry.state, entry.error = "done", None
    entry.files = written_files.paths_by_kind
    entry.sha256 = written_files.sha256_by_kind
    entry.bytes = written_files.total_bytes
    entry.seconds = {
        "denoise": round(finished_video.denoise_seconds, 3),
        "decode": round(finished_video.decode_seconds, 3),
    }
    if pending.step_seconds is not None:
        entry.seconds["step"] = round(pending.step_seconds, 4)
    entry.peak_memory = finished_video.peak_memory_bytes
    entry.gpus = pending.gpu_count if pending.gpu_count > 1 else None
    entry.second_peak_memory = finished_video.second_peak_memory_bytes if pending.gpu_count > 1 else None
    entry.memory_plan = pending.chosen_plan.plan.slug
    if pending.predicted_seconds is not None:
        entry.predicted["seconds"] = round(pending.predicted_seconds, 3)
    if pending.chosen_plan.working_bytes is not None:
        entry.predicted["peak_memory"] = pending.chosen_plan.working_bytes
    entry.latents_sha256 = finished_video.latents_sha256


def _make_done_event(entry: VideoEntry, pending: PendingFinalization) -> VideoDone:
    """Return the event of a finished video with the results in its manifest entry."""
    return VideoDone(
        files=entry.files,
        seconds=entry.seconds,
        memory_plan=pending.chosen_plan.plan.slug,
        peak_memory=entry.peak_memory,
        device=pending.device_type,
        gpu=pending.gpu_name,
        gpus=entry.gpus,
        second_peak_memory=entry.second_peak_memory,
    )


def _measure_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
    return path.stat().st_size
