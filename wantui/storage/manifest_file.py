"""A manifest with its journal: read as one, written by a line where that is enough."""

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from wantui.atomic_files import atomic_write, remove, sync
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
"""States from which a video changes only when somebody asks for it again."""
FOLD_DIVISOR = 8
"""A journal of at least this part of the manifest is folded in when a batch is opened to be continued."""
MAX_READ_ATTEMPTS = 100
"""Times that a manifest is read again because it was replaced meanwhile."""
FileVersion = tuple[int, int, int]
"""Inode, time of the last change, and size of a file; zeros where there is none."""


class ManifestFile:
    """The manifest of one batch and its journal; reads only new lines of the journal."""

    def __init__(self, folder: BatchFolder) -> None:
        self.folder = folder
        self.manifest: Manifest | None = None
        self._seen: FileVersion = (0, 0, 0)
        self._journal: FileVersion = (0, 0, 0)
        self._end = 0
        """Bytes of the journal that are applied."""
        self._lines = 0
        self._must_fold = False
        """True if the journal must be folded before the next write."""

    def read(self) -> Manifest:
        """Return the manifest as it is on disk.

        Raises:
            ManifestError: it is missing or damaged.
        """
        for _ in range(MAX_READ_ATTEMPTS):
            seen, journal = read_file_version(self.folder.manifest), read_file_version(self.folder.journal)
            is_continued = journal[0] == self._journal[0] and journal[2] >= self._end
            if self.manifest is None or seen != self._seen or not is_continued:
                self.forget()
                self.manifest = parse_manifest(self.folder)
            if journal != self._journal:
                self._apply_journal(self.manifest)
            # A fold replaces the manifest before it removes the journal: what was read belongs together where the
            # manifest is still the same one.
            if read_file_version(self.folder.manifest) == seen:
                self._seen, self._journal = seen, journal
                return self.manifest
            self.forget()
        raise ManifestError(f"{self.folder.manifest} cannot be read: it is replaced again and again")

    def save(self, changed: Mapping[int, VideoState]) -> None:
        """Write the entries of some videos, under the lock of the folder.

        Args:
            changed: by index of the video, the state that it had before.

        Raises:
            OSError: they cannot be written; what is on disk is as it was.
        """
        if self.manifest is None:
            raise RuntimeError("a manifest is read before it is written")
        lines = [self._line(self.manifest, index) for index in changed]
        size = self._end + sum(map(len, lines))
        ends = any(_brings_all_videos_to(self.manifest, changed, states) for states in (FINAL_STATES, ("done",)))
        if ends or self._must_fold or not self.manifest.journal or size > self._seen[2]:
            self.fold()
        elif lines:
            self._end = append_journal_lines(self.folder.journal, self._end, lines)
            self._lines += len(lines)
            self._journal = read_file_version(self.folder.journal)

    def fold(self) -> None:
        """Write all of the manifest, and remove the journal, under the lock of the folder."""
        if self.manifest is None:
            raise RuntimeError("a manifest is read before it is written")
        self._keep_edited()
        self.manifest.journal = new_journal_id(self.manifest.journal)
        write_manifest(self.folder, self.manifest)
        manifest = self.manifest
        if manifest.faults:
            with suppress(FileNotFoundError):  # somebody took it away meanwhile
                self.folder.journal.rename(self.folder.fresh_damaged_journal())
            manifest.clear_faults()  # the next journal is another one, and must not be set aside for them
        else:
            remove(self.folder.journal)
        sync(self.folder.root)
        self.forget()
        self.manifest, self._seen = manifest, read_file_version(self.folder.manifest)

    def _keep_edited(self) -> None:
        """Preserve a copy of an externally edited manifest: its replacement has a new checksum."""
        try:
            if not is_edited(self.folder):
                return
        except (FileNotFoundError, UnreadableFileError):  # somebody replaces it at this moment
            return
        with atomic_write(self.folder.fresh_edited_manifest()) as copy:
            shutil.copyfile(self.folder.manifest, copy)

    def fold_when_reopened(self) -> None:
        """Fold the journal if a crash left it, or if it is long; call under the lock of the folder."""
        self.read()
        if self._must_fold or FOLD_DIVISOR * self._end > self._seen[2]:
            self.fold()

    def forget(self) -> None:
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
                f"line {lost.number} of {path} continues another batch.json, and says of a video what this one does "
                "not hold: an earlier batch.json was put in its place, or a journal of another batch. Put back the "
                "newest batch.json, or make the videos again that it does not know: wantui run --resume"
            )
        manifest.add_faults(faults)
        self._end = tail.end
        self._lines += len(tail.lines) + len(tail.stale) + len(tail.faults)
        is_odd = tail.is_torn or bool(tail.stale) or bool(faults) or path.is_symlink()
        self._must_fold = self._must_fold or is_odd

    @staticmethod
    def _line(manifest: Manifest, index: int) -> bytes:
        video = manifest.videos[index]
        return encode_journal_line(manifest.journal, JournalLine(index, video.id, video.outcome()))


def _brings_all_videos_to(
    manifest: Manifest, changed: Mapping[int, VideoState], states: Collection[VideoState]
) -> bool:
    """Return whether this change brings all videos into one of these states, when they were not before."""
    if all(before in states for before in changed.values()):
        return False  # lest each video of a batch that is made again would rewrite the manifest
    return all(video.state in states for video in manifest.videos)


def read_file_version(path: Path) -> FileVersion:
    """Return a value that changes when a file is written or replaced."""
    try:
        # Opened, because a network file system looks at the server then, and else at what it remembers.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return 0, 0, 0
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_ino, status.st_mtime_ns, status.st_size


def _apply_line(manifest: Manifest, line: JournalLine) -> VideoEntry:
    """Return the entry of the video of a line, as the line has it.

    Raises:
        ValueError: it is no line of this manifest.
    """
    if not 0 <= line.video < len(manifest.videos):
        raise ValueError(f"there is no video {line.video}")
    video = manifest.videos[line.video]
    if line.id != video.id:
        raise ValueError(f"it is not of video {video.id}")
    return apply_outcome(line.entry, video)


def _find_lost_line(manifest: Manifest, stale: Sequence[JournalLine]) -> JournalLine | None:
    """Return a line that continues another manifest and was not folded into this one; None where all were.

    A crash between a fold and the removal of its journal leaves lines that were.
    """
    unknown = [line for line in stale if not is_folded_into(line.journal, manifest.journal)]
    for line in {line.video: line for line in unknown}.values():  # the last one of each video
        try:
            # Earlier versions did not mark a manifest by the journal that was folded into it.
            if _apply_line(manifest, line) != manifest.videos[line.video]:
                return line
        except ValueError:
            return line
    return None
