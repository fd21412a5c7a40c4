"""Keeping batch.json true while several workers make the videos of one batch."""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wantui.storage.files import discard, video_files
from wantui.storage.layout import BatchFolder
from wantui.storage.manifest import Manifest, State, VideoEntry, read_manifest, write_manifest


@dataclass
class Record:
    """The manifest of one batch, read again only when another process has written it."""

    folder: BatchFolder
    _manifest: Manifest | None = None
    _seen: tuple[int, int] = field(default=(0, 0))

    def read(self) -> Manifest:
        """The manifest as it is on disk.

        Raises:
            ManifestError: it is missing or damaged.
        """
        seen = _version(self.folder.manifest)
        if self._manifest is None or seen != self._seen:
            self._manifest, self._seen = read_manifest(self.folder), seen
        return self._manifest

    @classmethod
    def of(cls, folder: Path) -> "Record":
        """Of the batch in a folder."""
        return cls(BatchFolder(folder))

    def cancel(self, numbers: Sequence[int]) -> None:
        """Record that videos were given up, and remove what was begun of them."""
        if not numbers:
            return
        with _locked(self.folder.root):
            manifest = self.read()
            for number in numbers:
                entry = manifest.videos[number]
                entry.state = "cancelled"
                discard(video_files(self.folder, entry.variation, entry.number))
            write_manifest(self.folder, manifest)
            self._seen = _version(self.folder.manifest)

    def change(self, number: int, edit: Callable[[VideoEntry], None]) -> None:
        """Change the entry of one video, while nobody else changes any."""
        with _locked(self.folder.root):
            manifest = self.read()
            edit(manifest.videos[number])
            write_manifest(self.folder, manifest)
            self._seen = _version(self.folder.manifest)


def close_entry(folder: BatchFolder, number: int, state: State, error: str | None = None) -> None:
    """Record that a video will not be made, and remove what was begun of it."""

    def edit(entry: VideoEntry) -> None:
        entry.state, entry.error = state, error
        discard(video_files(folder, entry.variation, entry.number))

    Record(folder).change(number, edit)


def _version(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return stat.st_ino, stat.st_mtime_ns


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a network file system without locks
        yield
    finally:
        os.close(descriptor)
