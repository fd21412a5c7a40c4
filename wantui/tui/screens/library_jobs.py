"""Slow jobs of the library: clips in pixels, `wantui rerun`, missing videos, the trash."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from textual import on, work
from textual.message import Message
from textual.worker import get_current_worker

from wantui.batches.enqueue import queue_missing
from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.storage.batch_index import move_to_trash
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest
from wantui.tui.lent_terminal import TerminalNotLentError, lent_terminal
from wantui.tui.queue_faults import queue_fault
from wantui.tui.screens.base import BaseScreen
from wantui.tui.screens.player import read_clip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wantui.tui.graphics import Protocol


@dataclass
class TaskFinished(Message):
    """The outcome of something that took a while."""

    text: str
    is_fault: bool
    reload: bool = False
    title: str = ""


@dataclass
class Decoded(Message):
    """A clip was decoded, to be played in pixels."""

    frames: "list[NDArray[np.uint8]]"
    fps: float
    title: str
    protocol: "Protocol"


class LibraryJobs(BaseScreen):
    """Runner of jobs off the drawing thread; notifies of their result."""

    def look_again(self) -> None:
        """Look through the folders: there is one less."""
        raise NotImplementedError

    @work(thread=True, exclusive=True, group="pixels", exit_on_error=False)
    def decode_for_pixels(self, path: Path, fps: float, title: str, protocol: "Protocol") -> None:
        """Decode a clip, off the thread that draws."""
        try:
            frames = list(read_clip(path))
        except UserError as error:
            self.post_message(TaskFinished(str(error), True))
            return
        if not get_current_worker().is_cancelled:
            self.post_message(Decoded(frames, fps, title, protocol))

    @on(Decoded)
    def _decoded(self, message: Decoded) -> None:
        from wantui.tui.graphics import play_on_terminal

        if not message.frames:
            self.notify(f"cannot play {message.title}: the clip holds no frames", severity="error")
            return
        try:
            with lent_terminal(self.app):
                play_on_terminal(message.frames, message.fps, message.title, message.protocol)
        except TerminalNotLentError:
            self.notify("this needs a terminal; p plays in half blocks", severity="warning")
        except Exception as error:  # the picture is of a foreign clip; whatever went wrong, the screens go on
            self.notify(f"cannot play {message.title} in pixels: {error}. Play in half blocks: p", severity="error")

    @work(group="rerun", exit_on_error=False)
    async def rerun(self, clip: Path) -> None:
        """Run `wantui rerun`, whose output is authoritative."""
        import asyncio

        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wantui", "rerun", str(clip)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            raise
        text = (out or err).decode(errors="replace").strip()
        self.post_message(TaskFinished(text, process.returncode != 0, title="rerun"))

    @work(thread=True, group="missing", exit_on_error=False)
    def queue_missing(self, folder: Path, manifest: Manifest) -> None:
        """Queue the missing videos of a batch, as `wantui run --resume` does."""
        try:
            made = queue_missing(self.wantui.state_dir, BatchFolder(folder), manifest)
            if made is None:
                self.post_message(TaskFinished(f"nothing of {folder.name} is missing", False))
                return
            self.post_message(
                TaskFinished(f"batch {made.number}: {format_count(made.videos, 'video')}", False, title="queued")
            )
            self.wantui.start_engine()
        except UserError as error:
            self.post_message(TaskFinished(str(error), True))
        except Exception as error:
            self.post_message(TaskFinished(queue_fault(error), True))

    @work(thread=True, group="trash", exit_on_error=False)
    def trash(self, folder: Path) -> None:
        """Move a folder; across file systems that takes a while."""
        try:
            move_to_trash(folder)
            self.post_message(TaskFinished(f"{folder.name} is in the trash", False, reload=True))
        except UserError as error:
            self.post_message(TaskFinished(str(error), True))

    @on(TaskFinished)
    def _said(self, message: TaskFinished) -> None:
        severity: Literal["error", "information"] = "error" if message.is_fault else "information"
        self.notify(message.text, severity=severity, title=message.title, timeout=12)
        if message.reload:
            self.look_again()
