"""Distinguish why the files of a video could not be written: a full disk, a folder that is deleted or cannot be
written."""

import errno
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ENODEV,
    errno.ENXIO,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EREMOTEIO,
)
"""Errors of a file system that is read-only, of another user, damaged, or out of reach of the network."""


PATH_CONFLICT_ADVICE = {
    errno.ENOENT: "A folder was removed while the video was made. Make the video again",
    errno.ENOTDIR: "A file has the place of a folder. Remove it, then make the video again",
    errno.EISDIR: "A folder has the place of a file. Remove it, then make the video again",
    errno.EEXIST: "A file has the place of a folder. Remove it, then make the video again",
    errno.ENOTEMPTY: "Something else wrote into this folder. Make the video again",
}
"""Cause and remedy for each error number of a failed write to a video's files."""


def is_folder_deleted(root: Path) -> bool:
    """Return whether a folder was deleted; one that cannot be looked at is not."""
    try:
        root.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def find_unwritable_folder(root: Path, error: OSError) -> tuple[Path, str] | None:
    """Return the folder of a batch that cannot be written now, and why; None where all can be.

    Args:
        error: what a write failed with.
    """
    if error.errno not in UNWRITABLE_ERRORS:
        return None
    for folder in _affected_folders(root, error):
        if (reason := probe_write_error(folder)) is not None:
            return folder, reason
    return None


def _affected_folders(root: Path, error: OSError) -> Iterator[Path]:
    for name in (error.filename, error.filename2):
        if isinstance(name, str | bytes):
            folder = Path(os.fsdecode(name)).absolute().parent
            if folder.is_relative_to(root) and not is_folder_deleted(folder):
                yield folder
    yield root


def describe_path_conflict(root: Path, error: OSError) -> str | None:
    """Return that files of a batch were removed or replaced while they were written; None for other errors."""
    # Of two names, as of a file that gets its final one, the second is where something is in the way.
    name = error.filename if error.filename2 is None else error.filename2
    if error.errno not in PATH_CONFLICT_ADVICE or not isinstance(name, str | bytes):
        return None
    path = Path(os.fsdecode(name))
    if not path.absolute().is_relative_to(root):
        return None
    return f"cannot write {path}: {error.strerror}. {PATH_CONFLICT_ADVICE[error.errno]}: wantui queue retry"


def describe_sticky_conflict(error: OSError) -> str | None:
    """Return why a file cannot be replaced or removed that another user owns in a folder with the sticky bit.

    Such a folder can be written, so that nothing else tells this error from one that passes.
    """
    if error.errno not in (errno.EPERM, errno.EACCES):
        return None
    for name in (error.filename, error.filename2):
        if not isinstance(name, str | bytes):
            continue
        path = Path(os.fsdecode(name)).absolute()
        try:
            file, folder = path.lstat(), path.parent.stat()
        except OSError:
            continue
        if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (file.st_uid, folder.st_uid):
            owner = _user_name(file.st_uid)
            return (
                f"cannot replace {path}: it belongs to {owner}, and its folder lets only owners replace files "
                f"(sticky bit). Have {owner} continue the batch, or continue a copy of its folder"
            )
    return None


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def probe_write_error(folder: Path) -> str | None:
    """Try to write into a folder; return the system's reason if that fails."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"wantui")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return None if error.errno in DISK_FULL_ERRORS else error.strerror or str(error)
    return None
