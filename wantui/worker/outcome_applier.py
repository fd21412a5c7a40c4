"""Apply the outcome of an unfinished video to queue and manifest: cancelled, released, failed, or on hold."""

import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import assert_never

from wantui.errors import UserError
from wantui.formatting import format_bytes
from wantui.planning import Recipe
from wantui.planning.memory_plan import MEMORY_PLANS
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.disk_space import estimate_disk_need, query_free_disk_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import ManifestError, VideoState
from wantui.storage.manifest_store import ManifestStoreCache
from wantui.worker.outcomes import (
    Cancel,
    Fail,
    Outcome,
    RefuseBatch,
    Release,
    TryNextPlan,
    WaitForDiskSpace,
    WaitForFolder,
)
from wantui.worker.pipeline_cache import PipelineCache


class OutcomeApplier:
    """Apply the outcomes of claimed videos; `transient_errors` counts transient errors by video.

    Args:
        pipelines: pipeline cache, freed if an outcome requires it.
        log: log of the worker, for errors of batch folders.
    """

    def __init__(
        self, queue: Queue, pipelines: PipelineCache, manifests: ManifestStoreCache, log: logging.Logger
    ) -> None:
        self.queue, self.pipelines, self.manifests, self.log = queue, pipelines, manifests, log
        self.transient_errors: Counter[int] = Counter()

    def apply(self, outcome: Outcome, claim: Claim, folder: BatchFolder, log: logging.Logger) -> None:
        """Update queue, manifest and pipeline cache for an outcome.

        Args:
            log: log of the batch folder.
        """
        match outcome:
            case Cancel(frees_pipeline):
                self._cancel(claim, folder)
                if frees_pipeline:
                    self.pipelines.free()
            case Release(reason, frees_pipeline, is_warning):
                log.log(logging.WARNING if is_warning else logging.INFO, "%s: %s", claim.title, reason)
                self.queue.release(claim, reason)
                if frees_pipeline:
                    self.pipelines.free()
            case Fail(error):
                self._fail(claim, folder, error, log)
            case RefuseBatch(error, exit_code):
                self._refuse_batch(claim, folder, error, exit_code, log)
            case TryNextPlan(error):
                self._try_next_plan(claim, folder, error, log)
            case WaitForDiskSpace(reason):
                need = estimate_disk_need(Recipe.model_validate_json(claim.recipe))
                # Require more than is free now, whatever the estimate: otherwise the same error would recur.
                min_bytes = query_free_disk_bytes(folder.root) + need.reserve_bytes
                details = need.description if need.total >= min_bytes else f"{format_bytes(min_bytes)} needed; {reason}"
                self.wait_for_disk_space(claim, folder.root, max(need.total, min_bytes), details, log)
            case WaitForFolder(unwritable, reason):
                self._wait_for_folder(claim, unwritable, reason, log)
            case _:
                assert_never(outcome)

    def _refuse_batch(self, claim: Claim, folder: BatchFolder, error: str, exit_code: int, log: logging.Logger) -> None:
        log.error("%s", error)
        with suppress(OSError, ManifestError):  # the queue records it in any case
            waiting = {
                video.number for video in self.queue.videos(claim.batch) if video.state in ("queued", "interrupted")
            }
            self.manifests.for_folder(folder).record_failures(sorted({claim.number, *waiting}), error)
        self.queue.record_batch_failure(claim, error, exit_code)

    def count_transient_error(self, claim: Claim) -> int:
        """Count a transient error of a video, and return the count; a claim's `attempt` also counts pauses."""
        self.transient_errors[claim.video] += 1
        return self.transient_errors[claim.video]

    def _try_next_plan(self, claim: Claim, folder: BatchFolder, error: str, log: logging.Logger) -> None:
        """Free memory and queue the video for the next memory plan; fail the video if there is no next plan."""
        plan = self.pipelines.find_next_plan(claim)
        self.pipelines.free()
        if plan is None:
            chosen = self.pipelines.chosen
            forced = ", as set (memory_settings.plan: auto tries others)" if chosen.is_forced else ""
            self._fail(claim, folder, f"out of memory with plan {chosen.plan.slug}{forced}: {error}", log)
            return
        log.warning("%s: out of memory (%s); trying plan %s or a smaller one", claim.title, error, plan.slug)
        earlier_plans = [earlier.slug for earlier in MEMORY_PLANS[: MEMORY_PLANS.index(plan)]]
        self.queue.requeue_with_plan(claim, plan.slug, earlier_plans, error)

    def wait_for_disk_space(self, claim: Claim, root: Path, needed: int, details: str, log: logging.Logger) -> None:
        """Release the video, and put the queue on hold until `needed` bytes are free on the disk of `root`."""
        reason = f"not enough disk space in {root} ({format_bytes(query_free_disk_bytes(root))} free, {details})"
        log.warning("%s: %s", claim.title, reason)
        self.queue.hold("disk", reason, root, needed)
        self.queue.release(claim, "not enough disk space")

    def _wait_for_folder(self, claim: Claim, unwritable: Path, reason: str, log: logging.Logger) -> None:
        log.warning("%s: cannot write %s: %s", claim.title, unwritable, reason)
        self.queue.hold("folder", f"cannot write the output folder {unwritable}: {reason}", unwritable)
        self.queue.release(claim, "the output folder cannot be written")

    def _cancel(self, claim: Claim, folder: BatchFolder) -> None:
        self._close(claim, folder, "cancelled")
        self.queue.record_cancellation(claim)

    def _fail(self, claim: Claim, folder: BatchFolder, error: str, log: logging.Logger) -> None:
        log.error("%s failed: %s", claim.title, error)
        del self.transient_errors[claim.video]
        self._close(claim, folder, "failed", error)
        self.queue.record_failure(claim, error)

    def _close(self, claim: Claim, folder: BatchFolder, state: VideoState, error: str | None = None) -> None:
        try:
            self.manifests.for_folder(folder).close_videos([claim.number], state, error)
        except (OSError, UserError) as manifest_error:
            self.log.warning("cannot record %s as %s in the manifest: %s", claim.title, state, manifest_error)
