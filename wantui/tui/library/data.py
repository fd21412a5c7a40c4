"""Data of the Library screen: the list of batches, and the selected batch. All of it is read on other threads."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from textual.message import Message

from wantui.errors import UserError
from wantui.file_state import MISSING_FILE, FileState, read_file_state
from wantui.formatting import format_count
from wantui.storage.batch_index import BatchSummary
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, read_manifest
from wantui.storage.marks import BatchMarks, read_marks
from wantui.storage.similarity_file import BatchSimilarity, read_similarity
from wantui.tui.library.batch_facts import BatchFacts, collect_batch_facts
from wantui.tui.library.search import FoundVideo, score_batch, suggest_setting_names
from wantui.tui.library.video_matrix import MatrixView, VideoMatrix, arrange_matrix

STATE_FILTERS = ("all", "failures", "unfinished", "starred", "unrejected")
"""Names of the filters, in the order in which the key cycles through them. The last two also choose videos."""


@dataclass
class BatchFoldersScanned(Message):
    """The batch folders were scanned."""

    batch_summaries: list[BatchSummary]
    star_counts: Mapping[Path, int]
    """Number of starred videos by batch folder, for batches that have any."""


@dataclass
class VideosFound(Message):
    """The videos that match a search were found."""

    search_words: str
    videos: list[FoundVideo]


@dataclass
class BatchLoaded(Message):
    """The manifest and marks of a batch, or the reason why its manifest cannot be read."""

    folder: Path
    manifest: Manifest | None
    error: str
    video_index: int | None
    """Index of the video to select; None keeps the cursor."""
    marks: BatchMarks = field(default_factory=BatchMarks)
    grid: VideoMatrix | None = None
    facts: BatchFacts | None = None
    state_filter: str = "all"
    similarity: BatchSimilarity = field(default_factory=BatchSimilarity)


@dataclass
class MarksChanged(Message):
    """This application changed marks of a batch, or could not change some of them."""

    folder: Path
    marks: BatchMarks | None
    """Marks after the last change; None if none succeeded."""
    error: str = ""


@dataclass
class MarksWritten(Message):
    """The background thread has tried to write all changed marks."""


@dataclass(frozen=True)
class LibraryRow:
    """A row of the batch list: a batch, or one of its videos that a search found."""

    batch: BatchSummary
    found_video: FoundVideo | None = None


def load_batch(folder: Path, video_index: int | None, state_filter: str, view: MatrixView) -> BatchLoaded:
    """Read a batch and arrange its videos; if the manifest is unreadable, return a message with the error."""
    try:
        manifest, marks = read_manifest(BatchFolder(folder)), read_marks(BatchFolder(folder))
    except UserError as error:
        return BatchLoaded(folder, None, str(error), video_index)
    similarity = read_similarity(folder, manifest)
    grid = arrange_matrix(folder, manifest, marks, state_filter, view, similarity, video_index)
    facts = collect_batch_facts(folder, manifest, marks)
    if similarity.fault:
        facts = replace(facts, faults=(*facts.faults, similarity.fault))
    return BatchLoaded(folder, manifest, "", video_index, marks, grid, facts, state_filter, similarity)


def count_stars(batches: Sequence[BatchSummary]) -> dict[Path, int]:
    """Return the number of starred videos by batch folder, for batches with starred videos."""
    counts = {}
    for batch in batches:
        with contextlib.suppress(_InaccessibleMarksError):
            counts[batch.folder] = _count_stars(batch.folder, read_file_state(BatchFolder(batch.folder).marks_path))
    return {folder: count for folder, count in counts.items() if count}


class _InaccessibleMarksError(Exception):
    """Raised if the system refuses to read the marks, so that the failure is not cached."""


@lru_cache(maxsize=4096)
def _count_stars(folder: Path, marks_state: FileState) -> int:
    if marks_state == MISSING_FILE:
        return 0
    marks = read_marks(BatchFolder(folder))
    if marks.is_inaccessible:
        raise _InaccessibleMarksError
    return marks.count_stars()


def arrange_rows(
    batches: Sequence[BatchSummary],
    star_counts: Mapping[Path, int],
    search_words: str,
    state_filter: str,
    found_videos: Sequence[FoundVideo],
) -> list[LibraryRow]:
    """Return the rows of the batch list: matching batches, best first, each followed by its found videos."""
    videos_by_folder: dict[Path, list[FoundVideo]] = {}
    for video in found_videos:
        videos_by_folder.setdefault(video.folder, []).append(video)
    scored = []
    for batch in batches:
        if not _matches_filter(batch, star_counts, state_filter):
            continue
        videos = videos_by_folder.get(batch.folder, [])
        best_video_score = max((video.score for video in videos), default=0.0)
        score = max(score_batch(search_words, batch), best_video_score) if search_words.split() else 1.0
        if score:
            scored.append((score, batch, videos))
    rows = []
    for _, batch, videos in sorted(scored, key=lambda item: -item[0]):  # stable: the newest first among equals
        rows += [LibraryRow(batch), *(LibraryRow(batch, video) for video in videos)]
    return rows


def find_row(rows: Sequence[LibraryRow], folder: Path | None, video_index: int | None) -> int | None:
    """Return the row index of a video, or else of its batch; None if neither is listed."""
    row_index = None
    for index, row in enumerate(rows):
        if row.batch.folder != folder:
            continue
        if row.found_video is not None and row.found_video.video_index == video_index:
            return index
        if row.found_video is None:
            row_index = index
    return row_index


def _matches_filter(batch: BatchSummary, star_counts: Mapping[Path, int], state_filter: str) -> bool:
    if state_filter == "failures":
        return bool(batch.count_videos("failed") or batch.fault)
    if state_filter == "unfinished":
        return batch.count_videos("done") < batch.video_count
    return state_filter != "starred" or batch.folder in star_counts


def explain_empty_batch_list(batch_count: int, search_words: str, state_filter: str) -> str:
    """Return the text shown instead of an empty list; `batch_count` batches exist in total."""
    if not batch_count:
        return "no batches yet; press 1 to compose one"
    total_text = format_count(batch_count, "batch", "batches")
    if search_words:
        searched_text = f"{search_words!r}{suggest_setting_names(search_words)}"
        reason = f"no batch matches {searched_text}; press escape to clear the search"
        if state_filter != "all":
            reason = f"no batch matches both {searched_text} and the filter {state_filter!r}; press escape to clear "
            reason += "the search, or f to change the filter"
        return f"{reason} ({total_text} in total)"
    hint = ", or * to star a video" if state_filter == "starred" else ""
    return f"no batch matches the filter {state_filter!r}; press f to change it{hint} ({total_text} in total)"
