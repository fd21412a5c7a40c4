"""Make the videos that the queue has for one device, one after another, and record them.

The pipeline stays from one video to the next of the same model. A video goes through the states of `WorkerState`; what
becomes of it when something raises an error is in `outcomes`.
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
from wantui.generation.make_video import Decoded, ReadyToFinalize, Restarted, Resumed, StepMade, begin_video
from wantui.generation.placement import device_of, memory_figures
from wantui.generation.preview import PreviewTap
from wantui.planning import Recipe
from wantui.queue.claims import LostClaimError, UserRequest
from wantui.queue.database import Unavailable
from wantui.queue.events import StepDone, VideoDone, VideoLockedElsewhere, VideoRestarted, VideoResumed
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.disk_space import disk_need, free_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import check_writable, try_lock_video, unlock_video
from wantui.storage.log_files import close_log, open_log
from wantui.storage.manifest import ManifestError
from wantui.storage.manifest_store import LatestManifestStore, entry_of, is_complete
from wantui.storage.output_errors import is_gone
from wantui.storage.video_files import discard, linked_folder, make_folders, video_files
from wantui.worker.finalize import PendingFinalization, enter, measure
from wantui.worker.job import Job, Making
from wantui.worker.outcome_applier import OutcomeApplier
from wantui.worker.outcomes import (
    CancelledError,
    Fail,
    Situation,
    StoppedError,
    deleted,
    outcome_of,
)
from wantui.worker.pipeline_cache import PipelineCache

WorkerState = Literal["idle", "claimed", "loading", "denoising", "decoding", "finalizing"]
Event = Resumed | Restarted | StepMade | Decoded | ReadyToFinalize
"""Events of making a video."""
IDLE_SECONDS = 120.0
"""Seconds of idleness after which a worker ends, and frees the GPU's memory."""
POLL_SECONDS = 0.2
OTHERS_SECONDS = 1.0
"""Seconds between two checks whether another engine still renders a video."""
DECODE_SECONDS = 0.5
"""Seconds between two reports of decoding and two checks for user requests."""
QUEUE_SECONDS = 2.0
"""Seconds between two attempts to write an unavailable queue."""


class Worker:
    """Renders videos on one device until asked to stop.

    Args:
        devices: what a batch may call this worker's device.
        device: what torch calls it.
    """

    def __init__(self, queue: Queue, name: str, devices: Sequence[str], device: str, log: logging.Logger) -> None:
        self.queue, self.name, self.devices, self.device, self.log = queue, name, devices, device, log
        self.pipelines = PipelineCache(queue, device)
        self.manifests = LatestManifestStore()
        self.outcomes = OutcomeApplier(queue, self.pipelines, self.manifests, log)
        self.finisher = ThreadPoolExecutor(1, thread_name_prefix="finisher")
        self.ending: PendingFinalization | None = None
        """Video whose files are completed during the next video."""
        self.open_logs: dict[str, logging.Logger] = {}
        """Open log of each batch, by its logger's name."""
        self.stopping = False
        self.state: WorkerState = "idle"
        """What the worker does now; the log of an unexpected error says it."""

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
            except Unavailable as error:
                self._wait_for_queue(error)
                continue
            if time.monotonic() - idle_since > IDLE_SECONDS:
                return
            time.sleep(POLL_SECONDS)
        try:
            self.finish_pending()
        except Unavailable as error:
            self.log.warning("the queue cannot be used now: %s", error)

    def run_claim(self, claim: Claim) -> None:
        """Render one video, or record why it was not rendered; `finish_pending` waits for its files.

        Raises:
            Unavailable: the queue cannot be written now; what was made of the video stays.
            Exception: the GPU is lost to this process.
        """
        self.log.info("%s of %s, attempt %d", claim.title, claim.folder.name, claim.attempt)
        try:
            self._run_logged(claim, self._generate)
        finally:
            self.state = "idle"

    def finish_pending(self) -> None:
        """Wait until the files of the latest video are complete, and record it.

        Raises:
            Unavailable: the queue cannot be written now; the video will be decoded again.
        """
        ending, self.ending = self.ending, None
        self._finish_pending(ending)

    def _finish_pending(self, ending: PendingFinalization | None) -> None:
        if ending is None:
            return
        of_next_video, self.state = self.state, "finalizing"
        try:
            self._run_logged(ending.claim, partial(self._record, ending))
        finally:
            self.state = of_next_video

    def _run_logged(self, claim: Claim, make: Callable[[Claim, BatchFolder, logging.Logger], None]) -> None:
        """Handle a claim; every error leaves the video in the matching state."""
        folder, name = BatchFolder(claim.folder), f"batch.{claim.batch}"
        log = self.open_logs.get(name)  # of the video that is being made, while the one before it is settled
        # Path.is_dir raises where a folder cannot be looked at (EACCES, ESTALE): that is the guarded part's to say.
        opened = log is None and os.path.isdir(folder.root)  # noqa: PTH112
        if opened and (link := linked_folder(folder.root, folder.log)) is not None:
            self.log.warning("%s is a symbolic link; the log of this batch is in this file", link)
            opened = False
        if opened:
            log = self.open_logs[name] = open_log(name, folder.log)
        try:
            self._handle_errors(claim, folder, log or self.log, make)
        except LostClaimError as error:
            self.log.warning("%s", error)
        finally:
            if self.ending is None or self.ending.claim != claim:
                unlock_video(claim.folder, claim.number)
            if opened:
                close_log(self.open_logs.pop(name))

    def _handle_errors(
        self,
        claim: Claim,
        folder: BatchFolder,
        log: logging.Logger,
        make: Callable[[Claim, BatchFolder, logging.Logger], None],
    ) -> None:
        """Call `make`, and leave the video in the state that its error asks for.

        Raises:
            BaseException: an error that must end the worker.
        """
        situation = Situation(
            folder.root,
            lambda: self.queue.is_cancelled(claim),
            lambda: self.pipelines.next_plan(claim) is not None,
            lambda: self.outcomes.count_passing_error(claim),
        )
        outcome = None
        try:
            make(claim, folder, log)
        except BaseException as error:
            outcome = outcome_of(error, situation)
            if outcome is None:
                raise
            if isinstance(outcome, Fail) and outcome.is_unexpected:
                self.log.exception("%s failed while the worker was %s", claim.title, self.state)
        if outcome is not None:  # only now, when the error and the tensors that it holds are gone
            self.outcomes.apply(outcome, claim, folder, log)

    def _generate(self, claim: Claim, folder: BatchFolder, log: logging.Logger) -> None:
        """Take a claimed video through its states: loading, denoising, decoding; its files are finalized later."""
        self.state = "claimed"
        job = self._begin(claim, folder, log)
        if job is None:
            return
        self.state = "loading"
        loaded = self.pipelines.get(claim, job.recipe, job.record.read(), log, self.finish_pending)
        self.state = "denoising"
        making = Making(job, loaded.pipeline, self.pipelines.predicted_seconds(job.recipe), time.monotonic())
        preview = PreviewTap(loaded.colours, job.files.preview, log)
        events = begin_video(loaded.pipeline, job.recipe, job.files, (preview,), loaded.embeddings)
        try:
            with closing(events):
                for event in events:
                    self._heed_event(event, making, preview, log)
        except OverwrittenWeightsError:
            discard(job.files)  # its checkpoint is of other weights, too
            raise

    def _begin(self, claim: Claim, folder: BatchFolder, log: logging.Logger) -> Job | None:
        """Return the job, once no other engine renders it and there is disk space; None if there is no work.

        Raises:
            ManifestError: the folder is gone, or is that of another batch.
            OSError: it cannot be written.
        """
        if is_gone(folder.root):
            raise ManifestError(deleted(folder.root))
        check_writable(folder)
        record = self.manifests.of(folder)
        entry = entry_of(record.read(), claim.number, folder)
        recipe = Recipe.model_validate_json(claim.recipe)
        if entry.recipe.digest != recipe.digest:
            raise ManifestError(
                f"{folder.manifest} is that of another batch, and not of the one that was queued. To make what it "
                f"lacks: wantui run --resume {folder.root}"
            )
        files = video_files(folder, entry.variation, entry.number)
        if recipe.speed == "cached":  # what its cache holds between two steps is not in a checkpoint
            files = replace(files, checkpoint=None)
        self._wait_for_others(claim, log)
        entry = entry_of(record.read(), claim.number, folder)
        if is_complete(folder, entry):
            # Only the queue had not heard of it.
            discard(files)
            self.queue.done(claim, VideoDone(files=entry.files, seconds=entry.seconds, already_done=True))
            return None
        make_folders(files)
        if free_bytes(folder.root) < (need := disk_need(recipe)).total:
            self.outcomes.wait_for_room(claim, folder.root, need.total, need.text, log)
            return None
        return Job(claim, recipe, files, record)

    def _heed_event(self, event: Event, making: Making, preview: PreviewTap, log: logging.Logger) -> None:
        """Report progress of the current video to the queue, and obey the users' requests.

        Raises:
            CancelledError, StoppedError: a user, or the engine, wants it left.
            LostClaimError: the video is not this worker's any more.
            OverwrittenWeightsError: the weights have changed while it was made.
        """
        claim = making.job.claim
        match event:
            case StepMade(step, figures):
                self.pipelines.check_not_overwritten()
                making.step_seconds.append(step.seconds)
                request = self.queue.step(claim, self._step_done(step, figures, making, preview))
                self._raise_if_requested(request, f"after step {step.index + 1} of {step.count}")
                if self.ending is not None and self.ending.files_done.done():
                    self.finish_pending()
            case Decoded(frames, count):
                self.state = "decoding"
                if frames == count:
                    self.pipelines.check_not_overwritten()
                if time.monotonic() - making.reported_at >= DECODE_SECONDS or frames == count:
                    making.reported_at = time.monotonic()
                    self._raise_if_requested(
                        self.queue.decoded(claim, frames, count), f"after frame {frames} of {count}"
                    )
            case Resumed(steps_done):
                log.info("%s resumes after step %d", claim.title, steps_done)
                self.queue.emit_of(claim, VideoResumed(steps_done=steps_done))
            case Restarted(reason):
                log.warning("%s starts again: its checkpoint cannot be used: %s", claim.title, reason)
                self.queue.emit_of(claim, VideoRestarted(reason=reason))
            case ReadyToFinalize(finish):
                self.state = "finalizing"
                before, self.ending = self.ending, making.ending(self.pipelines.chosen, self.finisher.submit(finish))
                self._finish_pending(before)
                if claim.attempt > 1:  # had its end been what a worker died of, it would be blamed alone now
                    self.finish_pending()

    def _step_done(self, step: Step, figures: dict[str, float], making: Making, preview: PreviewTap) -> StepDone:
        values: dict[str, Any] = {name: round(value, 6) for name, value in figures.items()}
        if preview.is_new:
            values["preview"] = str(making.job.files.preview)
        values |= memory_figures(device_of(making.pipeline))
        if self.pipelines.chosen.working_bytes is not None:
            values["predicted"] = self.pipelines.chosen.working_bytes
        return StepDone(
            step=step.index + 1, steps=step.count, seconds=round(step.seconds, 4), sigma=step.sigma, **values
        )

    def _wait_for_others(self, claim: Claim, log: logging.Logger) -> None:
        """Wait until no other engine renders this video."""
        if try_lock_video(claim.folder, claim.number):
            return
        self.finish_pending()  # lest both wait for each other
        log.warning("%s is being made by another engine; waiting for it", claim.title)
        self.queue.emit_of(claim, VideoLockedElsewhere())
        while not try_lock_video(claim.folder, claim.number):
            self._raise_if_requested(self.queue.check(claim), "while another engine made it")
            time.sleep(OTHERS_SECONDS)

    def _record(self, ending: PendingFinalization, claim: Claim, folder: BatchFolder, log: logging.Logger) -> None:
        made = ending.wait()
        self.queue.check(claim)
        recipe = entry_of(ending.record.read(), claim.number, folder).recipe
        written = measure(recipe, folder, ending.files)  # before the manifest is locked: others wait for it
        ending.record.change(claim.number, partial(enter, ending=ending, made=made, written=written))
        discard(ending.files)
        entry = ending.record.read().videos[claim.number]
        done = VideoDone(
            files=entry.files,
            seconds=entry.seconds,
            memory_plan=ending.chosen.plan.slug,
            peak_memory=entry.peak_memory,
            device=ending.device,
        )
        self.queue.done(claim, done)
        del self.outcomes.passing_errors[claim.video]
        log.info("%s done in %.1f s", claim.title, time.monotonic() - ending.began)

    def _raise_if_requested(self, request: UserRequest, moment: str) -> None:
        """Leave the video where users, or the engine, want it left."""
        if request == "cancel":
            raise CancelledError
        if request == "pause" or self.stopping:
            raise StoppedError(f"{'paused' if request == 'pause' else 'the engine stops'} {moment}")

    def _wait_for_queue(self, error: Exception) -> None:
        """Wait until the queue can be written again; then release the current video, to be resumed from its state."""
        ending, self.ending = self.ending, None
        if ending is not None:  # its files must not change under whoever makes it again
            with suppress(Exception):
                ending.wait()
            unlock_video(ending.claim.folder, ending.claim.number)
        while not self.stopping:
            self.log.warning("the queue cannot be used now: %s", error)
            time.sleep(QUEUE_SECONDS)
            try:
                self.queue.reclaim(self.name, str(error), blame=False)
                return
            except Unavailable as again:
                error = again
