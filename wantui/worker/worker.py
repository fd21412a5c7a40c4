"""Generate the queue's videos for one device, one after another, and record them.

The pipeline is reused for videos of the same model. A video passes through the states of `WorkerState`; `outcomes`
decides what an error means for it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Literal

from wantui.formatting import format_count
from wantui.generation.errors import OverwrittenWeightsError
from wantui.generation.make_video import (
    FrameDecoded,
    GenerationRestarted,
    GenerationResumed,
    ReadyToFinalize,
    StepFinished,
    generate_frames,
)
from wantui.generation.preview import PreviewListener
from wantui.planning import Recipe
from wantui.queue.claims import LostClaimError, UserRequest
from wantui.queue.database import QueueUnavailableError, is_database_damage
from wantui.queue.events import (
    LoadingStageStarted,
    VideoDone,
    VideoLockedElsewhere,
    VideoRestarted,
    VideoResumed,
)
from wantui.queue.queue import Queue
from wantui.queue.records import Claim, VideoRow
from wantui.storage.disk_space import estimate_disk_need, query_free_disk_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import try_lock_video, unlock_video
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.manifest_store import ManifestStoreCache, find_video_entry, is_video_complete
from wantui.storage.output_errors import is_folder_deleted
from wantui.storage.video_files import find_video_files, make_video_folders, remove_temporary_files
from wantui.storage.write_checks import check_batch_writable
from wantui.worker.batch_logs import BatchLogs
from wantui.worker.finalize import PendingFinalization, record_finished_video
from wantui.worker.job import VideoInProgress, VideoJob
from wantui.worker.outcome_applier import OutcomeApplier
from wantui.worker.outcomes import (
    CancelledError,
    ErrorContext,
    FailVideo,
    LeaveSecondGpu,
    StoppedError,
    decide_outcome,
    describe_deleted_folder,
)
from wantui.worker.pipeline_cache import PipelineCache
from wantui.worker.pipelines import ENCODING_STAGE
from wantui.worker.second_gpu import report_one_gpu

WorkerState = Literal["idle", "claimed", "loading", "denoising", "decoding", "finalizing"]
GenerationEvent = GenerationResumed | GenerationRestarted | StepFinished | FrameDecoded | ReadyToFinalize
"""Events of generating a video."""
MAX_IDLE_SECONDS = 120.0
"""Seconds without a video after which a worker ends, to free its GPU memory."""
QUEUE_POLL_SECONDS = 0.2
LOCK_POLL_SECONDS = 1.0
"""Seconds between two attempts to lock a video that another engine is generating."""
DECODE_REPORT_INTERVAL_SECONDS = 0.5
"""Seconds between two decoding reports, each with a check for user requests."""
QUEUE_RETRY_SECONDS = 2.0
"""Seconds between two attempts to write to an unavailable queue."""


class Worker:
    """Generate videos on one device until asked to stop.

    Args:
        served_devices: device names in batches that this worker serves, such as `auto` and `cuda`.
        device_name: device name for torch.
        gpu_counts: numbers of GPUs per video that this worker serves.
        second_device_name: device name for torch of the second GPU; None for a worker with one device.
        one_gpu_reason: why it has one device; empty if no second GPU was free.
    """

    def __init__(
        self,
        queue: Queue,
        name: str,
        served_devices: Sequence[str],
        device_name: str,
        log: logging.Logger,
        gpu_counts: Sequence[int] = (1, 2),
        second_device_name: str | None = None,
        one_gpu_reason: str = "",
    ) -> None:
        self.queue = queue
        self.name = name
        self.served_devices = served_devices
        self.device_name = device_name
        self.log = log
        self.gpu_counts = gpu_counts
        self.pipeline_cache = PipelineCache(queue, device_name, second_device_name, one_gpu_reason)
        self.manifest_stores = ManifestStoreCache()
        self.outcome_applier = OutcomeApplier(queue, self.pipeline_cache, self.manifest_stores, log)
        self.finalization_executor = ThreadPoolExecutor(1, thread_name_prefix="finisher")
        self.pending_finalization: PendingFinalization | None = None
        """Video whose files are completed during the next video."""
        self.batch_logs = BatchLogs(log)
        self.is_stopping = False
        self.has_lost_second_gpu = False
        """True if the second GPU failed: this process must end."""
        self.state: WorkerState = "idle"
        """Current activity, logged with unexpected errors."""

    def run(self) -> None:
        """Work until asked to stop, or until idle for MAX_IDLE_SECONDS."""
        idle_since = time.monotonic()
        while not self.is_stopping:
            try:
                claim = self.queue.claim_next_video(self.name, self.served_devices, self.gpu_counts)
                if claim is not None:
                    self.run_claim(claim)
                    idle_since = time.monotonic()
                    continue
                self.finish_pending_video()
                # A video for another number of GPUs is for a process to which the engine gives them.
                is_for_others = self.queue.find_next_gpu_count(self.served_devices) not in (None, *self.gpu_counts)
            except QueueUnavailableError as error:
                if is_database_damage(error):
                    raise
                self._wait_for_queue(error)
                continue
            if time.monotonic() - idle_since > MAX_IDLE_SECONDS or is_for_others:
                return
            time.sleep(QUEUE_POLL_SECONDS)
        try:
            self.finish_pending_video()
        except QueueUnavailableError as error:
            self.log.warning("the queue cannot be used now: %s", error)

    def run_claim(self, claim: Claim) -> None:
        """Generate one video, or record the reason of its failure; `finish_pending_video` waits for its files.

        Raises:
            QueueUnavailableError: the queue cannot be written now; the video's files stay.
            Exception: this process can no longer use the GPU.
        """
        self.log.info("%s of %s, attempt %d", claim.title, claim.batch_folder.name, claim.attempt)
        try:
            self._run_with_batch_log(claim, self._generate_video)
        finally:
            self.state = "idle"

    def finish_pending_video(self) -> None:
        """Wait until the files of the previous video are complete, and record the video.

        Raises:
            QueueUnavailableError: the queue cannot be written now; the video will be decoded again.
        """
        pending, self.pending_finalization = self.pending_finalization, None
        self._finish_video(pending)

    def _finish_video(self, pending: PendingFinalization | None) -> None:
        if pending is None:
            return
        next_video_state, self.state = self.state, "finalizing"
        try:
            self._run_with_batch_log(pending.claim, partial(self._record_finished_video, pending))
        finally:
            self.state = next_video_state

    def _run_with_batch_log(
        self, claim: Claim, process_video: Callable[[Claim, BatchFolder, logging.Logger], None]
    ) -> None:
        """Call `process_video` with the log of the batch folder.

        Then unlock the video, unless its files are still pending.
        """
        folder = BatchFolder(claim.batch_folder)
        try:
            with self.batch_logs.open(claim.batch_number, folder) as batch_log:
                self._apply_error_outcome(claim, folder, batch_log, process_video)
        except LostClaimError as error:
            self.log.warning("%s", error)
        finally:
            if self.pending_finalization is None or self.pending_finalization.claim != claim:
                unlock_video(claim.batch_folder, claim.video_index)

    def _apply_error_outcome(
        self,
        claim: Claim,
        folder: BatchFolder,
        batch_log: logging.Logger,
        process_video: Callable[[Claim, BatchFolder, logging.Logger], None],
    ) -> None:
        """Call `process_video`, and apply the outcome of its error.

        Raises:
            BaseException: an error that must end the worker.
        """
        context = ErrorContext(
            folder.root,
            lambda: self.queue.is_cancelled(claim),
            lambda: self.pipeline_cache.find_next_plan(claim) is not None,
            lambda: self.outcome_applier.count_transient_error(claim),
        )
        outcome = None
        try:
            process_video(claim, folder, batch_log)
        except BaseException as error:
            outcome = decide_outcome(error, context)
            if outcome is None:
                raise
            if isinstance(outcome, FailVideo) and outcome.is_unexpected:
                self.log.exception("%s failed while the worker was %s", claim.title, self.state)
        if outcome is not None:  # outside of the except block, where the error would keep its tensors alive
            if isinstance(outcome, LeaveSecondGpu):  # first: the process must end even if the queue cannot be written
                self.has_lost_second_gpu = self.is_stopping = True
            self.outcome_applier.apply_outcome(outcome, claim, folder, batch_log)

    def _generate_video(self, claim: Claim, folder: BatchFolder, batch_log: logging.Logger) -> None:
        """Load the pipeline, denoise and decode a claimed video; its files are finalised later."""
        self.state = "claimed"
        job = self._prepare_job(claim, folder, batch_log)
        if job is None:
            return
        self.state = "loading"
        loaded_pipeline = self.pipeline_cache.get_pipeline(
            claim, job.recipe, job.manifest_store.read_manifest(), batch_log, self.finish_pending_video
        )
        self.pipeline_cache.prepare_second_gpu(claim, job.recipe, batch_log)
        self.state = "denoising"
        self.queue.emit_video_event(claim, LoadingStageStarted(stage=ENCODING_STAGE))
        in_progress = VideoInProgress(
            job, loaded_pipeline.pipeline, self.pipeline_cache.predict_video_seconds(job.recipe), time.monotonic()
        )
        preview_listener = PreviewListener(loaded_pipeline.latent_to_rgb, job.files.preview_path, batch_log)
        events = generate_frames(
            loaded_pipeline.pipeline, job.recipe, job.files, (preview_listener,), loaded_pipeline.embeddings
        )
        try:
            with closing(events):
                for event in events:
                    self._report_generation_event(event, in_progress, preview_listener, batch_log)
        except OverwrittenWeightsError:
            remove_temporary_files(job.files)  # the checkpoint was computed with the overwritten weights, too
            raise

    def _prepare_job(self, claim: Claim, folder: BatchFolder, batch_log: logging.Logger) -> VideoJob | None:
        """Lock the video and return its job; None if it is already complete, or disk space is missing.

        Raises:
            ManifestError: the batch folder is missing, or belongs to another batch.
            OSError: the batch folder cannot be written.
        """
        if is_folder_deleted(folder.root):
            raise ManifestError(describe_deleted_folder(folder.root))
        check_batch_writable(folder)
        manifest_store = self.manifest_stores.get_store(folder)
        manifest = manifest_store.read_manifest()
        entry = find_video_entry(manifest, claim.video_index, folder)
        recipe = Recipe.model_validate_json(claim.recipe_json)
        if entry.recipe.digest != recipe.digest:
            raise ManifestError(
                f"{folder.manifest_path} no longer belongs to the queued batch. To generate the "
                f"missing videos of its batch: wantui run --resume {folder.root}"
            )
        files = find_video_files(folder, entry.variation, entry.number, manifest.find_cell_folder(entry))
        if recipe.speed == "cached":  # a checkpoint does not contain the step cache
            files = replace(files, checkpoint_path=None)
        self._wait_for_video_lock(claim, batch_log)
        entry = find_video_entry(manifest_store.read_manifest(), claim.video_index, folder)
        if is_video_complete(folder, entry):
            # The manifest has the video as done; only the queue does not.
            remove_temporary_files(files)
            self.queue.record_done(claim, VideoDone(files=entry.files, seconds=entry.seconds, already_done=True))
            return None
        make_video_folders(files)
        if query_free_disk_bytes(folder.root) < (disk_need := estimate_disk_need(recipe)).total_bytes:
            self.outcome_applier.wait_for_disk_space(
                claim, folder.root, disk_need.total_bytes, disk_need.description, batch_log
            )
            return None
        return VideoJob(claim, recipe, files, manifest_store)

    def _report_generation_event(
        self,
        event: GenerationEvent,
        in_progress: VideoInProgress,
        preview_listener: PreviewListener,
        batch_log: logging.Logger,
    ) -> None:
        """Report progress of the current video to the queue, and check for user requests.

        Raises:
            CancelledError, StoppedError: a user or the engine stops the video.
            LostClaimError: this worker's claim has ended.
            OverwrittenWeightsError: a weight file was overwritten during generation.
        """
        claim = in_progress.job.claim
        match event:
            case StepFinished(step, live_metrics):
                self.pipeline_cache.check_not_overwritten()
                if in_progress.add_step(step):
                    report_one_gpu(self.queue, claim, "the second GPU ran out of memory", batch_log)
                user_request = self.queue.record_step(
                    claim,
                    in_progress.make_step_event(
                        step, live_metrics, preview_listener.wrote_preview, self.pipeline_cache.chosen_plan
                    ),
                )
                self._raise_if_stop_requested(
                    user_request, f"after {step.evaluation_index + 1} of {step.evaluation_count} steps"
                )
                if self.pending_finalization is not None and self.pending_finalization.finished_video.done():
                    self.finish_pending_video()
            case FrameDecoded(decoded_count, frame_count):
                self.state = "decoding"
                if decoded_count == frame_count:
                    self.pipeline_cache.check_not_overwritten()
                if (
                    time.monotonic() - in_progress.reported_at >= DECODE_REPORT_INTERVAL_SECONDS
                    or decoded_count == frame_count
                ):
                    in_progress.reported_at = time.monotonic()
                    self._raise_if_stop_requested(
                        self.queue.record_decoded_frames(claim, decoded_count, frame_count),
                        f"after {decoded_count} of {frame_count} frames",
                    )
            case GenerationResumed(steps_done):
                batch_log.info("%s resumes after %s", claim.title, format_count(steps_done, "step"))
                self.queue.emit_video_event(claim, VideoResumed(steps_done=steps_done))
            case GenerationRestarted(reason):
                batch_log.warning("%s restarts from the first step: cannot use its checkpoint: %s", claim.title, reason)
                self.queue.emit_video_event(claim, VideoRestarted(reason=reason))
            case ReadyToFinalize(finish):
                self.state = "finalizing"
                files_done = self.finalization_executor.submit(finish)
                previous_finalization = self.pending_finalization
                self.pending_finalization = in_progress.make_pending_finalization(
                    self.pipeline_cache.chosen_plan, files_done
                )
                self._finish_video(previous_finalization)
                if claim.attempt > 1:  # if finalising killed the last worker, no other video must be blamed for it
                    self.finish_pending_video()

    def _wait_for_video_lock(self, claim: Claim, batch_log: logging.Logger) -> None:
        """Lock the video; wait while another engine generates it."""
        if try_lock_video(claim.batch_folder, claim.video_index):
            return
        self.finish_pending_video()  # releases the previous video's lock, for which the other engine may wait
        batch_log.warning("another engine is generating %s; waiting for it", claim.title)
        self.queue.emit_video_event(claim, VideoLockedElsewhere())
        while not try_lock_video(claim.batch_folder, claim.video_index):
            self._raise_if_stop_requested(self.queue.check_claim(claim), "while another engine generated it")
            time.sleep(LOCK_POLL_SECONDS)

    def _record_finished_video(
        self, pending: PendingFinalization, claim: Claim, folder: BatchFolder, batch_log: logging.Logger
    ) -> None:
        record_finished_video(self.queue, pending, folder)
        del self.outcome_applier.transient_error_counts[claim.video_id]
        batch_log.info("%s done in %.1f s", claim.title, time.monotonic() - pending.started_at)

    def _raise_if_stop_requested(self, request: UserRequest, moment: str) -> None:
        """Raise CancelledError or StoppedError if a user or the engine asks to stop the video."""
        if request == "cancel":
            raise CancelledError
        if request == "pause" or self.is_stopping:
            raise StoppedError(f"{'paused' if request == 'pause' else 'the engine stops'} {moment}")

    def _wait_for_queue(self, error: Exception) -> None:
        """Wait until the queue can be written again; then release this worker's videos, to be resumed."""
        pending, self.pending_finalization = self.pending_finalization, None
        if pending is not None:  # complete its files before another worker may resume the video
            with suppress(Exception):
                pending.wait_for_files()
            unlock_video(pending.claim.batch_folder, pending.claim.video_index)
        reclaimed_videos: list[VideoRow] = []
        while not self.is_stopping:
            self.log.warning("the queue cannot be used now: %s", error)
            time.sleep(QUEUE_RETRY_SECONDS)
            try:
                reclaimed_videos += self.queue.reclaim_videos(self.name, str(error), counts_crash=False)
                for video in reclaimed_videos:
                    self.outcome_applier.record_reclaimed_video(video)
                return
            except QueueUnavailableError as later_error:
                if is_database_damage(later_error):
                    raise
                error = later_error
