"""Slow jobs of the Library screen: `wantui rerun`, queueing missing videos, moving to the trash."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from textual import on, work
from textual.message import Message

from wantui.batches.enqueue import enqueue_missing_videos
from wantui.environment import build_python_command
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.storage.batch_index import move_to_trash
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest
from wantui.tui.queue_errors import describe_queue_error
from wantui.tui.screens.base import BaseScreen


@dataclass
class TaskFinished(Message):
    """Outcome of a background job."""

    outcome: str
    is_error: bool
    needs_rescan: bool = False
    toast_title: str = ""


class LibraryJobsMixin(BaseScreen):
    """Base of the Library screen that runs slow jobs in the background and reports their outcome."""

    def rescan_folders(self) -> None:
        """Scan the batch folders again after one was moved to the trash."""
        raise NotImplementedError

    @work(group="rerun", exit_on_error=False)
    async def rerun_clip(self, clip_path: Path) -> None:
        """Run `wantui rerun` in a subprocess and report its output."""
        import asyncio

        process = await asyncio.create_subprocess_exec(
            *build_python_command("-m", "wantui", "rerun", str(clip_path)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, error_output = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        outcome = (output or error_output).decode(errors="replace").strip()
        self.post_message(TaskFinished(outcome, process.returncode != 0, toast_title="rerun"))

    @work(thread=True, group="missing", exit_on_error=False)
    def queue_missing_videos(self, folder: Path, manifest: Manifest) -> None:
        """Queue the missing videos of a batch, as `wantui run --resume` does."""
        try:
            queued_batch = enqueue_missing_videos(self.wantui_app.state_dir, BatchFolder(folder), manifest)
            if queued_batch is None:
                self.post_message(TaskFinished(f"{folder.name} has no missing videos", False))
                return
            self.post_message(
                TaskFinished(
                    f"batch {queued_batch.batch_id}: {format_count(queued_batch.video_count, 'video')}",
                    False,
                    toast_title="videos queued",
                )
            )
            self.wantui_app.start_engine()
        except UserError as error:
            self.post_message(TaskFinished(str(error), True))
        except Exception as error:
            self.post_message(TaskFinished(describe_queue_error(error), True))

    @work(thread=True, group="trash", exit_on_error=False)
    def move_folder_to_trash(self, folder: Path) -> None:
        """Move a batch folder to the trash; slow across file systems."""
        try:
            move_to_trash(folder)
            self.post_message(TaskFinished(f"moved {folder.name} to the trash", False, needs_rescan=True))
        except UserError as error:
            self.post_message(TaskFinished(str(error), True))

    @on(TaskFinished)
    def _notify_outcome(self, message: TaskFinished) -> None:
        severity: Literal["error", "information"] = "error" if message.is_error else "information"
        self.notify(message.outcome, severity=severity, title=message.toast_title, timeout=12)
        if message.needs_rescan:
            self.rescan_folders()
