"""Find and summarise batch folders on disk, whether or not the queue contains them."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import get_args

from wantui.errors import UserError
from wantui.json_files import UnreadableFileError, read_json_object
from wantui.planning import Recipe
from wantui.storage.journal import JournalLine, read_journal_tail
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import (
    MAX_MANIFEST_BYTES,
    ManifestError,
    VideoEntry,
    VideoState,
    apply_outcome,
    check_format,
)
from wantui.storage.manifest_file import FileVersion, read_file_version

MAX_TRACKED_JOURNALS = 4096
"""Maximum number of journals whose read position is cached."""


@dataclass(frozen=True)
class BatchSummary:
    """Summary of a batch folder, from its manifest and journal."""

    folder: Path
    created: str
    """Time of creation in ISO 8601, UTC; empty if the manifest cannot be read."""
    template: str
    model: str
    counts: tuple[tuple[str, int], ...]
    """Number of videos in each state that occurs."""
    fault: str = ""
    """Why the manifest, or some lines of its journal, cannot be read; `counts` leaves out unreadable lines."""

    @property
    def total(self) -> int:
        return sum(count for _, count in self.counts)

    def count_videos(self, state: str) -> int:
        return dict(self.counts).get(state, 0)

    def matches(self, words: str) -> bool:
        """Return whether each word occurs in the folder name, template, model or time of creation."""
        text = f"{self.folder.name} {self.template} {self.model} {self.created}".lower()
        return all(word in text for word in words.lower().split())


def find_batches(roots: Iterable[Path]) -> list[BatchSummary]:
    """Return the batches among and directly inside these folders, newest first.

    The summary of a folder that cannot be listed contains only the fault.
    """
    batches: dict[Path, BatchSummary] = {}
    for root in roots:
        root = Path(os.path.realpath(root))
        try:
            folders = _list_batch_folders(root)
        except OSError as error:
            reason = f"{root} cannot be read: {error.strerror or error}"
            batches[root] = BatchSummary(root, "", "", "", (), reason)
            continue
        for path in folders:
            folder = BatchFolder(path)
            batches[path] = _summarise_batch(
                path, read_file_version(folder.manifest), read_file_version(folder.journal)
            )
    return sorted(batches.values(), key=lambda batch: (batch.created, batch.folder.name), reverse=True)


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
    closed = []
    for root in roots:
        with suppress(OSError), os.scandir(root) as entries:
            for entry in entries:
                try:
                    os.stat(Path(entry.path) / "batch.json")  # noqa: PTH116 - only the error is of interest
                except PermissionError:
                    closed.append(Path(entry.path))
                except OSError:
                    continue
    return sorted(closed)


@dataclass(frozen=True)
class _ManifestSummary:
    """Content of a manifest, without its journal."""

    created: str
    template: str
    model: str
    states: tuple[str, ...]
    ids: tuple[object, ...]
    journal: str


@lru_cache(maxsize=4096)
def _summarise_batch(path: Path, manifest: FileVersion, journal: FileVersion) -> BatchSummary:
    """Summarise a batch; the file versions are the cache key."""
    try:
        outline = _summarise_manifest(path, manifest)
        states, faults = _read_states(path, outline, manifest, journal)
    except (UserError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = str(error) if isinstance(error, UserError) else f"batch.json is damaged: {error!r}"
        return BatchSummary(path, "", "", "", (), reason)
    counts = tuple((state, states.count(state)) for state in dict.fromkeys(states))
    return BatchSummary(path, outline.created, outline.template, outline.model, counts, "; ".join(faults))


@dataclass(frozen=True)
class _JournalProgress:
    """Content that was read from a journal so far, so that only new lines are read."""

    manifest: FileVersion
    inode: int
    end: int
    lines: int
    states: tuple[str, ...]
    faults: tuple[str, ...]


_journal_progress: dict[Path, _JournalProgress] = {}


def _read_states(
    path: Path, outline: _ManifestSummary, manifest: FileVersion, journal: FileVersion
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the states of the videos, and the faults of the journal."""
    known = _journal_progress.get(path)
    if known is None or (known.manifest, known.inode) != (manifest, journal[0]) or known.end > journal[2]:
        known = _JournalProgress(manifest, journal[0], 0, 0, outline.states, ())
    file = BatchFolder(path).journal
    try:
        tail = read_journal_tail(file, outline.journal, known.end, known.lines + 1)
    except UnreadableFileError as error:
        return known.states, (*known.faults, str(error))
    states, faults = list(known.states), [*known.faults, *tail.faults]
    for line in tail.lines:
        try:
            if not 0 <= line.video < len(states) or line.id != outline.ids[line.video]:
                raise ValueError("it does not describe a video of this batch")
            states[line.video] = apply_outcome(line.entry, _placeholder_entry(line)).state
        except ValueError as error:
            faults.append(f"line {line.number} of {file} is damaged: {error}")
    read = known.lines + len(tail.lines) + len(tail.stale) + len(tail.faults)
    progress = _JournalProgress(manifest, journal[0], tail.end, read, tuple(states), tuple(faults))
    if len(_journal_progress) >= MAX_TRACKED_JOURNALS:
        _journal_progress.clear()
    _journal_progress[path] = progress
    return progress.states, progress.faults


def _placeholder_entry(line: JournalLine) -> VideoEntry:
    """Return an entry with an empty recipe for the video of a journal line: a listing reads no recipes."""
    return VideoEntry(id=line.id, variation=0, number=1, seed=0, recipe=Recipe.model_construct())


@lru_cache(maxsize=256)
def _summarise_manifest(path: Path, manifest: FileVersion) -> _ManifestSummary:
    """Read a manifest without validating its recipes, which would take most of the time of a listing."""
    file = BatchFolder(path).manifest
    try:
        document = read_json_object(file, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        raise ManifestError(f"{file} is missing") from None
    check_format(file, document)
    states = tuple(str(video["state"]) for video in document["videos"])
    if unknown := set(states) - set(get_args(VideoState)):
        raise ManifestError(f"{file} is damaged: {min(unknown)!r} is not a video state")
    created, template, model = document["created"], document["template"], document["videos"][0]["recipe"]["model"]
    if not all(isinstance(text, str) for text in (created, template, model)):
        raise ManifestError(f"{file} is damaged: created, template or model is not a string")
    ids = tuple(video.get("id") for video in document["videos"])
    return _ManifestSummary(created, template, model, states, ids, str(document.get("journal", "")))


def move_to_trash(folder: Path) -> None:
    """Move a batch folder to the trash of its file system.

    Raises:
        UserError: the folder is not a batch folder, or its file system has no trash; the folder is then unchanged.
    """
    from send2trash import TrashPermissionError, send2trash

    try:
        if not (folder / "batch.json").is_file():
            raise UserError(f"{folder} is not a batch folder: it has no batch.json")
        send2trash(str(folder))
    except (OSError, TrashPermissionError) as error:
        raise UserError(f"{folder} cannot be moved to the trash: {error}") from None
