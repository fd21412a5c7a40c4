"""Data of the Library screen: the list of batches, and the selected batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from textual.message import Message

from wantui.errors import UserError
from wantui.formatting import format_count
from wantui.storage.batch_index import BatchSummary
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, read_manifest

STATE_FILTERS = ("all", "failures", "unfinished")
"""Names of the filters, in the order in which the key cycles through them."""


@dataclass
class BatchFoldersScanned(Message):
    """The batch folders were scanned."""

    batch_summaries: list[BatchSummary]


@dataclass
class BatchLoaded(Message):
    """The manifest of a batch was read, or could not be read."""

    folder: Path
    manifest: Manifest | None
    error: str
    video_index: int | None
    """Index of the video to select; None keeps the cursor."""


def load_batch_manifest(folder: Path, video_index: int | None) -> BatchLoaded:
    """Read the manifest of a batch; an unreadable manifest yields a message with the error."""
    try:
        return BatchLoaded(folder, read_manifest(BatchFolder(folder)), "", video_index)
    except UserError as error:
        return BatchLoaded(folder, None, str(error), video_index)


def filter_batches(batches: Sequence[BatchSummary], search_words: str, state_filter: str) -> list[BatchSummary]:
    """Return the batches that match the words of a search and one of `STATE_FILTERS`."""
    return [
        batch
        for batch in batches
        if batch.matches_words(search_words)
        and (state_filter != "failures" or batch.count_videos("failed") or batch.fault)
        and (state_filter != "unfinished" or batch.count_videos("done") < batch.video_count)
    ]


def explain_empty_batch_list(batch_count: int, search_words: str, state_filter: str) -> str:
    """Return the text shown instead of an empty list; `batch_count` batches exist in total."""
    if not batch_count:
        return "no batches yet; press 1 to compose one"
    total_text = format_count(batch_count, "batch", "batches")
    if search_words:
        return f"no batch matches {search_words!r}; escape clears the search ({total_text} in total)"
    return f"no batch matches the filter {state_filter!r}; f changes the filter ({total_text} in total)"
