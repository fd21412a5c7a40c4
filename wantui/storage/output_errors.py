"""Classify errors of writing a video's files: full disk, deleted folder, unwritable folder, or conflicting files."""

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
"""Error numbers of a file system that is read-only, owned by another user, damaged, or unreachable."""


PATH_CONFLICT_ADVICE = {
    errno.ENOENT: "A folder was removed while the video was generated. Generate the video again",
    errno.ENOTDIR: "A file is in the place of a folder. Remove it, then generate the video again",
    errno.EISDIR: "A folder is in the place of a file. Remove it, then generate the video again",
    errno.EEXIST: "A file is in the place of a folder. Remove it, then generate the video again",
    errno.ENOTEMPTY: "Another program wrote into this folder. Generate the video again",
}
"""Cause and remedy for each error number of a failed write to a video's files."""


def is_folder_deleted(root: Path) -> bool:
    """Return whether a folder was deleted; False if it cannot be examined."""
    try:
        root.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def find_unwritable_folder(root: Path, error: OSError) -> tuple[Path, str] | None:
    """Return the folder of a batch that cannot be written, and the reason; None if all can be written.

    Args:
        error: error of the failed write.
    """
    if error.errno not in UNWRITABLE_ERRORS:
        return None
    for folder in _list_affected_folders(root, error):
        if (reason := probe_write_error(folder)) is not None:
            return folder, reason
    return None


def _list_affected_folders(root: Path, error: OSError) -> Iterator[Path]:
    for name in (error.filename, error.filename2):
        if isinstance(name, str | bytes):
            folder = Path(os.fsdecode(name)).absolute().parent
            if folder.is_relative_to(root) and not is_folder_deleted(folder):
                yield folder
    yield root


def describe_path_conflict(root: Path, error: OSError) -> str | None:
    """Describe an error of files that others removed or replaced while wantui wrote them; None for other errors."""
    # For a failed rename, the conflict is at the second name.
    name = error.filename if error.filename2 is None else error.filename2
    if error.errno not in PATH_CONFLICT_ADVICE or not isinstance(name, str | bytes):
        return None
    path = Path(os.fsdecode(name))
    if not path.absolute().is_relative_to(root):
        return None
    return f"cannot write {path}: {error.strerror}. {PATH_CONFLICT_ADVICE[error.errno]}: wantui queue retry"


def describe_sticky_conflict(error: OSError) -> str | None:
    """Describe why another user's file in a folder with the sticky bit cannot be replaced; None for other errors.

    Such a folder is writable, so that this error would otherwise look temporary.
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
            owner = _find_user_name(file.st_uid)
            return (
                f"cannot replace {path}: it belongs to {owner}, and only owners may replace files in its folder "
                f"(sticky bit). Have {owner} continue the batch, or continue a copy of its folder"
            )
    return None


def _find_user_name(number: int) -> str:
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
