"""Find and summarise batch folders on disk, whether or not the queue contains them."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from wantui.config.sweep import format_axis
from wantui.config.sweep_syntax import describe_seeds
from wantui.errors import UserError
from wantui.file_state import FileState, read_file_state
from wantui.json_files import InaccessibleFileError, UnreadableFileError, read_json_object
from wantui.paths import find_access_error
from wantui.planning import Recipe
from wantui.storage.journal import JournalLine, read_journal_tail
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import MAX_MANIFEST_BYTES, VideoEntry, VideoState, apply_journal_outcome, read_manifest
from wantui.storage.manifest_errors import (
    ManifestError,
    check_manifest_format,
    describe_other_folder,
    make_damaged_manifest_error,
    make_unreadable_manifest_error,
)
from wantui.storage.manifest_file import MAX_READ_ATTEMPTS

DEFAULT_VIDEO_STATE: VideoState = VideoEntry.model_fields["state"].default
"""State of a video whose entry names none."""
MAX_CACHED_BATCHES = 4096
"""Maximum number of batches whose summary and journal position are cached."""


@dataclass(frozen=True)
class BatchSummary:
    """Summary of a batch folder, from its manifest and journal."""

    folder: Path
    created_at: str
    """Time of creation in ISO 8601, UTC; empty if the manifest cannot be read."""
    template: str
    model: str
    counts_by_state: tuple[tuple[str, int], ...]
    """Number of videos in each state that occurs."""
    fault: str = ""
    """Reason why the manifest, or some lines of its journal, cannot be read; `counts_by_state` ignores unreadable
    lines."""
    seeds: str = ""
    """Seeds of the videos, such as "42 to 46"."""
    sweep: str = ""
    """Swept settings and their values, such as "cfg_scale 1, 4; steps 10, 20"; empty without a sweep."""

    @classmethod
    def from_fault(cls, folder: Path, fault: str) -> "BatchSummary":
        """Return the summary of a batch of which only the fault is known."""
        return cls(folder, "", "", "", (), fault)

    def as_json(self) -> dict[str, Any]:
        """Return the fields for JSON output."""
        return {
            "folder": str(self.folder),
            "created": self.created_at,
            "template": self.template,
            "model": self.model,
            "counts": dict(self.counts_by_state),
            "seeds": self.seeds,
            "sweep": self.sweep,
            "fault": self.fault,
        }

    @property
    def video_count(self) -> int:
        return sum(count for _, count in self.counts_by_state)

    def count_videos(self, state: str) -> int:
        return dict(self.counts_by_state).get(state, 0)

    @property
    def searched_text(self) -> str:
        """Return the text in which a search looks for words."""
        return f"{self.folder.name} {self.template} {self.model} {self.created_at}"


def find_batches(roots: Iterable[Path]) -> list[BatchSummary]:
    """Return the batches in these folders, newest first; a folder may itself be a batch.

    The summary of a folder that cannot be listed contains only the fault.
    """
    summaries_by_folder: dict[Path, BatchSummary] = {}
    for root in roots:
        root = Path(os.path.realpath(root))
        try:
            folders = _list_batch_folders(root)
        except OSError as error:
            reason = f"{root} cannot be read: {error.strerror or error}"
            summaries_by_folder[root] = BatchSummary.from_fault(root, reason)
            continue
        for path in folders:
            summaries_by_folder[path] = _read_summary(path)
    return sorted(summaries_by_folder.values(), key=lambda batch: (batch.created_at, batch.folder.name), reverse=True)


def _list_batch_folders(root: Path) -> list[Path]:
    if os.access(root / "batch.json", os.F_OK):
        return [root]
    try:
        with os.scandir(root) as entries:
            folders = [Path(entry.path) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder for folder in folders if os.access(folder / "batch.json", os.F_OK)]


def find_inaccessible_folders(roots: Iterable[Path]) -> list[Path]:
    """Return the subfolders that this user may not enter, such as private batches of other users."""
    inaccessible_folders = []
    for root in roots:
        with suppress(OSError), os.scandir(root) as entries:
            for entry in entries:
                try:
                    os.stat(Path(entry.path) / "batch.json")  # noqa: PTH116 - only the error is of interest
                except PermissionError:
                    inaccessible_folders.append(Path(entry.path))
                except OSError:
                    continue
    return sorted(inaccessible_folders)


@dataclass(frozen=True)
class _ManifestSummary:
    """Content of a manifest, without its journal."""

    created_at: str
    template: str
    model: str
    video_states: tuple[str, ...]
    video_ids: tuple[object, ...]
    seeds: str
    sweep: str
    journal_id: str


@contextmanager
def _name_damaged_part(path: Path, part: str) -> Iterator[None]:
    """Convert errors of reading unvalidated JSON inside the block to a `ManifestError` that names the damaged field.

    Args:
        part: part of the manifest that the block reads; named if validation finds no damaged field.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError):
        raise ManifestError(_describe_damage(path, part)) from None


_summaries: dict[Path, tuple[FileState, FileState, BatchSummary]] = {}
"""Summary of each batch that was read last, with the states of its manifest and its journal then."""


def _read_summary(path: Path) -> BatchSummary:
    """Return the summary of a batch, which other processes may change meanwhile."""
    folder = BatchFolder(path)
    for _ in range(MAX_READ_ATTEMPTS):
        manifest_state, journal_state = read_file_state(folder.manifest_path), read_file_state(folder.journal_path)
        if (cached := _summaries.get(path)) is not None and cached[:2] == (manifest_state, journal_state):
            return cached[2]
        summary, is_inaccessible = _summarise_batch(path, manifest_state, journal_state)
        if is_inaccessible:
            return summary
        # If the manifest was replaced meanwhile, the journal may not belong to it.
        if read_file_state(folder.manifest_path) == manifest_state:
            if len(_summaries) >= MAX_CACHED_BATCHES:
                _summaries.clear()
            _summaries[path] = manifest_state, journal_state, summary
            return summary
    return BatchSummary.from_fault(path, f"{folder.manifest_path} cannot be read: other processes keep replacing it")


def _summarise_batch(path: Path, manifest_state: FileState, journal_state: FileState) -> tuple[BatchSummary, bool]:
    """Summarise a batch from its manifest and its journal.

    Returns:
        The summary, and whether the system cannot read one of the files at present.
    """
    try:
        manifest = _summarise_manifest(path, manifest_state)
        with _name_damaged_part(path, "the entry of a video listed in the journal"):
            states, faults, is_inaccessible = _read_video_states(path, manifest, manifest_state, journal_state)
    except UserError as error:
        return BatchSummary.from_fault(path, str(error)), isinstance(error, InaccessibleFileError)
    counts_by_state = tuple((state, states.count(state)) for state in dict.fromkeys(states))
    summary = BatchSummary(
        path,
        manifest.created_at,
        manifest.template,
        manifest.model,
        counts_by_state,
        "; ".join(faults),
        manifest.seeds,
        manifest.sweep,
    )
    return summary, is_inaccessible


@dataclass(frozen=True)
class _JournalProgress:
    """Content that was read from a journal so far, so that only new lines are read."""

    manifest_state: FileState
    inode: int
    end_byte: int
    line_count: int
    video_states: tuple[str, ...]
    faults: tuple[str, ...]


_journal_progress_by_folder: dict[Path, _JournalProgress] = {}


def _read_video_states(
    path: Path, summary: _ManifestSummary, manifest_state: FileState, journal_state: FileState
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the states of the videos, the faults of the journal, and whether the system cannot read the journal."""
    earlier_progress = _journal_progress_by_folder.get(path)
    if (
        earlier_progress is None
        or (earlier_progress.manifest_state, earlier_progress.inode) != (manifest_state, journal_state.inode)
        or earlier_progress.end_byte > journal_state.size_bytes
    ):
        earlier_progress = _JournalProgress(manifest_state, journal_state.inode, 0, 0, summary.video_states, ())
    journal_path = BatchFolder(path).journal_path
    try:
        journal_tail = read_journal_tail(
            journal_path, summary.journal_id, earlier_progress.end_byte, earlier_progress.line_count + 1
        )
    except UnreadableFileError as error:
        faults = [*earlier_progress.faults, str(error)]
        return earlier_progress.video_states, tuple(faults), isinstance(error, InaccessibleFileError)
    states, faults = list(earlier_progress.video_states), [*earlier_progress.faults, *journal_tail.faults]
    for line in journal_tail.lines:
        try:
            if not 0 <= line.video_index < len(states) or line.video_id != summary.video_ids[line.video_index]:
                raise ValueError("it does not describe a video of this batch")
            states[line.video_index] = apply_journal_outcome(line.outcome, _make_placeholder_entry(line)).state
        except ValueError as error:
            faults.append(f"line {line.line_number} of {journal_path} is damaged: {error}")
    progress = _JournalProgress(
        manifest_state,
        journal_state.inode,
        journal_tail.end_byte,
        earlier_progress.line_count + journal_tail.line_count,
        tuple(states),
        tuple(faults),
    )
    if len(_journal_progress_by_folder) >= MAX_CACHED_BATCHES:
        _journal_progress_by_folder.clear()
    _journal_progress_by_folder[path] = progress
    return progress.video_states, progress.faults, False


def _make_placeholder_entry(line: JournalLine) -> VideoEntry:
    """Return an entry with an empty recipe for the video of a journal line: a listing reads no recipes."""
    return VideoEntry(id=line.video_id, variation=0, number=1, seed=0, recipe=Recipe.model_construct())


@lru_cache(maxsize=256)
def _summarise_manifest(path: Path, manifest_state: FileState) -> _ManifestSummary:
    """Read a manifest without validating its recipes, which would take most of the listing time."""
    manifest_path = BatchFolder(path).manifest_path
    try:
        document = read_json_object(manifest_path, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise ManifestError(f"{manifest_path} is missing") from None
    except InaccessibleFileError:
        raise
    except UnreadableFileError as error:
        raise make_unreadable_manifest_error(error) from error
    check_manifest_format(manifest_path, document)
    with _name_damaged_part(path, "videos[].state"):
        video_states = tuple(str(video.get("state", DEFAULT_VIDEO_STATE)) for video in document["videos"])
    if unknown_states := set(video_states) - set(get_args(VideoState)):
        raise make_damaged_manifest_error(manifest_path, f"{min(unknown_states)!r} is not a video state")
    with _name_damaged_part(path, "videos[0].recipe.model"):
        model = document["videos"][0]["recipe"]["model"]
    created_at, template = document.get("created"), document.get("template")
    for name, text in (("created", created_at), ("template", template), ("videos[0].recipe.model", model)):
        if not isinstance(text, str):
            raise make_damaged_manifest_error(manifest_path, f"{name} is missing, or not a string")
    video_ids = tuple(video.get("id") for video in document["videos"])
    with _name_damaged_part(path, "videos[].seed"):
        seeds = describe_seeds([int(video["seed"]) for video in document["videos"]])
    with _name_damaged_part(path, "sweep.axes"):
        sweep = _describe_sweep(document)
    journal_id = str(document.get("journal", ""))
    return _ManifestSummary(str(created_at), str(template), model, video_states, video_ids, seeds, sweep, journal_id)


def _describe_damage(path: Path, part: str) -> str:
    """Read a manifest completely, and return its damaged field; `part` if there is none."""
    try:
        read_manifest(BatchFolder(path))
    except UserError as error:
        return str(error)
    return str(make_damaged_manifest_error(BatchFolder(path).manifest_path, f"{part} cannot be read"))


def _describe_sweep(document: Mapping[str, Any]) -> str:
    """Return the sweep axes of a manifest; settings that change together are joined by "+"."""
    axes = (document.get("sweep") or {}).get("axes", ())
    return "; ".join(format_axis(axis["names"], axis["values"]) for axis in axes)


def move_to_trash(folder: Path) -> None:
    """Move a batch folder to the trash of its file system.

    Raises:
        UserError: the folder is not a batch folder, or its file system has no trash; the folder is then unchanged.
    """
    from send2trash import TrashPermissionError, send2trash

    try:
        if not (folder / "batch.json").is_file():
            raise UserError(describe_other_folder(folder))
        send2trash(str(folder))
    except (OSError, TrashPermissionError) as error:
        reason = str(error)
        access_error = find_access_error(folder) if os.access(folder, os.F_OK) else None
        if access_error is not None and access_error.errno == errno.EROFS:
            reason = f"{access_error.strerror}. Mount its file system for writing"
        elif isinstance(error, PermissionError | TrashPermissionError):
            reason = "Permission denied. Ask its owner to move it, or for write permission on it and its parent folder"
        elif isinstance(error, OSError) and error.strerror:
            name = error.filename if isinstance(error.filename, str | bytes) else folder
            reason = error.strerror.removesuffix(f": {folder}")  # send2trash appends the name to some reasons
            reason = f"{reason}: {os.fsdecode(name)}"
        raise UserError(f"{folder} cannot be moved to the trash: {reason}") from None
