"""Messages of the application: updates from its threads, and requests between screens."""

from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from wantui.gpu.monitor import GpuSample
from wantui.tui.queue_watcher import QueueSnapshot, VideoPages
from wantui.tui.settings import TuiSettings


@dataclass
class QueueChanged(Message):
    """The queue changed."""

    snapshot: QueueSnapshot


@dataclass
class GpuSampled(Message):
    """The GPUs and the machine were sampled."""

    sample: GpuSample
    worker_bytes: int | None = None
    """Resident memory of all our workers in bytes; None with a GPU, and without a running worker."""


@dataclass
class PagesChanged(Message):
    """Watched videos were read."""

    pages: VideoPages


@dataclass
class ShowBatch(Message):
    """Show a batch in the library."""

    folder: Path
    video_index: int | None
    """Index in the manifest of the video to select, or None."""


@dataclass
class AnalyseBatch(Message):
    """Show the trajectories of a batch on the Analysis screen."""

    folder: Path
    video_index: int | None
    """Index in the manifest of the video to select, or None."""


@dataclass
class DraftReady(Message):
    """Show the stored draft in Compose."""

    queues_demo: bool = False
    """True to queue the draft at once as the demo."""


@dataclass
class SettingsChanged(Message):
    """The file tui.yaml changed."""

    settings: TuiSettings


@dataclass
class SettingsInvalid(Message):
    """The file tui.yaml changed, and its new content is invalid."""

    reason: str
