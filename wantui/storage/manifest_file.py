"""Read a manifest with its journal, and write changes as journal lines where possible."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from wantui.atomic_files import atomic_write, remove_path, sync_to_disk
from wantui.file_state import MISSING_FILE, UNREADABLE_FILE, read_file_state
from wantui.json_files import UnreadableFileError, find_system_refusal
from wantui.storage.journal import (
    JournalLine,
    append_journal_lines,
    encode_journal_line,
    is_journal_folded_into,
    make_journal_id,
    read_journal_tail,
)
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import (
    Manifest,
    VideoEntry,
    VideoState,
    apply_journal_outcome,
    is_manifest_edited,
    parse_manifest,
    write_manifest,
)
from wantui.storage.manifest_errors import ManifestError

FINAL_VIDEO_STATES: tuple[VideoState, ...] = ("done", "failed", "cancelled")
"""States that a video leaves only at a user's request."""
FOLD_DIVISOR = 8
"""Divisor of the manifest's size: a continued batch first folds a journal that is larger than the quotient."""
MAX_READ_ATTEMPTS = 100
"""Maximum number of attempts to read a manifest that other processes keep replacing."""


def list_manifest_warnings(folder: BatchFolder, manifest: Manifest) -> list[str]:
    """Return the unreadable lines of the journal, and a warning if another program changed batch.json."""
    return [*manifest.faults, *list_edit_warnings(folder)]


def list_edit_warnings(folder: BatchFolder) -> list[str]:
    """Return a warning if another program changed batch.json."""
    with suppress(FileNotFoundError, UnreadableFileError):  # another process is replacing it
        if is_manifest_edited(folder):
            return [
                f"{folder.manifest_path} was changed after wantui wrote it (its SHA-256 differs); wantui uses it as it "
                "is. If nobody edited it, it is damaged: restore it from a backup. To verify the batch, run `wantui "
                "library check`"
            ]
    return []


class ManifestFile:
    """The manifest of one batch and its journal; reads only new lines of the journal."""

    def __init__(self, folder: BatchFolder) -> None:
        self.folder = folder
        self.manifest: Manifest | None = None
        self._manifest_state = MISSING_FILE
        self._journal_state = MISSING_FILE
        self._journal_bytes_read = 0
        """Bytes of the journal that were read and applied."""
        self._journal_lines_read = 0
        self._must_fold = False
        """True if the journal must be folded before the next write."""
        self._refusal: OSError | None = None
        """Error by which the system refused to read the journal."""

    def read_manifest(self) -> Manifest:
        """Return the manifest as it is on disk.

        Raises:
            ManifestError: the manifest is missing or damaged.
        """
        for _ in range(MAX_READ_ATTEMPTS):
            manifest_state = read_file_state(self.folder.manifest_path)
            journal_state = read_file_state(self.folder.journal_path)
            is_continued = (
                journal_state.inode == self._journal_state.inode
                and journal_state.size_bytes >= self._journal_bytes_read
            )
            if self.manifest is None or manifest_state != self._manifest_state or not is_continued:
                self.forget_cached_manifest()
                self.manifest = parse_manifest(self.folder)
            if journal_state != self._journal_state:
                self._apply_journal(self.manifest)
            # Folding replaces the manifest before it removes the journal: if the manifest is unchanged now, the two
            # that were read belong together.
            if read_file_state(self.folder.manifest_path) == manifest_state:
                self._manifest_state, self._journal_state = manifest_state, journal_state
                if self._refusal is not None:  # read again as soon as the journal can be opened
                    self._journal_state = UNREADABLE_FILE
                return self.manifest
            self.forget_cached_manifest()
        raise ManifestError(f"{self.folder.manifest_path} cannot be read: other processes keep replacing it")

    def save_entries(self, previous_states: Mapping[int, VideoState]) -> None:
        """Write the changed entries of some videos. The caller must have the manifest lock.

        Args:
            previous_states: previous state of each changed video, by index.

        Raises:
            OSError: the entries cannot be written; the files on disk are unchanged.
        """
        if self.manifest is None:
            raise RuntimeError("cannot write the manifest: it has not been read yet")
        lines = [self._encode_line(self.manifest, index) for index in previous_states]
        if lines:
            self._reject_unread_journal()
        journal_bytes = self._journal_bytes_read + sum(map(len, lines))
        ends_batch = any(
            _ends_all_videos(self.manifest, previous_states, states) for states in (FINAL_VIDEO_STATES, ("done",))
        )
        if (
            ends_batch
            or self._must_fold
            or not self.manifest.journal
            or journal_bytes > self._manifest_state.size_bytes
        ):
            self.fold_journal()
        elif lines:
            self._journal_bytes_read = append_journal_lines(self.folder.journal_path, self._journal_bytes_read, lines)
            self._journal_lines_read += len(lines)
            self._journal_state = read_file_state(self.folder.journal_path)

    def fold_journal(self) -> None:
        """Write the complete manifest and remove the journal. The caller must have the manifest lock.

        Raises:
            OSError: the manifest cannot be written, or the journal may have changes that could not be read.
        """
        if self.manifest is None:
            raise RuntimeError("cannot write the manifest: it has not been read yet")
        self._reject_unread_journal()
        self._preserve_edited_manifest()
        self.manifest.journal = make_journal_id(self.manifest.journal)
        write_manifest(self.folder, self.manifest)
        manifest = self.manifest
        if manifest.faults:
            with suppress(FileNotFoundError):  # another process removed it
                self.folder.journal_path.rename(self.folder.find_unused_damaged_journal_path())
            manifest.clear_faults()  # otherwise the next journal would be preserved for these faults too
        else:
            remove_path(self.folder.journal_path)
        sync_to_disk(self.folder.root)
        self.forget_cached_manifest()
        self.manifest, self._manifest_state = manifest, read_file_state(self.folder.manifest_path)

    def _reject_unread_journal(self) -> None:
        """Raise the system's error if the journal could not be read: a write would lose the journal's changes."""
        if self._refusal is not None:
            raise OSError(self._refusal.errno, self._refusal.strerror, str(self.folder.journal_path))

    def _preserve_edited_manifest(self) -> None:
        """Save a copy of an externally edited manifest before a manifest with a valid checksum replaces it."""
        try:
            if not is_manifest_edited(self.folder):
                return
        except (FileNotFoundError, UnreadableFileError):  # another process is replacing it
            return
        with atomic_write(self.folder.find_unused_edited_manifest_path()) as copy_path:
            shutil.copyfile(self.folder.manifest_path, copy_path)

    def fold_journal_when_reopened(self) -> None:
        """Fold the journal if it is long or was left by a crash. The caller must have the manifest lock."""
        self.read_manifest()
        if self._must_fold or FOLD_DIVISOR * self._journal_bytes_read > self._manifest_state.size_bytes:
            self.fold_journal()

    def forget_cached_manifest(self) -> None:
        """Drop the copy in memory, which may differ from the disk."""
        self.manifest, self._manifest_state, self._journal_state = None, MISSING_FILE, MISSING_FILE
        self._journal_bytes_read = self._journal_lines_read = 0
        self._must_fold, self._refusal = False, None

    def _apply_journal(self, manifest: Manifest) -> None:
        journal_path = self.folder.journal_path
        try:
            journal_tail = read_journal_tail(
                journal_path, manifest.journal, self._journal_bytes_read, self._journal_lines_read + 1
            )
        except UnreadableFileError as error:
            manifest.add_journal_error(error)
            self._refusal = find_system_refusal(error)
            self._must_fold = self._refusal is None
            return
        faults = list(journal_tail.faults)
        for line in journal_tail.lines:
            try:
                manifest.videos[line.video_index] = _apply_journal_line(manifest, line)
            except ValueError as error:
                faults.append(f"line {line.line_number} of {journal_path} is damaged: {error}")
        if (lost_line := _find_lost_line(manifest, journal_tail.stale_lines)) is not None:
            faults.append(
                f"line {lost_line.line_number} of {journal_path} updates another batch.json, and this batch.json lacks "
                "its change: batch.json was replaced by an earlier copy, or the journal belongs to another batch. "
                "Restore the newest batch.json, or generate the missing videos again: wantui run --resume"
            )
        manifest.add_faults(faults)
        self._journal_bytes_read = journal_tail.end_byte
        self._journal_lines_read += journal_tail.line_count
        needs_folding = (
            journal_tail.is_torn or bool(journal_tail.stale_lines) or bool(faults) or journal_path.is_symlink()
        )
        self._must_fold = self._must_fold or needs_folding

    @staticmethod
    def _encode_line(manifest: Manifest, video_index: int) -> bytes:
        entry = manifest.videos[video_index]
        return encode_journal_line(manifest.journal, JournalLine(video_index, entry.id, entry.collect_outcome()))


def _ends_all_videos(
    manifest: Manifest, previous_states: Mapping[int, VideoState], states: Collection[VideoState]
) -> bool:
    """Return whether a change brings all videos into these states, and some videos were in a different state before."""
    if all(previous_state in states for previous_state in previous_states.values()):
        return False  # otherwise each video of a repeated batch would rewrite the manifest
    return has_ended(manifest, states)


def has_ended(manifest: Manifest, states: Collection[VideoState]) -> bool:
    """Return whether all videos are in these states."""
    return all(video.state in states for video in manifest.videos)


def _apply_journal_line(manifest: Manifest, line: JournalLine) -> VideoEntry:
    """Return the manifest entry of a journal line's video, with the changes of the line.

    Raises:
        ValueError: the line does not fit this manifest.
    """
    if not 0 <= line.video_index < len(manifest.videos):
        raise ValueError(f"the batch has no video {line.video_index}")
    entry = manifest.videos[line.video_index]
    if line.video_id != entry.id:
        raise ValueError(f"it updates video {line.video_id}, but this video is {entry.id}")
    return apply_journal_outcome(line.outcome, entry)


def _find_lost_line(manifest: Manifest, stale_lines: Sequence[JournalLine]) -> JournalLine | None:
    """Return a stale line whose change is missing in this manifest; None if all changes are present.

    A crash between writing the manifest and removing the journal leaves stale lines, but loses nothing.
    """
    unfolded_lines = [line for line in stale_lines if not is_journal_folded_into(line.journal_id, manifest.journal)]
    for line in {line.video_index: line for line in unfolded_lines}.values():  # the last one of each video
        try:
            # Compare entries: manifests of earlier versions do not identify the journal that was folded into them.
            if _apply_journal_line(manifest, line) != manifest.videos[line.video_index]:
                return line
        except ValueError:
            return line
    return None
