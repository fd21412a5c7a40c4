"""Locks in a batch folder: on its manifest, and on each video while a process makes it.

Both hold between engines, machines and users. Lock files follow the umask, so that a group can share a folder.
"""

import errno
import fcntl
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from wantui.errors import UserError
from wantui.storage.layout import WRITTEN_FOLDERS, BatchFolder

MANIFEST_LOCK = ".lock"
WRITE_ADVICE = {
    errno.EROFS: "Have its file system mounted for writing, or copy the folder to another one.",
    errno.EACCES: "Have its owner give you the right to (chmod -R g+rwX), or copy it to a folder of yours.",
    errno.EPERM: "Have its owner give you the right to (chmod -R g+rwX), or copy it to a folder of yours.",
    errno.ENOSPC: "Make room on its file system.",
    errno.EDQUOT: "Make room, or have your quota raised.",
    errno.ELOOP: "Remove this symbolic link.",
}
"""Advice for a batch folder that cannot be written, by the number of the error."""
DEFAULT_WRITE_ADVICE = "When that is corrected, try again; or copy the folder to another file system."
VIDEO_LOCKS = ".making"
"""A file with a byte for each video, which the process that makes the video locks."""
UNSUPPORTED_LOCK_ERRORS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""Answers of file systems that have no locks."""


@dataclass
class _OpenLockFile:
    """The descriptor of one `.making` file, and the videos that this process has locked by it: folder and number."""

    descriptor: int
    identity: tuple[int, int]
    videos: set[tuple[Path, int]] = field(default_factory=set)

    @property
    def is_deleted(self) -> bool:
        """Return whether the file is deleted, or cannot be examined (ESTALE)."""
        try:
            return os.fstat(self.descriptor).st_nlink == 0
        except OSError:
            return True


_open_lock_files: dict[tuple[int, int], _OpenLockFile] = {}
"""Lock files by device and inode, one descriptor each: closing any descriptor of a file drops all locks on it."""
_mutex = threading.Lock()


def try_lock_video(folder: Path, number: int) -> bool:
    """Lock a video against other processes, engines and machines until `unlock_video` or the end of this process.

    Returns:
        Whether this process has the lock; also true on a file system without locks.

    Raises:
        OSError: the lock file cannot be opened, as where another user made it unwritable.
    """
    with _mutex:
        locks = _get_lock_file(folder)
        try:
            fcntl.lockf(locks.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError as error:
            _close_unused(locks)
            if error.errno in (errno.EACCES, errno.EAGAIN):  # what POSIX calls a lock of another process
                return False
            if error.errno in UNSUPPORTED_LOCK_ERRORS:
                return True
            raise
        locks.videos.add((folder, number))
        return True


def unlock_video(folder: Path, number: int) -> None:
    """Release a video's lock; do nothing if it is not held."""
    with _mutex:
        # By the folder's name: its file may not be there any more, or be another one.
        for locks in list(_open_lock_files.values()):
            if (folder, number) not in locks.videos:
                continue
            locks.videos.discard((folder, number))
            if all(other != number for _, other in locks.videos):  # by another path to the same folder
                with suppress(OSError):
                    fcntl.lockf(locks.descriptor, fcntl.LOCK_UN, 1, number)
            _close_unused(locks)


def _get_lock_file(folder: Path) -> _OpenLockFile:
    path = folder / VIDEO_LOCKS
    with suppress(OSError):
        if (known := _open_lock_files.get(_file_identity(path.stat()))) is not None:
            return known
    # Files that were deleted with their folder are of no use to anybody, and would be kept open for ever.
    for locks in list(_open_lock_files.values()):
        if locks.is_deleted:
            _close(locks)
    descriptor = _open_for_locking(path)
    try:
        locks = _OpenLockFile(descriptor, _file_identity(os.fstat(descriptor)))
    except OSError:
        os.close(descriptor)
        raise
    _open_lock_files[locks.identity] = locks
    return locks


def _close_unused(locks: _OpenLockFile) -> None:
    if not locks.videos:
        _close(locks)


def _close(locks: _OpenLockFile) -> None:
    del _open_lock_files[locks.identity]
    with suppress(OSError):  # the descriptor is free, whatever a network file system answers
        os.close(locks.descriptor)


def _file_identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _open_for_locking(path: Path) -> int:
    """Open a lock file for writing, and make it by the umask where it is missing; a link is not followed."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        # Earlier versions made it for one user only; the folder says who else may write.
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == 0o600:
            with suppress(OSError):
                os.fchmod(descriptor, path.parent.stat().st_mode & 0o666)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def claim_batch_folder(folder: Path) -> None:
    """Make the lock file of an empty folder, which only one of several runs that want the folder can do.

    Raises:
        FileExistsError: another run has made it.
        OSError: it cannot be made.
    """
    os.close(os.open(folder / MANIFEST_LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666))


@contextmanager
def lock_manifest(folder: Path) -> Iterator[None]:
    """Keep other processes from writing a folder's manifest; without effect on a file system without locks.

    Raises:
        OSError: the lock file cannot be opened.
    """
    # A file that is open for writing: of a directory, network file systems give locks that hold on one machine only.
    descriptor = _open_for_locking(folder / MANIFEST_LOCK)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in UNSUPPORTED_LOCK_ERRORS:
                raise
        yield
    finally:
        os.close(descriptor)


def can_lock_files(folder: Path) -> bool:
    """Return whether processes on several machines can lock files in a folder; leave no file in it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            return False
    return True


def check_writable(folder: BatchFolder) -> None:
    """Find out that a batch folder cannot be written before hours are spent on its videos.

    Raises:
        OSError: names what cannot be written.
    """
    os.close(_open_for_locking(folder.root / MANIFEST_LOCK))
    with _mutex:
        _close_unused(_get_lock_file(folder.root))
    parents = {folder.root, *(folder.root / name for name in WRITTEN_FOLDERS)}
    for parent in sorted(parents):
        if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


def refuse_unwritable(folder: BatchFolder) -> None:
    """Refuse a batch folder that this user cannot write.

    Raises:
        UserError: names what cannot be written, and what to do.
    """
    try:
        check_writable(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the batch folder {folder.root}: {error.filename or folder.root}: {error.strerror}. "
            + WRITE_ADVICE.get(error.errno or 0, DEFAULT_WRITE_ADVICE)
        ) from None
