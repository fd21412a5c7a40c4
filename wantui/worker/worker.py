"""Generate the queue's videos for one device, one after another, and record them.

The pipeline is reused for videos of the same model. A video passes through the states of `WorkerState`; `outcomes`
decides what an error means for it.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from wantui.generation.denoise import Step
from wantui.generation.errors import OverwrittenWeightsError
from wantui.generation.make_video import Decoded, ReadyToFinalize, Restarted, Resumed, StepFinished, begin_video
from wantui.generation.placement import find_device, read_memory_stats
from wantui.generation.preview import PreviewTap
from wantui.planning import Recipe
from wantui.queue.claims import LostClaimError, UserRequest
from wantui.queue.database import QueueUnavailableError
from wantui.queue.events import StepDone, VideoDone, VideoLockedElsewhere, VideoRestarted, VideoResumed
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.disk_space import estimate_disk_need, query_free_disk_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import check_writable, try_lock_video, unlock_video
from wantui.storage.log_files import close_log, open_log
from wantui.storage.manifest import ManifestError
from wantui.storage.manifest_store import ManifestStoreCache, find_entry, is_complete
from wantui.storage.output_errors import is_folder_deleted
from wantui.storage.video_files import find_linked_folder, make_video_folders, remove_temporary_files, video_files
from wantui.worker.finalize import PendingFinalization, measure_files, write_entry
from wantui.worker.job import Job, VideoInProgress
from wantui.worker.outcome_applier import OutcomeApplier
from wantui.worker.outcomes import (
    CancelledError,
    ErrorContext,
    Fail,
    StoppedError,
    decide_outcome,
    deleted_folder_error,
)
from wantui.worker.pipeline_cache import PipelineCache

WorkerState = Literal["idle", "claimed", "loading", "denoising", "decoding", "finalizing"]
Event = Resumed | Restarted | StepFinished | Decoded | ReadyToFinalize
"""Events of generating a video."""
IDLE_SECONDS = 120.0
"""Seconds without a video after which a worker ends, which frees its GPU memory."""
POLL_SECONDS = 0.2
LOCK_POLL_SECONDS = 1.0
"""Seconds between two attempts to lock a video that another engine is generating."""
DECODE_REPORT_SECONDS = 0.5
"""Seconds between two decoding reports, each with a check for user requests."""
QUEUE_RETRY_SECONDS = 2.0
"""Seconds between two attempts to write to an unavailable queue."""


class Worker:
    """Generate videos on one device until asked to stop.

    Args:
        devices: device names in batches that this worker serves, such as `auto` and `cuda`.
        device: device name for torch.
    """

    def __init__(self, queue: Queue, name: str, devices: Sequence[str], device: str, log: logging.Logger) -> None:
        self.queue, self.name, self.devices, self.device, self.log = queue, name, devices, device, log
        self.pipelines = PipelineCache(queue, device)
        self.manifests = ManifestStoreCache()
        self.outcomes = OutcomeApplier(queue, self.pipelines, self.manifests, log)
        self.finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")
        self.pending: PendingFinalization | None = None
        """Video whose files are completed during the next video."""
        self.open_logs: dict[str, logging.Logger] = {}
        """Open batch logs, by logger name."""
        self.stopping = False
        self.state: WorkerState = "idle"
        """Current activity, logged with unexpected errors."""

    def run(self) -> None:
        """Work until asked to stop, or until idle for IDLE_SECONDS."""
        idle_since = time.monotonic()
        while not self.stopping:
            try:
                claim = self.queue.claim(self.name, self.devices)
                if claim is not None:
                    self.run_claim(claim)
                    idle_since = time.monotonic()
                    continue
                self.finish_pending()
            except QueueUnavailableError as error:
                self._wait_for_queue(error)
                continue
            if time.monotonic() - idle_since > IDLE_SECONDS:
                return
            time.sleep(POLL_SECONDS)
        try:
            self.finish_pending()
        except QueueUnavailableError as error:
            self.log.warning("the queue cannot be used now: %s", error)

    def run_claim(self, claim: Claim) -> None:
        """Generate one video, or record the reason of its failure; `finish_pending` waits for its files.

        Raises:
            QueueUnavailableError: the queue cannot be written now; the video's files stay.
            Exception: this process can no longer use the GPU.
        """
        self.log.info("%s of %s, attempt %d", claim.title, claim.folder.name, claim.attempt)
        try:
            self._run_with_log(claim, self._generate_video)
        finally:
            self.state = "idle"

    def finish_pending(self) -> None:
        """Wait until the files of the previous video are complete, and record the video.

        Raises:
            QueueUnavailableError: the queue cannot be written now; the video will be decoded again.
        """
        pending, self.pending = self.pending, None
        self._finish_pending(pending)

    def _finish_pending(self, pending: PendingFinalization | None) -> None:
        if pending is None:
            return
        next_video_state, self.state = self.state, "finalizing"
        try:
            self._run_with_log(pending.claim, partial(self._record_finished, pending))
        finally:
            self.state = next_video_state

    def _run_with_log(self, claim: Claim, generate: Callable[[Claim, BatchFolder, logging.Logger], None]) -> None:
        """Call `generate` with the log of the batch folder; unlock the video unless its files are still pending."""
        folder, name = BatchFolder(claim.folder), f"batch.{claim.batch}"
        log = self.open_logs.get(name)  # already open if the current video is of the same batch
        # Path.is_dir raises for an unreadable folder (EACCES, ESTALE); `_handle_errors` must report that instead.
        opens_log = log is None and os.path.isdir(folder.root)  # noqa: PTH112
        if opens_log and (link := find_linked_folder(folder.root, folder.log)) is not None:
            self.log.warning("%s is a symbolic link; this worker's log replaces the batch log", link)
            opens_log = False
        if opens_log:
            log = self.open_logs[name] = open_log(name, folder.log)
        try:
            self._handle_errors(claim, folder, log or self.log, generate)
        except LostClaimError as error:
            self.log.warning("%s", error)
        finally:
            if self.pending is None or self.pending.claim != claim:
                unlock_video(claim.folder, claim.number)
            if opens_log:
                close_log(self.open_logs.pop(name))

    def _handle_errors(
        self,
        claim: Claim,
        folder: BatchFolder,
        log: logging.Logger,
        generate: Callable[[Claim, BatchFolder, logging.Logger], None],
    ) -> None:
        """Call `generate`, and apply the outcome of its error.

        Raises:
            BaseException: an error that must end the worker.
        """
        context = ErrorContext(
            folder.root,
            lambda: self.queue.is_cancelled(claim),
            lambda: self.pipelines.find_next_plan(claim) is not None,
            lambda: self.outcomes.count_transient_error(claim),
        )
        outcome = None
        try:
            generate(claim, folder, log)
        except BaseException as error:
            outcome = decide_outcome(error, context)
            if outcome is None:
                raise
            if isinstance(outcome, Fail) and outcome.is_unexpected:
                self.log.exception("%s failed while the worker was %s", claim.title, self.state)
        if outcome is not None:  # outside of the except block, where the error would keep its tensors alive
            self.outcomes.apply(outcome, claim, folder, log)

    def _generate_video(self, claim: Claim, folder: BatchFolder, log: logging.Logger) -> None:
        """Load the pipeline, denoise and decode a claimed video; its files are finalized later."""
        self.state = "claimed"
        job = self._prepare_job(claim, folder, log)
        if job is None:
            return
        self.state = "loading"
        loaded = self.pipelines.get(claim, job.recipe, job.manifest_store.read(), log, self.finish_pending)
        self.state = "denoising"
        in_progress = VideoInProgress(
            job, loaded.pipeline, self.pipelines.predict_seconds(job.recipe), time.monotonic()
        )
        preview = PreviewTap(loaded.latent_to_rgb, job.files.preview, log)
        events = begin_video(loaded.pipeline, job.recipe, job.files, (preview,), loaded.embeddings)
        try:
            with closing(events):
                for event in events:
                    self._handle_event(event, in_progress, preview, log)
        except OverwrittenWeightsError:
            remove_temporary_files(job.files)  # the checkpoint was computed with the overwritten weights, too
            raise

    def _prepare_job(self, claim: Claim, folder: BatchFolder, log: logging.Logger) -> Job | None:
        """Lock the video and return its job; None if it is already complete, or disk space is missing.

        Raises:
            ManifestError: the batch folder is missing, or belongs to another batch.
            OSError: the batch folder cannot be written.
        """
        if is_folder_deleted(folder.root):
            raise ManifestError(deleted_folder_error(folder.root))
        check_writable(folder)
        manifest_store = self.manifests.for_folder(folder)
        entry = find_entry(manifest_store.read(), claim.number, folder)
        recipe = Recipe.model_validate_json(claim.recipe)
        if entry.recipe.digest != recipe.digest:
            raise ManifestError(
                f"{folder.manifest} belongs to another batch than the queued one. To generate its missing videos: "
                f"wantui run --resume {folder.root}"
            )
        files = video_files(folder, entry.variation, entry.number)
        if recipe.speed == "cached":  # a checkpoint does not contain the step cache
            files = replace(files, checkpoint=None)
        self._wait_for_video_lock(claim, log)
        entry = find_entry(manifest_store.read(), claim.number, folder)
        if is_complete(folder, entry):
            # The manifest has the video as done; only the queue does not.
            remove_temporary_files(files)
            self.queue.record_done(claim, VideoDone(files=entry.files, seconds=entry.seconds, already_done=True))
            return None
        make_video_folders(files)
        if query_free_disk_bytes(folder.root) < (need := estimate_disk_need(recipe)).total:
            self.outcomes.wait_for_disk_space(claim, folder.root, need.total, need.description, log)
            return None
        return Job(claim, recipe, files, manifest_store)

    def _handle_event(
        self, event: Event, in_progress: VideoInProgress, preview: PreviewTap, log: logging.Logger
    ) -> None:
        """Report progress of the current video to the queue, and check for user requests.

        Raises:
            CancelledError, StoppedError: a user or the engine stops the video.
            LostClaimError: this worker's claim has ended.
            OverwrittenWeightsError: a weight file was overwritten during generation.
        """
        claim = in_progress.job.claim
        match event:
            case StepFinished(step, figures):
                self.pipelines.check_not_overwritten()
                in_progress.step_seconds.append(step.seconds)
                request = self.queue.record_step(claim, self._make_step_event(step, figures, in_progress, preview))
                self._raise_if_requested(request, f"after step {step.index + 1} of {step.count}")
                if self.pending is not None and self.pending.files_done.done():
                    self.finish_pending()
            case Decoded(frames, count):
                self.state = "decoding"
                if frames == count:
                    self.pipelines.check_not_overwritten()
                if time.monotonic() - in_progress.reported_at >= DECODE_REPORT_SECONDS or frames == count:
                    in_progress.reported_at = time.monotonic()
                    self._raise_if_requested(
                        self.queue.record_decoded_frames(claim, frames, count), f"after frame {frames} of {count}"
                    )
            case Resumed(steps_done):
                log.info("%s resumes after step %d", claim.title, steps_done)
                self.queue.emit_video_event(claim, VideoResumed(steps_done=steps_done))
            case Restarted(reason):
                log.warning("%s restarts from the first step: cannot use its checkpoint: %s", claim.title, reason)
                self.queue.emit_video_event(claim, VideoRestarted(reason=reason))
            case ReadyToFinalize(finish):
                self.state = "finalizing"
                files_done = self.finisher.submit(finish)
                previous, self.pending = (
                    self.pending,
                    in_progress.pending_finalization(self.pipelines.chosen, files_done),
                )
                self._finish_pending(previous)
                if claim.attempt > 1:  # if finalizing killed the last worker, no other video must be blamed for it
                    self.finish_pending()

    def _make_step_event(
        self, step: Step, figures: dict[str, float], in_progress: VideoInProgress, preview: PreviewTap
    ) -> StepDone:
        values: dict[str, Any] = {name: round(value, 6) for name, value in figures.items()}
        if preview.is_new:
            values["preview"] = str(in_progress.job.files.preview)
        values |= read_memory_stats(find_device(in_progress.pipeline))
        if self.pipelines.chosen.working_bytes is not None:
            values["predicted"] = self.pipelines.chosen.working_bytes
        return StepDone(
            step=step.index + 1, steps=step.count, seconds=round(step.seconds, 4), sigma=step.sigma, **values
        )

    def _wait_for_video_lock(self, claim: Claim, log: logging.Logger) -> None:
        """Lock the video; wait while another engine generates it."""
        if try_lock_video(claim.folder, claim.number):
            return
        self.finish_pending()  # releases the previous video's lock, for which the other engine may wait
        log.warning("another engine is generating %s; waiting for it", claim.title)
        self.queue.emit_video_event(claim, VideoLockedElsewhere())
        while not try_lock_video(claim.folder, claim.number):
            self._raise_if_requested(self.queue.check_claim(claim), "while another engine generated it")
            time.sleep(LOCK_POLL_SECONDS)

    def _record_finished(
        self, pending: PendingFinalization, claim: Claim, folder: BatchFolder, log: logging.Logger
    ) -> None:
        finished_video = pending.wait_for_files()
        self.queue.check_claim(claim)
        recipe = find_entry(pending.manifest_store.read(), claim.number, folder).recipe
        # Read the files before the manifest is locked: other processes wait for the lock.
        written_files = measure_files(recipe, folder, pending.files)
        write = partial(write_entry, pending=pending, finished_video=finished_video, written_files=written_files)
        pending.manifest_store.edit_entry(claim.number, write)
        remove_temporary_files(pending.files)
        entry = pending.manifest_store.read().videos[claim.number]
        done = VideoDone(
            files=entry.files,
            seconds=entry.seconds,
            memory_plan=pending.chosen.plan.slug,
            peak_memory=entry.peak_memory,
            device=pending.device,
        )
        self.queue.record_done(claim, done)
        del self.outcomes.transient_errors[claim.video]
        log.info("%s done in %.1f s", claim.title, time.monotonic() - pending.started_at)

    def _raise_if_requested(self, request: UserRequest, moment: str) -> None:
        """Raise CancelledError or StoppedError if a user or the engine asks to stop the video."""
        if request == "cancel":
            raise CancelledError
        if request == "pause" or self.stopping:
            raise StoppedError(f"{'paused' if request == 'pause' else 'the engine stops'} {moment}")

    def _wait_for_queue(self, error: Exception) -> None:
        """Wait until the queue can be written again; then release this worker's videos, to be resumed."""
        pending, self.pending = self.pending, None
        if pending is not None:  # complete its files before another worker may resume the video
            with suppress(Exception):
                pending.wait_for_files()
            unlock_video(pending.claim.folder, pending.claim.number)
        while not self.stopping:
            self.log.warning("the queue cannot be used now: %s", error)
            time.sleep(QUEUE_RETRY_SECONDS)
            try:
                self.queue.reclaim_videos(self.name, str(error), counts_crash=False)
                return
            except QueueUnavailableError as again:
                error = again
