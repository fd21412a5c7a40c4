"""Read a manifest with its journal, and write changes as journal lines where possible."""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from wantui.atomic_files import atomic_write, remove_path, sync_to_disk
from wantui.json_files import UnreadableFileError
from wantui.storage.journal import (
    JournalLine,
    append_journal_lines,
    encode_journal_line,
    is_folded_into,
    new_journal_id,
    read_journal_tail,
)
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import (
    Manifest,
    ManifestError,
    VideoEntry,
    VideoState,
    apply_outcome,
    is_edited,
    parse_manifest,
    write_manifest,
)

FINAL_STATES: tuple[VideoState, ...] = ("done", "failed", "cancelled")
"""States that a video leaves only on request of a user."""
FOLD_DIVISOR = 8
"""A continued batch folds its journal first if the journal is larger than 1 / FOLD_DIVISOR of the manifest."""
MAX_READ_ATTEMPTS = 100
"""Maximum number of reads of a manifest that other processes replace at the same time."""
FileVersion = tuple[int, int, int]
"""Inode, modification time in ns, and size in bytes of a file; zeros if it is missing."""


class ManifestFile:
    """The manifest of one batch and its journal; reads only new lines of the journal."""

    def __init__(self, folder: BatchFolder) -> None:
        self.folder = folder
        self.manifest: Manifest | None = None
        self._seen: FileVersion = (0, 0, 0)
        self._journal: FileVersion = (0, 0, 0)
        self._end = 0
        """Bytes of the journal that were read and applied."""
        self._lines = 0
        self._must_fold = False
        """True if the journal must be folded before the next write."""

    def read(self) -> Manifest:
        """Return the manifest as it is on disk.

        Raises:
            ManifestError: the manifest is missing or damaged.
        """
        for _ in range(MAX_READ_ATTEMPTS):
            seen, journal = read_file_version(self.folder.manifest), read_file_version(self.folder.journal)
            is_continued = journal[0] == self._journal[0] and journal[2] >= self._end
            if self.manifest is None or seen != self._seen or not is_continued:
                self.discard_copy()
                self.manifest = parse_manifest(self.folder)
            if journal != self._journal:
                self._apply_journal(self.manifest)
            # Folding replaces the manifest before it removes the journal: if the manifest is unchanged now, the two
            # that were read belong together.
            if read_file_version(self.folder.manifest) == seen:
                self._seen, self._journal = seen, journal
                return self.manifest
            self.discard_copy()
        raise ManifestError(f"{self.folder.manifest} cannot be read: other processes keep replacing it")

    def save(self, changed: Mapping[int, VideoState]) -> None:
        """Write the changed entries of some videos. The caller must have the manifest lock.

        Args:
            changed: previous state of each changed video, by index.

        Raises:
            OSError: the entries cannot be written; the files on disk are unchanged.
        """
        if self.manifest is None:
            raise RuntimeError("a manifest is read before it is written")
        lines = [self._encode_line(self.manifest, index) for index in changed]
        size = self._end + sum(map(len, lines))
        ends = any(_ends_all_videos(self.manifest, changed, states) for states in (FINAL_STATES, ("done",)))
        if ends or self._must_fold or not self.manifest.journal or size > self._seen[2]:
            self.fold()
        elif lines:
            self._end = append_journal_lines(self.folder.journal, self._end, lines)
            self._lines += len(lines)
            self._journal = read_file_version(self.folder.journal)

    def fold(self) -> None:
        """Write the complete manifest and remove the journal. The caller must have the manifest lock."""
        if self.manifest is None:
            raise RuntimeError("a manifest is read before it is written")
        self._preserve_edited_manifest()
        self.manifest.journal = new_journal_id(self.manifest.journal)
        write_manifest(self.folder, self.manifest)
        manifest = self.manifest
        if manifest.faults:
            with suppress(FileNotFoundError):  # another process removed it
                self.folder.journal.rename(self.folder.unused_damaged_journal())
            manifest.clear_faults()  # otherwise the next journal would be preserved for these faults too
        else:
            remove_path(self.folder.journal)
        sync_to_disk(self.folder.root)
        self.discard_copy()
        self.manifest, self._seen = manifest, read_file_version(self.folder.manifest)

    def _preserve_edited_manifest(self) -> None:
        """Save a copy of an externally edited manifest before it is replaced by one with a valid checksum."""
        try:
            if not is_edited(self.folder):
                return
        except (FileNotFoundError, UnreadableFileError):  # another process is replacing it
            return
        with atomic_write(self.folder.unused_edited_manifest()) as copy:
            shutil.copyfile(self.folder.manifest, copy)

    def fold_when_reopened(self) -> None:
        """Fold the journal if it is long or was left by a crash. The caller must have the manifest lock."""
        self.read()
        if self._must_fold or FOLD_DIVISOR * self._end > self._seen[2]:
            self.fold()

    def discard_copy(self) -> None:
        """Drop the copy in memory, which may differ from the disk."""
        self.manifest, self._seen, self._journal = None, (0, 0, 0), (0, 0, 0)
        self._end = self._lines = 0
        self._must_fold = False

    def _apply_journal(self, manifest: Manifest) -> None:
        path = self.folder.journal
        try:
            tail = read_journal_tail(path, manifest.journal, self._end, self._lines + 1)
        except UnreadableFileError as error:
            self._must_fold = True
            manifest.add_faults([str(error)])
            return
        faults = list(tail.faults)
        for line in tail.lines:
            try:
                manifest.videos[line.video] = _apply_line(manifest, line)
            except ValueError as error:
                faults.append(f"line {line.number} of {path} is damaged: {error}")
        if (lost := _find_lost_line(manifest, tail.stale)) is not None:
            faults.append(
                f"line {lost.number} of {path} updates another batch.json, and its change is missing in this one: "
                "batch.json was replaced by an earlier copy, or the journal belongs to another batch. Restore the "
                "newest batch.json, or generate the missing videos again: wantui run --resume"
            )
        manifest.add_faults(faults)
        self._end = tail.end
        self._lines += len(tail.lines) + len(tail.stale) + len(tail.faults)
        is_odd = tail.is_torn or bool(tail.stale) or bool(faults) or path.is_symlink()
        self._must_fold = self._must_fold or is_odd

    @staticmethod
    def _encode_line(manifest: Manifest, index: int) -> bytes:
        video = manifest.videos[index]
        return encode_journal_line(manifest.journal, JournalLine(index, video.id, video.collect_outcome()))


def _ends_all_videos(manifest: Manifest, changed: Mapping[int, VideoState], states: Collection[VideoState]) -> bool:
    """Return whether this change leaves all videos in these states, and some were in another state before."""
    if all(before in states for before in changed.values()):
        return False  # otherwise each video of a repeated batch would rewrite the manifest
    return all(video.state in states for video in manifest.videos)


def read_file_version(path: Path) -> FileVersion:
    """Return a value that changes when a file is written or replaced."""
    try:
        # Open the file: only then does a network file system ask the server instead of its cache.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return 0, 0, 0
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _apply_line(manifest: Manifest, line: JournalLine) -> VideoEntry:
    """Return the manifest entry of a journal line's video, with the changes of the line.

    Raises:
        ValueError: the line does not fit this manifest.
    """
    if not 0 <= line.video < len(manifest.videos):
        raise ValueError(f"the batch has no video {line.video}")
    video = manifest.videos[line.video]
    if line.id != video.id:
        raise ValueError(f"its id is not that of video {video.id}")
    return apply_outcome(line.entry, video)


def _find_lost_line(manifest: Manifest, stale: Sequence[JournalLine]) -> JournalLine | None:
    """Return a stale line whose change is missing in this manifest; None if all changes are present.

    Stale lines without loss remain after a crash between writing the manifest and removing the journal.
    """
    unknown = [line for line in stale if not is_folded_into(line.journal, manifest.journal)]
    for line in {line.video: line for line in unknown}.values():  # the last one of each video
        try:
            # Compare entries: manifests of earlier versions do not identify the journal that was folded into them.
            if _apply_line(manifest, line) != manifest.videos[line.video]:
                return line
        except ValueError:
            return line
    return None
