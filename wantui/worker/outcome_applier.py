"""Apply the outcome of an unfinished video to queue and manifest: cancelled, released, failed, or waiting."""

import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import assert_never

from wantui.errors import UserError
from wantui.formatting import format_bytes, format_count
from wantui.planning import Recipe
from wantui.planning.memory_plan import MEMORY_PLANS
from wantui.queue.queue import Queue
from wantui.queue.records import WAITING_STATES, Claim, VideoRow
from wantui.storage.disk_space import (
    MIN_FREE_FILES,
    DiskNeed,
    estimate_disk_need,
    has_free_files,
    query_free_disk_bytes,
    query_free_file_count,
)
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import VideoState
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.manifest_store import ManifestStoreCache
from wantui.worker.outcomes import (
    CancelVideo,
    FailVideo,
    LeaveSecondGpu,
    RefuseBatch,
    ReleaseVideo,
    TryNextPlan,
    VideoOutcome,
    WaitForDiskSpace,
    WaitForFolder,
)
from wantui.worker.pipeline_cache import PipelineCache
from wantui.worker.second_gpu import report_one_gpu


class OutcomeApplier:
    """Apply the outcomes of claimed videos; `transient_error_counts` counts transient errors by video.

    Args:
        pipeline_cache: pipeline cache, freed if an outcome requires it.
        worker_log: log of the worker, for errors of batch folders.
    """

    def __init__(
        self,
        queue: Queue,
        pipeline_cache: PipelineCache,
        manifest_stores: ManifestStoreCache,
        worker_log: logging.Logger,
    ) -> None:
        self.queue = queue
        self.pipeline_cache = pipeline_cache
        self.manifest_stores = manifest_stores
        self.worker_log = worker_log
        self.transient_error_counts: Counter[int] = Counter()

    def apply_outcome(
        self, outcome: VideoOutcome, claim: Claim, folder: BatchFolder, batch_log: logging.Logger
    ) -> None:
        """Update queue, manifest and pipeline cache for an outcome.

        Args:
            batch_log: log of the batch folder.
        """
        match outcome:
            case CancelVideo(frees_pipeline):
                self._cancel_video(claim)
                if frees_pipeline:
                    self.pipeline_cache.free_pipeline()
            case ReleaseVideo(reason, frees_pipeline, is_warning):
                batch_log.log(logging.WARNING if is_warning else logging.INFO, "%s: %s", claim.title, reason)
                self._release_video(claim, reason)
                if frees_pipeline:
                    self.pipeline_cache.free_pipeline()
            case FailVideo(error):
                self._fail_video(claim, folder, error, batch_log)
            case RefuseBatch(error, exit_code):
                self._refuse_batch(claim, folder, error, exit_code, batch_log)
            case TryNextPlan(error):
                self._try_next_plan(claim, folder, error, batch_log)
            case LeaveSecondGpu(reason):
                report_one_gpu(self.queue, claim, reason, batch_log)
                self._release_video(claim, "it continues on one GPU")
            case WaitForDiskSpace(reason, outside_folder):
                need = (
                    DiskNeed(0, 0)
                    if outside_folder
                    else estimate_disk_need(Recipe.model_validate_json(claim.recipe_json))
                )
                self._wait_for_disk(claim, outside_folder or folder.root, need, reason, batch_log)
            case WaitForFolder(unwritable_folder, reason):
                self._wait_for_folder(claim, unwritable_folder, reason, batch_log)
            case _:
                assert_never(outcome)

    def _refuse_batch(
        self, claim: Claim, folder: BatchFolder, error: str, exit_code: int, batch_log: logging.Logger
    ) -> None:
        batch_log.error("%s", error)
        with suppress(OSError, ManifestError):  # the queue records it in any case
            waiting_indices = {
                video.number for video in self.queue.list_videos(claim.batch_number) if video.state in WAITING_STATES
            }
            self.manifest_stores.get_store(folder).record_failures(sorted({claim.video_index, *waiting_indices}), error)
        self.queue.record_batch_failure(claim, error, exit_code)

    def count_transient_error(self, claim: Claim) -> int:
        """Count a transient error of a video, and return the count; a claim's `attempt` also counts pauses."""
        self.transient_error_counts[claim.video_id] += 1
        return self.transient_error_counts[claim.video_id]

    def _try_next_plan(self, claim: Claim, folder: BatchFolder, error: str, batch_log: logging.Logger) -> None:
        """Free memory and queue the video for the next memory plan; fail the video if there is no next plan."""
        next_plan = self.pipeline_cache.find_next_plan(claim)
        self.pipeline_cache.free_pipeline()
        if next_plan is None:
            chosen_plan = self.pipeline_cache.chosen_plan
            forced_text = ", as set (memory_settings.plan: auto tries others)" if chosen_plan.is_forced else ""
            self._fail_video(
                claim, folder, f"out of memory with plan {chosen_plan.plan.slug}{forced_text}: {error}", batch_log
            )
            return
        batch_log.warning("%s: out of memory (%s); trying plan %s or a smaller one", claim.title, error, next_plan.slug)
        earlier_slugs = [earlier.slug for earlier in MEMORY_PLANS[: MEMORY_PLANS.index(next_plan)]]
        if not self.queue.requeue_video_with_plan(claim, next_plan.slug, earlier_slugs, error):
            self._record_cancellation_in_manifest(claim)

    def wait_for_disk_space(
        self, claim: Claim, folder: Path, needed_bytes: int, details: str, batch_log: logging.Logger
    ) -> None:
        """Release the video, and hold its batch until `needed_bytes` bytes are free on the disk of `folder`.

        A folder outside the batch folder holds the whole queue: every batch may need it.
        """
        reason = f"not enough disk space in {folder} ({format_bytes(query_free_disk_bytes(folder))} free, {details})"
        batch_log.warning("%s: %s", claim.title, reason)
        self._hold_for_disk(claim, reason, folder, needed_bytes)
        self._release_video(claim, "not enough disk space")

    def _wait_for_disk(
        self, claim: Claim, folder: Path, disk_need: DiskNeed, reason: str, batch_log: logging.Logger
    ) -> None:
        """Hold the batch, or the queue, until the disk of a folder has enough free bytes or free inodes."""
        free_bytes = query_free_disk_bytes(folder)
        if free_bytes >= disk_need.total_bytes and not has_free_files(folder):
            self._wait_for_free_files(claim, folder, reason, batch_log)
            return
        # Require more than is free now, whatever the estimate: otherwise the same error would recur.
        min_bytes = free_bytes + disk_need.reserve_bytes
        details = (
            disk_need.description
            if disk_need.total_bytes >= min_bytes
            else f"{format_bytes(min_bytes)} needed; {reason}"
        )
        self.wait_for_disk_space(claim, folder, max(disk_need.total_bytes, min_bytes), details, batch_log)

    def _wait_for_free_files(self, claim: Claim, folder: Path, reason: str, batch_log: logging.Logger) -> None:
        hold_reason = (
            f"only {format_count(query_free_file_count(folder) or 0, 'more file')} can be created on the disk of "
            f"{folder} ({reason}: no free inodes; {MIN_FREE_FILES} are needed). Delete files there"
        )
        batch_log.warning("%s: %s", claim.title, hold_reason)
        self._hold_for_disk(claim, hold_reason, folder, None)
        self._release_video(claim, "the disk has too few free inodes for further files")

    def _hold_for_disk(self, claim: Claim, reason: str, folder: Path, needed_bytes: int | None) -> None:
        if folder == claim.batch_folder:
            self.queue.hold_batch(claim.batch_number, "disk", reason, folder, needed_bytes)
        else:
            self.queue.hold_queue("disk", reason, folder, needed_bytes)

    def _wait_for_folder(self, claim: Claim, unwritable_folder: Path, reason: str, batch_log: logging.Logger) -> None:
        batch_log.warning("%s: cannot write %s: %s", claim.title, unwritable_folder, reason)
        hold_reason = f"cannot write the output folder {unwritable_folder}: {reason}"
        self.queue.hold_batch(claim.batch_number, "folder", hold_reason, unwritable_folder)
        self._release_video(claim, "the output folder cannot be written")

    def record_reclaimed_video(self, video: VideoRow) -> None:
        """Record in the manifest that a video of this worker was cancelled while the queue could not be used."""
        batch = self.queue.get_batch(video.batch)
        if batch is not None and video.state == "cancelled":
            self._record_end_in_manifest(video.title, video.number, BatchFolder(batch.folder), "cancelled")

    def _release_video(self, claim: Claim, reason: str) -> None:
        """Return a video to the queue, or end it if a user has cancelled it."""
        if not self.queue.release_video(claim, reason):
            self._record_cancellation_in_manifest(claim)

    def _cancel_video(self, claim: Claim) -> None:
        self._record_cancellation_in_manifest(claim)
        self.queue.record_cancellation(claim)

    def _record_cancellation_in_manifest(self, claim: Claim) -> None:
        self._record_end_in_manifest(claim.title, claim.video_index, BatchFolder(claim.batch_folder), "cancelled")

    def _fail_video(self, claim: Claim, folder: BatchFolder, error: str, batch_log: logging.Logger) -> None:
        batch_log.error("%s failed: %s", claim.title, error)
        del self.transient_error_counts[claim.video_id]
        self._record_end_in_manifest(claim.title, claim.video_index, folder, "failed", error)
        self.queue.record_failure(claim, error)

    def _record_end_in_manifest(
        self, title: str, video_index: int, folder: BatchFolder, state: VideoState, error: str | None = None
    ) -> None:
        try:
            self.manifest_stores.get_store(folder).end_videos([video_index], state, error)
        except (OSError, UserError) as manifest_error:
            self.worker_log.warning("cannot record %s as %s in the manifest: %s", title, state, manifest_error)
