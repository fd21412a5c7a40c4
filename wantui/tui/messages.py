"""Messages of the application: what its threads publish, and what one screen asks of another."""

from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from wantui.gpu.monitor import GpuSample
from wantui.tui.queue_watcher import QueueSnapshot, VideoPages


@dataclass
class QueueChanged(Message):
    """The queue differs from the snapshot before."""

    snapshot: QueueSnapshot


@dataclass
class GpuSampled(Message):
    """The GPUs and the machine were read."""

    sample: GpuSample


@dataclass
class PagesChanged(Message):
    """Videos that a screen watches were read."""

    pages: VideoPages


@dataclass
class ShowBatch(Message):
    """Show a batch in the library, with the cursor on one of its videos (its index in the manifest) if one is given."""

    folder: Path
    video: int | None


@dataclass
class DraftReady(Message):
    """Show the changed draft in Compose; with `and_queue`, queue it as the demo at once."""

    and_queue: bool = False
