"""File locks in a batch folder: one for its manifest, and one for each video while a process renders it.

Both work between engines, machines and users. Lock files follow the umask, so that a group can share a folder.
"""

import errno
import fcntl
import math
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

MANIFEST_LOCK_FILE = ".lock"
VIDEO_LOCK_FILE = ".making"
"""Name of the file with one byte per video, which the rendering process locks."""
LOCK_POLL_SECONDS = 0.02
"""Seconds between two attempts to lock a file for a limited time."""
UNSUPPORTED_LOCK_ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""Error numbers of file systems without locks."""


@dataclass
class _OpenLockFile:
    """An open `.making` file, and the videos that this process has locked in it, by folder and number."""

    descriptor: int
    identity: tuple[int, int]
    locked_videos: set[tuple[Path, int]] = field(default_factory=set)

    @property
    def is_deleted(self) -> bool:
        """Return whether the file is deleted, or cannot be examined (ESTALE)."""
        try:
            return os.fstat(self.descriptor).st_nlink == 0
        except OSError:
            return True


_open_lock_files: dict[tuple[int, int], _OpenLockFile] = {}
"""Open lock files by device and inode. One descriptor per file: closing any descriptor drops all locks on it."""
_lock_files_mutex = threading.Lock()


def try_lock_video(folder: Path, video_index: int) -> bool:
    """Lock a video against other processes, engines and machines until `unlock_video` or the end of this process.

    Returns:
        True if this process has the lock, or the file system has no locks.

    Raises:
        OSError: the lock file cannot be opened, for example because another user made it unwritable.
    """
    with _lock_files_mutex:
        lock_file = _open_video_lock_file(folder)
        try:
            fcntl.lockf(lock_file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, video_index)
        except OSError as error:
            _close_unused_lock_file(lock_file)
            if error.errno in (errno.EACCES, errno.EAGAIN):  # another process has the lock
                return False
            if error.errno in UNSUPPORTED_LOCK_ERRORS:
                return True
            raise
        lock_file.locked_videos.add((folder, video_index))
        return True


def unlock_video(folder: Path, video_index: int) -> None:
    """Release the lock of a video, if this process has it."""
    with _lock_files_mutex:
        # Search by the folder's path: the lock file may have been deleted or replaced.
        for lock_file in list(_open_lock_files.values()):
            if (folder, video_index) not in lock_file.locked_videos:
                continue
            lock_file.locked_videos.discard((folder, video_index))
            if all(
                locked_index != video_index for _, locked_index in lock_file.locked_videos
            ):  # unless it is also locked by another path to the same folder
                with suppress(OSError):
                    fcntl.lockf(lock_file.descriptor, fcntl.LOCK_UN, 1, video_index)
            _close_unused_lock_file(lock_file)


def _open_video_lock_file(folder: Path) -> _OpenLockFile:
    path = folder / VIDEO_LOCK_FILE
    with suppress(OSError):
        if (open_file := _open_lock_files.get(_make_file_identity(path.stat()))) is not None:
            return open_file
    # Close the lock files of deleted folders, which nothing else would ever close.
    for lock_file in list(_open_lock_files.values()):
        if lock_file.is_deleted:
            _close_lock_file(lock_file)
    descriptor = _open_lock_file(path)
    try:
        lock_file = _OpenLockFile(descriptor, _make_file_identity(os.fstat(descriptor)))
    except OSError:
        os.close(descriptor)
        raise
    _open_lock_files[lock_file.identity] = lock_file
    return lock_file


def _close_unused_lock_file(lock_file: _OpenLockFile) -> None:
    if not lock_file.locked_videos:
        _close_lock_file(lock_file)


def _close_lock_file(lock_file: _OpenLockFile) -> None:
    del _open_lock_files[lock_file.identity]
    with suppress(OSError):  # the descriptor is closed even if a network file system reports an error
        os.close(lock_file.descriptor)


def _make_file_identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _open_lock_file(path: Path) -> int:
    """Open a lock file for writing without following links; create it if it is missing.

    A new file gets its permissions from the umask.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        # Earlier versions created it with mode 0600; give it the permissions of the folder.
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o600:
            with suppress(OSError):
                os.fchmod(descriptor, path.parent.stat().st_mode & 0o666)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def claim_batch_folder(folder: Path) -> None:
    """Claim an empty folder by creating its lock file; only one of several runs can succeed.

    Raises:
        FileExistsError: another run has claimed the folder.
        OSError: the lock file cannot be created.
    """
    os.close(
        os.open(folder / MANIFEST_LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    )


def lock_manifest(folder: Path) -> AbstractContextManager[None]:
    """Lock a batch folder's manifest and the other files that several processes change; see `lock_by_file`."""
    return lock_by_file(folder / MANIFEST_LOCK_FILE)


@contextmanager
def lock_by_file(path: Path, max_seconds: float = math.inf) -> Iterator[None]:
    """Create a lock file and wait for its exclusive lock; has no effect on a file system without locks.

    Args:
        max_seconds: maximum time to wait; then the block runs without the lock.

    Raises:
        OSError: the lock file cannot be opened.
    """
    # Lock a file that is open for writing: on network file systems, locks of directories apply to one machine only.
    descriptor = _open_lock_file(path)
    deadline = time.monotonic() + max_seconds
    try:
        while True:
            try:
                _wait_for_lock(descriptor, deadline)
            except OSError as error:
                if error.errno not in UNSUPPORTED_LOCK_ERRORS:
                    raise
            current_descriptor = _open_lock_file(path)
            if os.path.sameopenfile(descriptor, current_descriptor):
                os.close(current_descriptor)
                break
            os.close(descriptor)  # the file was replaced meanwhile: other processes lock the new one
            descriptor = current_descriptor
        yield
    finally:
        os.close(descriptor)


def _wait_for_lock(descriptor: int, deadline: float) -> None:
    """Lock an open file exclusively; at `deadline` of the monotonic clock, return without the lock."""
    if math.isinf(deadline):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return
        time.sleep(LOCK_POLL_SECONDS)


def can_lock_files(folder: Path) -> bool:
    """Return whether files in a folder can be locked; leave no file behind."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return False
    return True


def open_lock_files(folder: Path) -> None:
    """Open the lock files of a batch folder for writing, creating missing files, and close them again.

    Raises:
        OSError: names the lock file that cannot be opened.
    """
    os.close(_open_lock_file(folder / MANIFEST_LOCK_FILE))
    with _lock_files_mutex:
        _close_unused_lock_file(_open_video_lock_file(folder))
