"""Classify errors of writing a video's files: full disk, deleted folder, unwritable folder, or conflicting files."""

import errno
import math
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wantui.errors import SHORTAGE_ERROR_NUMBERS
from wantui.json_files import REFUSED_ERROR_NUMBERS, find_system_refusal

DISK_FULL_ERROR_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE_ERROR_NUMBERS = (errno.EROFS, errno.EIO, *REFUSED_ERROR_NUMBERS)
"""Error numbers of a file system that is read-only, owned by another user, damaged, or unreachable."""

PATH_CONFLICT_ADVICE_BY_ERROR_NUMBER = {
    errno.ENOENT: "A file or a folder was removed while the video was generated. Generate the video again",
    errno.ENOTDIR: "A file is in the place of a folder. Remove it, then generate the video again",
    errno.EISDIR: "A folder is in the place of a file. Remove it, then generate the video again",
    errno.EEXIST: "A file is in the place of a folder. Remove it, then generate the video again",
    errno.ENOTEMPTY: "Another program wrote into this folder. Generate the video again",
}
"""Cause and remedy for each error number of a failed write to a video's files."""


def is_outage(error: BaseException, folder: Path) -> bool:
    """Return whether an error comes from a file system or a lack of resources, rather than from an individual file.

    The file system may be full, protected or unreachable; memory, threads or file descriptors may be lacking. An array
    larger than the memory of this machine is damage: its recorded shape is wrong.
    EIO may be damage or an outage; it counts as damage, because a video can be generated again. A file without
    permissions in a writable folder is a fault of that file, not an outage.

    Args:
        folder: folder of the file that could not be read or written.
    """
    if _is_impossible_allocation(error):
        return False
    if (refusal := find_system_refusal(error)) is not None and refusal.errno in SHORTAGE_ERROR_NUMBERS:
        return True
    if not isinstance(error, OSError) or error.errno == errno.EIO:
        return False
    if error.errno in (errno.EACCES, errno.EPERM):
        return probe_write_error(folder) is not None
    return error.errno in (*DISK_FULL_ERROR_NUMBERS, errno.EFBIG, *UNWRITABLE_ERROR_NUMBERS)


def _is_impossible_allocation(error: BaseException) -> bool:
    """Return whether numpy could not allocate an array that is larger than the memory of this machine."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    if not isinstance(error, MemoryError) or shape is None or dtype is None:
        return False
    return math.prod(shape) * dtype.itemsize > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def is_folder_deleted(root: Path) -> bool:
    """Return whether a folder was deleted; False if it cannot be examined."""
    try:
        root.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def find_unwritable_folder(batch_root: Path, error: OSError) -> tuple[Path, str] | None:
    """Return the first unwritable folder of a batch, and the reason; None if all folders can be written.

    Args:
        error: error of the failed write.
    """
    if error.errno not in UNWRITABLE_ERROR_NUMBERS:
        return None
    for folder in _list_affected_folders(batch_root, error):
        if (reason := probe_write_error(folder)) is not None:
            return folder, reason
    return None


def _list_affected_folders(batch_root: Path, error: OSError) -> Iterator[Path]:
    for path in _list_error_paths(error):
        if path.parent.is_relative_to(batch_root) and not is_folder_deleted(path.parent):
            yield path.parent
    yield batch_root


def _list_error_paths(error: OSError) -> list[Path]:
    """Return the absolute paths that an error names; FFmpeg writes them as `file:` URLs."""
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    return [Path(os.fsdecode(name).removeprefix("file:")).absolute() for name in names]


def find_full_outside_file(batch_root: Path, error: OSError) -> tuple[Path, Path] | None:
    """Return the file outside a batch that could not be written, and its nearest existing folder; None for others.

    Libraries write such files, for example compiled kernels.
    """
    outside_paths = (path for path in _list_error_paths(error) if not path.is_relative_to(batch_root))
    if (path := next(outside_paths, None)) is None:
        return None
    return path, next(folder for folder in path.parents if os.access(folder, os.F_OK))


def describe_file_too_large(error: OSError) -> str | None:
    """Describe why a file exceeds the size limit of a process or file system; None for other errors."""
    if error.errno != errno.EFBIG:
        return None
    paths = _list_error_paths(error)
    name = paths[0] if paths else "a file of the video"
    return (
        f"cannot write {name}: {error.strerror or error}. Raise the limit of file sizes (ulimit -f) and restart the "
        "engine, or use a file system without such a limit (FAT allows 4 GB). Then generate the video again: wantui "
        "queue retry"
    )


def describe_path_conflict(batch_root: Path, error: OSError) -> str | None:
    """Describe an error that another program caused by removing or replacing files; None for other errors."""
    paths = _list_error_paths(error)
    if error.errno not in PATH_CONFLICT_ADVICE_BY_ERROR_NUMBER or not paths:
        return None
    path = paths[-1]  # for a failed rename, the conflict is at the second name
    if not path.is_relative_to(batch_root):
        return None
    return (
        f"cannot write {path}: {error.strerror or error}. {PATH_CONFLICT_ADVICE_BY_ERROR_NUMBER[error.errno]}: wantui "
        "queue retry"
    )


def describe_sticky_bit_conflict(error: OSError) -> str | None:
    """Describe why another user's file in a folder with the sticky bit cannot be replaced; None for other errors.

    Such a folder is writable, so this error would otherwise look temporary.
    """
    if error.errno not in (errno.EPERM, errno.EACCES):
        return None
    for path in _list_error_paths(error):
        try:
            file_status, folder_status = path.lstat(), path.parent.stat()
        except OSError:
            continue
        if folder_status.st_mode & stat.S_ISVTX and os.geteuid() not in (file_status.st_uid, folder_status.st_uid):
            owner_name = _find_user_name(file_status.st_uid)
            return (
                f"cannot replace {path}: it belongs to {owner_name}, and only owners may replace files in its folder "
                f"(sticky bit). Have {owner_name} continue the batch, or continue a copy of its folder"
            )
    return None


def _find_user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"


def probe_write_error(folder: Path) -> str | None:
    """Try to write into a folder; return the system's reason if that fails."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"wantui")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return None if error.errno in DISK_FULL_ERROR_NUMBERS else error.strerror or str(error)
    return None
