"""Record the outcome of an unfinished video in queue and manifest: cancelled, released, failed, or on hold."""

import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import assert_never

from wantui.errors import UserError
from wantui.formatting import format_bytes
from wantui.planning import Recipe
from wantui.planning.memory_plan import PLANS
from wantui.queue.queue import Queue
from wantui.queue.records import Claim
from wantui.storage.disk_space import disk_need, free_bytes
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import ManifestError, State
from wantui.storage.manifest_store import LatestManifestStore
from wantui.worker.outcomes import (
    Cancel,
    Fail,
    Outcome,
    RefuseBatch,
    Release,
    TryNextPlan,
    WaitForFolder,
    WaitForRoom,
)
from wantui.worker.pipeline_cache import PipelineCache


class OutcomeApplier:
    """Applies outcomes of claimed videos; `passing_errors` counts errors that may pass, by video.

    Args:
        pipelines: freed where an outcome asks for it; knows the memory plans that are left.
        log: for what concerns no batch folder.
    """

    def __init__(
        self, queue: Queue, pipelines: PipelineCache, manifests: LatestManifestStore, log: logging.Logger
    ) -> None:
        self.queue, self.pipelines, self.manifests, self.log = queue, pipelines, manifests, log
        self.passing_errors: Counter[int] = Counter()

    def apply(self, outcome: Outcome, claim: Claim, folder: BatchFolder, log: logging.Logger) -> None:
        """Bring queue, manifest and pipeline into the state that an outcome requires.

        Args:
            log: of the batch folder.
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
                self._degrade(claim, folder, error, log)
            case WaitForRoom(reason):
                need = disk_need(Recipe.model_validate_json(claim.recipe))
                # More than there is now, whatever was estimated: with less, this would happen again.
                least = free_bytes(folder.root) + need.spare
                details = need.text if need.total >= least else f"{format_bytes(least)} needed; {reason}"
                self.wait_for_room(claim, folder.root, max(need.total, least), details, log)
            case WaitForFolder(unwritable, reason):
                self._wait_for_folder(claim, unwritable, reason, log)
            case _:
                assert_never(outcome)

    def _refuse_batch(self, claim: Claim, folder: BatchFolder, error: str, exit_code: int, log: logging.Logger) -> None:
        log.error("%s", error)
        with suppress(OSError, ManifestError):  # the queue will know it
            waiting = {
                video.number for video in self.queue.videos(claim.batch) if video.state in ("queued", "interrupted")
            }
            self.manifests.of(folder).fail(sorted({claim.number, *waiting}), error)
        self.queue.fail_batch(claim, error, exit_code)

    def count_passing_error(self, claim: Claim) -> int:
        """Count an error that may pass, and return how many there were: attempts also count pauses and stops."""
        self.passing_errors[claim.video] += 1
        return self.passing_errors[claim.video]

    def _degrade(self, claim: Claim, folder: BatchFolder, error: str, log: logging.Logger) -> None:
        """Free memory and try the next plan, from the checkpoint; fail where there is none."""
        plan = self.pipelines.next_plan(claim)
        self.pipelines.free()
        if plan is None:
            chosen = self.pipelines.chosen
            asked = ", which was asked for (memory_settings.plan: auto tries others)" if chosen.is_forced else ""
            self._fail(claim, folder, f"out of memory, with {chosen.plan.slug}{asked}: {error}", log)
            return
        log.warning("%s: out of memory (%s); trying %s, or what needs less", claim.title, error, plan.slug)
        earlier = [before.slug for before in PLANS[: PLANS.index(plan)]]
        self.queue.degrade(claim, plan.slug, earlier, error)

    def wait_for_room(self, claim: Claim, root: Path, needed: int, details: str, log: logging.Logger) -> None:
        """Give the video back and hold the queue until `needed` bytes are free below `root`."""
        reason = f"no room is left in {root} ({format_bytes(free_bytes(root))} free, {details})"
        log.warning("%s: %s", claim.title, reason)
        self.queue.hold("disk", reason, root, needed)
        self.queue.release(claim, "no room on the disk")

    def _wait_for_folder(self, claim: Claim, unwritable: Path, reason: str, log: logging.Logger) -> None:
        log.warning("%s: cannot write %s: %s", claim.title, unwritable, reason)
        self.queue.hold("folder", f"cannot write the output folder {unwritable}: {reason}", unwritable)
        self.queue.release(claim, "the output folder cannot be written")

    def _cancel(self, claim: Claim, folder: BatchFolder) -> None:
        self._close(claim, folder, "cancelled")
        self.queue.cancelled(claim)

    def _fail(self, claim: Claim, folder: BatchFolder, error: str, log: logging.Logger) -> None:
        log.error("%s failed: %s", claim.title, error)
        del self.passing_errors[claim.video]
        self._close(claim, folder, "failed", error)
        self.queue.failed(claim, error)

    def _close(self, claim: Claim, folder: BatchFolder, state: State, error: str | None = None) -> None:
        try:
            self.manifests.of(folder).close([claim.number], state, error)
        except (OSError, UserError) as also:
            self.log.warning("the manifest of %s does not say that it is %s: %s", claim.title, state, also)
