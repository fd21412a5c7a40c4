"""Data of the Monitor screen: the files that it reads, and the previews of the selected video."""

import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual.message import Message

from wantui.errors import UserError
from wantui.file_state import FileState
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import read_manifest
from wantui.storage.preview_files import (
    MAX_STORED_PREVIEWS,
    list_preview_steps,
    make_preview_folder_path,
    make_step_preview_path,
)
from wantui.tui.pictures import read_strip_frames, shrink_picture
from wantui.tui.series_colours import assign_variation_colours

if TYPE_CHECKING:
    from wantui.tui.pictures import Picture

MAX_LOG_TAIL_BYTES = 20_000
"""Bytes read from the end of a log."""
MAX_FRAME_SIDE = 160
"""Maximum width and height of a frame in memory, in pixels: more than the pane shows."""
MAX_CLIP_FRAMES, MAX_DECODED_FRAMES = 48, 600
"""Maximum number of shown frames, and of decoded frames, per finished clip."""
DEFAULT_CLIP_FPS, MAX_SHOWN_FPS = 8.0, 8.0
"""Frames per second of a clip without a readable recipe, and maximum shown."""


@dataclass(frozen=True)
class LogTail:
    """Last lines of a log."""

    version: tuple[Path, FileState]
    """Path and state of the file."""
    lines: list[str]


@dataclass(frozen=True)
class ClipFrames:
    """Frames of a finished clip, evenly spaced and shrunk."""

    frames: "list[Picture]"
    fps: float
    error: str = ""
    """Reason why the clip cannot be shown; otherwise empty."""


@dataclass(frozen=True)
class MonitorFilesRequest:
    """Files that the screen needs next."""

    log_path: Path | None = None
    known_log_version: tuple[Path, FileState] | None = None
    """Version of the log on the screen, as in `LogTail`."""
    video_id: int = 0
    preview_path: Path | None = None
    preview_step: int = 0
    """Step of the latest strip."""
    known_steps: frozenset[int] = frozenset()
    """Steps whose strips are already in memory."""
    clip_path: Path | None = None
    clip_video_id: int = 0
    batch_folders: tuple[tuple[int, Path], ...] = ()
    """Number and folder of each batch whose colours are not known yet."""


@dataclass
class MonitorFilesRead(Message):
    """The requested files were read; a file that is missing or damaged is left out."""

    request: MonitorFilesRequest
    frames_by_step: "dict[int, list[Picture]]"
    log_tail: LogTail | None
    clip: ClipFrames | None
    colours_by_batch: dict[int, tuple[str | None, ...]] = field(default_factory=dict)
    """Theme colour of each video's variation, for the videos of `batch_folders`; None for those without one."""


@dataclass(frozen=True)
class ShownPictures:
    """Pictures of one video, with the texts around them."""

    video_id: int | None
    pictures: "list[Picture]"
    fps: float
    title: str
    """Title of the pane, which names the video."""
    caption: Text


class PreviewHistory:
    """Previews of one video by step; the latest step is shown until the user picks an earlier step."""

    def __init__(self) -> None:
        self.video_id: int | None = None
        self.frames_by_step: dict[int, list[Picture]] = {}
        self.picked_step: int | None = None
        """Picked earlier step; None follows the latest."""
        self.last_known_step: int | None = None
        """Step that the list shows; previews of later steps wait until it shows them too. None for no limit."""

    def show_video(self, video_id: int | None) -> None:
        """Forget the previews of the previous video."""
        if video_id != self.video_id:
            self.video_id, self.frames_by_step, self.picked_step, self.last_known_step = video_id, {}, None, None

    def add_frames(self, frames_by_step: "dict[int, list[Picture]]") -> None:
        """Add the previews of steps; if there are too many, drop every second preview."""
        self.frames_by_step = dict(sorted({**self.frames_by_step, **frames_by_step}.items()))
        if len(self.frames_by_step) > 2 * MAX_STORED_PREVIEWS:
            kept_steps = {*self.step_numbers[::2], self.step_numbers[-1], self.picked_step}
            self.frames_by_step = {step: frames for step, frames in self.frames_by_step.items() if step in kept_steps}

    def drop_steps_after(self, step_number: int) -> None:
        """Drop the previews of steps that a resumed video renders again."""
        self.frames_by_step = {step: frames for step, frames in self.frames_by_step.items() if step <= step_number}
        if self.picked_step not in self.frames_by_step:
            self.picked_step = None

    @property
    def step_numbers(self) -> list[int]:
        """Return the numbers of the steps whose previews can be shown, in order."""
        limit = self.last_known_step
        return [step for step in self.frames_by_step if limit is None or step <= limit]

    @property
    def shown_step(self) -> int | None:
        """Return the picked step, or else the latest step; None without previews."""
        return self.picked_step or max(self.step_numbers, default=None)

    def move(self, offset: int) -> None:
        """Pick the step `offset` previews later; after moving to the latest step, follow new previews."""
        steps = self.step_numbers
        if steps and (shown_step := self.shown_step) is not None:
            index = max(0, min(len(steps) - 1, steps.index(shown_step) + offset))
            self.picked_step = None if index == len(steps) - 1 else steps[index]


def read_requested_files(request: MonitorFilesRequest) -> MonitorFilesRead:
    """Read the requested files; this takes long on a slow disk."""
    log_tail = None if request.log_path is None else read_log_tail(request.log_path, request.known_log_version)
    frames_by_step = {} if request.preview_path is None else read_previews(request)
    clip = None if request.clip_path is None else read_clip(request.clip_path)
    colours_by_batch = {
        batch_id: colour_names
        for batch_id, folder in request.batch_folders
        if (colour_names := read_variation_colours(folder)) is not None
    }
    return MonitorFilesRead(request, frames_by_step, log_tail, clip, colours_by_batch)


def read_variation_colours(folder: Path) -> tuple[str | None, ...] | None:
    """Return the theme colour of each video's variation in a batch; None if the manifest is unreadable."""
    try:
        manifest = read_manifest(BatchFolder(folder))
    except UserError:
        return None
    colours = assign_variation_colours(manifest.variations)
    return tuple(colours.get(manifest.variations[entry.variation].id) for entry in manifest.videos)


def read_previews(request: MonitorFilesRequest) -> "dict[int, list[Picture]]":
    """Read the latest strip, and the strips of earlier steps that are not yet in memory."""
    assert request.preview_path is not None
    frames_by_step: dict[int, list[Picture]] = {}
    folder = make_preview_folder_path(request.preview_path)
    missing_steps = [step for step in list_preview_steps(folder) if step not in request.known_steps]
    paths_by_step = {step: make_step_preview_path(folder, step) for step in missing_steps[-MAX_STORED_PREVIEWS:]}
    paths_by_step[request.preview_step] = request.preview_path
    for step, path in paths_by_step.items():
        if frames := read_strip_frames(path):
            frames_by_step[step] = [shrink_picture(frame, MAX_FRAME_SIDE) for frame in frames]
    return frames_by_step


def read_clip(path: Path) -> ClipFrames:
    """Read a finished clip: at most `MAX_CLIP_FRAMES` frames, evenly spaced."""
    from wantui.storage.mp4 import read_clip_tags, read_frames

    try:
        fps = float(read_clip_tags(path)[0].fps)
    except UserError:
        fps = DEFAULT_CLIP_FPS
    stride = max(1, round(fps / MAX_SHOWN_FPS))
    try:
        frames = [
            shrink_picture(frame, MAX_FRAME_SIDE) for frame in islice(read_frames(path), 0, MAX_DECODED_FRAMES, stride)
        ]
    except UserError as error:
        return ClipFrames([], fps, f"{error}")
    except Exception as error:  # a damaged clip can raise anything, such as UnicodeDecodeError or ValueError
        return ClipFrames([], fps, f"cannot read {path}: {type(error).__name__}: {error}")
    if not frames:
        return ClipFrames([], fps, f"cannot read {path}: the clip contains no frames")
    extra_stride = -(-len(frames) // MAX_CLIP_FRAMES)
    return ClipFrames(frames[::extra_stride], fps / stride / extra_stride)


def read_log_tail(path: Path, known_version: tuple[Path, FileState] | None) -> LogTail | None:
    """Read the last lines of a log; return None if it is unchanged, missing or not a regular file."""
    try:
        if not path.is_file():  # opening a pipe would never return
            return None
        with path.open("rb") as file:
            state = FileState.from_status(os.fstat(file.fileno()))
            if (path, state) == known_version:
                return None
            file.seek(max(0, state.size_bytes - MAX_LOG_TAIL_BYTES))
            text = file.read(MAX_LOG_TAIL_BYTES).decode(errors="replace")
    except OSError:
        return None
    return LogTail((path, state), text.splitlines())
