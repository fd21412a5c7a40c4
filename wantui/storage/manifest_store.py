"""Record the outcomes of videos in batch.json and its journal, safely for several concurrent workers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wantui.formatting import escape_unprintable, format_count
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import lock_manifest, try_lock_video, unlock_video
from wantui.storage.manifest import Manifest, ManifestError, VideoEntry, VideoState
from wantui.storage.manifest_file import ManifestFile
from wantui.storage.video_files import remove_temporary_files, video_files


class ManifestStore:
    """Manifest and journal of one batch; reads again only what other processes have changed."""

    def __init__(self, folder: BatchFolder) -> None:
        self.folder = folder
        self._file = ManifestFile(folder)

    def read(self) -> Manifest:
        """Return the manifest as it is on disk.

        Raises:
            ManifestError: the manifest is missing or damaged.
        """
        return self._file.read()

    def fold_when_reopened(self) -> None:
        """Fold the journal into the manifest if it is long or was left by a crash."""
        with lock_manifest(self.folder.root):
            self._file.fold_when_reopened()

    @classmethod
    def for_folder(cls, folder: Path) -> "ManifestStore":
        """Return the store of the batch in a folder."""
        return cls(BatchFolder(folder))

    def cancel_videos(self, numbers: Sequence[int]) -> None:
        """Record that videos were cancelled, and remove their partial files."""
        self.close_videos(numbers, "cancelled")

    def close_videos(self, numbers: Sequence[int], state: VideoState, error: str | None = None) -> None:
        """Record that videos will not be rendered, and remove their partial files."""
        if not numbers:
            return
        with self._edit_manifest(numbers) as manifest:
            for number in numbers:
                _end_video(self.folder, manifest, number, state, _to_storable_text(error))

    def record_failures(self, numbers: Sequence[int], error: str) -> None:
        """Record that videos cannot be rendered at present; their partial files stay."""
        with self._edit_manifest(numbers) as manifest:
            for number in numbers:
                entry = find_entry(manifest, number, self.folder)
                if not is_complete(self.folder, entry):
                    entry.state, entry.error = "failed", _to_storable_text(error)

    @contextmanager
    def _edit_manifest(self, numbers: Sequence[int]) -> Iterator[Manifest]:
        """Lock and yield the manifest; afterwards write the entries of these videos that changed."""
        with lock_manifest(self.folder.root):
            try:
                manifest = self.read()
                entries = {number: find_entry(manifest, number, self.folder) for number in numbers}
                # Store outcomes instead of copies of entries: copying the recipes of 10,000 videos takes seconds.
                before = {number: (entry.state, entry.collect_outcome()) for number, entry in entries.items()}
                yield manifest
                changed = (n for n, (_, outcome) in before.items() if outcome != manifest.videos[n].collect_outcome())
                self._file.save({number: before[number][0] for number in changed})
            except BaseException:
                self._file.discard_copy()  # the copy in memory may differ from the disk
                raise

    def edit_entry(self, number: int, edit: Callable[[VideoEntry], None]) -> None:
        """Edit the entry of one video under the manifest lock."""
        with self._edit_manifest([number]) as manifest:
            edit(find_entry(manifest, number, self.folder))


class ManifestStoreCache:
    """Cache of the most recently used `ManifestStore`: reading a large manifest again takes seconds."""

    def __init__(self) -> None:
        self._store: ManifestStore | None = None

    def for_folder(self, folder: BatchFolder) -> ManifestStore:
        """Return the store of a folder, and replace the cached store of any other folder."""
        if self._store is None or self._store.folder.root != folder.root:
            self._store = ManifestStore(folder)
        return self._store


def _to_storable_text(error: str | None) -> str | None:
    """Return an error text that JSON can encode: paths in it may contain bytes that are not UTF-8."""
    return None if error is None else escape_unprintable(error, keep_lines=True)


def _end_video(folder: BatchFolder, manifest: Manifest, number: int, state: VideoState, error: str | None) -> None:
    if not try_lock_video(folder.root, number):
        return  # another engine is rendering it
    entry = find_entry(manifest, number, folder)
    remove_temporary_files(video_files(folder, entry.variation, entry.number))
    if not is_complete(folder, entry):  # it may have been finished just before
        entry.state, entry.error = state, error
    unlock_video(folder.root, number)


def is_complete(folder: BatchFolder, entry: VideoEntry) -> bool:
    """Return whether a video is recorded as done and all its files exist."""
    return entry.state == "done" and all((folder.root / path).exists() for path in entry.files.values())


def find_entry(manifest: Manifest, number: int, folder: BatchFolder) -> VideoEntry:
    """Return the manifest entry of the video with index `number`.

    Raises:
        ManifestError: the manifest has fewer videos, because it was replaced or shortened.
    """
    if number >= len(manifest.videos):
        raise ManifestError(
            f"{folder.manifest} has only {format_count(len(manifest.videos), 'video')}; video "
            f"{number + 1} is missing. To continue without it: wantui run --resume {folder.root}"
        )
    return manifest.videos[number]
