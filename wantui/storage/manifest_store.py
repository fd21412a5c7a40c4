"""Record the outcomes of videos in batch.json and its journal, safely for several concurrent workers."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wantui.formatting import escape_unprintable, format_count
from wantui.storage.layout import BatchFolder
from wantui.storage.locks import lock_manifest, try_lock_video, unlock_video
from wantui.storage.manifest import Manifest, VideoEntry, VideoState
from wantui.storage.manifest_errors import ManifestError
from wantui.storage.manifest_file import FINAL_VIDEO_STATES, ManifestFile, has_ended
from wantui.storage.video_files import find_video_files, remove_temporary_files


class ManifestStore:
    """Manifest and journal of one batch; re-reads only what other processes have changed."""

    def __init__(self, folder: BatchFolder) -> None:
        self.folder = folder
        self._manifest_file = ManifestFile(folder)

    def read_manifest(self) -> Manifest:
        """Return the manifest as it is on disk.

        Raises:
            ManifestError: the manifest is missing or damaged.
        """
        return self._manifest_file.read_manifest()

    def fold_journal_when_reopened(self) -> None:
        """Fold the journal into the manifest if it is long or was left by a crash."""
        with lock_manifest(self.folder.root):
            self._manifest_file.fold_journal_when_reopened()

    def fold_journal_of_ended_batch(self) -> None:
        """Fold the journal into the manifest if all videos have ended.

        The last video of a batch folds it, unless the video had ended before: it was retried, or its clip was deleted.

        Raises:
            OSError: the manifest cannot be written.
            ManifestError: the manifest is missing or damaged.
        """
        if not self.folder.journal_path.exists():  # reading a large manifest takes seconds
            return
        with lock_manifest(self.folder.root):
            manifest = self.read_manifest()
            if self.folder.journal_path.exists() and has_ended(manifest, FINAL_VIDEO_STATES):
                self._manifest_file.fold_journal()

    def end_videos(self, video_indices: Sequence[int], state: VideoState, error: str | None = None) -> None:
        """Record that videos were ended without being rendered, and remove their partial files."""
        if not video_indices:
            return
        with self._edit_manifest(video_indices) as manifest:
            for video_index in video_indices:
                _end_video(self.folder, manifest, video_index, state, _to_storable_text(error))

    def record_failures(self, video_indices: Sequence[int], error: str) -> None:
        """Record that videos cannot be rendered at present; their partial files stay."""
        with self._edit_manifest(video_indices) as manifest:
            for video_index in video_indices:
                entry = find_video_entry(manifest, video_index, self.folder)
                if not is_video_complete(self.folder, entry):
                    entry.state, entry.error = "failed", _to_storable_text(error)

    @contextmanager
    def _edit_manifest(self, video_indices: Sequence[int]) -> Iterator[Manifest]:
        """Lock and yield the manifest; afterwards write the entries of these videos that changed."""
        with lock_manifest(self.folder.root):
            try:
                manifest = self.read_manifest()
                entries_by_index = {
                    video_index: find_video_entry(manifest, video_index, self.folder) for video_index in video_indices
                }
                # Store outcomes instead of copies of entries: copying the recipes of 10,000 videos takes seconds.
                previous_outcomes = {
                    video_index: (entry.state, entry.collect_outcome())
                    for video_index, entry in entries_by_index.items()
                }
                yield manifest
                changed_indices = (
                    n
                    for n, (_, outcome) in previous_outcomes.items()
                    if outcome != manifest.videos[n].collect_outcome()
                )
                self._manifest_file.save_entries(
                    {video_index: previous_outcomes[video_index][0] for video_index in changed_indices}
                )
            except BaseException:
                self._manifest_file.forget_cached_manifest()  # the copy in memory may differ from the disk
                raise

    def edit_video_entry(self, video_index: int, edit: Callable[[VideoEntry], None]) -> None:
        """Edit the entry of one video under the manifest lock."""
        with self._edit_manifest([video_index]) as manifest:
            edit(find_video_entry(manifest, video_index, self.folder))


class ManifestStoreCache:
    """Cache of the most recently used `ManifestStore`: reading a large manifest again takes seconds."""

    def __init__(self) -> None:
        self._store: ManifestStore | None = None

    def get_store(self, folder: BatchFolder) -> ManifestStore:
        """Return the store of a folder, and replace the cached store of any other folder."""
        if self._store is None or self._store.folder.root != folder.root:
            self._store = ManifestStore(folder)
        return self._store


def _to_storable_text(error: str | None) -> str | None:
    """Return an error text that JSON can encode: paths in it may contain bytes that are not UTF-8."""
    return None if error is None else escape_unprintable(error, keep_lines=True)


def _end_video(folder: BatchFolder, manifest: Manifest, video_index: int, state: VideoState, error: str | None) -> None:
    if not try_lock_video(folder.root, video_index):
        return  # another engine is rendering it
    try:
        entry = find_video_entry(manifest, video_index, folder)
        cell_folder = manifest.find_cell_folder(entry)
        remove_temporary_files(find_video_files(folder, entry.variation, entry.number, cell_folder))
        if not is_video_complete(folder, entry):  # it may have been finished just before
            entry.state, entry.error = state, error
    finally:
        unlock_video(folder.root, video_index)


def is_video_complete(folder: BatchFolder, entry: VideoEntry) -> bool:
    """Return whether a video is recorded as done and all its files exist."""
    return entry.state == "done" and all((folder.root / path).exists() for path in entry.files.values())


def find_video_entry(manifest: Manifest, video_index: int, folder: BatchFolder) -> VideoEntry:
    """Return the manifest entry of the video with index `video_index`.

    Raises:
        ManifestError: the manifest has fewer videos, because it was replaced or shortened.
    """
    if video_index >= len(manifest.videos):
        raise ManifestError(
            f"{folder.manifest_path} has only {format_count(len(manifest.videos), 'video')}; video "
            f"{video_index + 1} is missing. To continue without it: wantui run --resume {folder.root}"
        )
    return manifest.videos[video_index]
