"""Check that a batch folder can be written, before hours are spent on its videos, and explain why it cannot."""

import errno
import os
from pathlib import Path

from wantui.errors import UserError
from wantui.paths import find_access_error
from wantui.storage.layout import WRITTEN_FOLDERS, BatchFolder
from wantui.storage.locks import open_lock_files
from wantui.storage.video_files import LinkedFolderError, find_linked_folder

WRITE_ADVICE_BY_ERROR_NUMBER = {
    errno.EROFS: "Mount its file system for writing, or copy the folder to another file system.",
    errno.EACCES: "Ask its owner for write permission (chmod -R g+rwX), or copy it to a folder of your own.",
    errno.EPERM: "Ask its owner for write permission (chmod -R g+rwX), or copy it to a folder of your own.",
    errno.ENOSPC: "Free disk space on its file system.",
    errno.EDQUOT: "Free disk space, or ask for a higher quota.",
    errno.ENOENT: "The folder was moved or deleted. Use its new path.",
    errno.ELOOP: "Remove this symbolic link.",
}
"""Advice for a batch folder that cannot be written, by error number."""
DEFAULT_WRITE_ADVICE = "Fix this and try again, or copy the folder to another file system."


def check_batch_writable(folder: BatchFolder) -> None:
    """Check that a batch folder can be written, before hours are spent on its videos.

    Raises:
        OSError: names the path that cannot be written.
    """
    open_lock_files(folder.root)
    folders = {folder.root, *(folder.root / name for name in WRITTEN_FOLDERS)}
    for written_folder in sorted(folders):
        if written_folder.is_dir() and (error := find_access_error(written_folder)) is not None:
            raise error


def explain_write_error(error: OSError, path: Path) -> str:
    """Return why a path in a batch folder cannot be written, with advice: "cannot write PATH: reason. Advice"."""
    advice = WRITE_ADVICE_BY_ERROR_NUMBER.get(error.errno or 0, DEFAULT_WRITE_ADVICE)
    return f"cannot write {path}: {error.strerror or error}. {advice}"


def explain_batch_write_error(error: OSError, batch_root: Path) -> str:
    """Return why a batch folder cannot be written, with the failing path and advice."""
    advice = WRITE_ADVICE_BY_ERROR_NUMBER.get(error.errno or 0, DEFAULT_WRITE_ADVICE)
    reason = f"{error.filename or batch_root}: {error.strerror or error}"
    return f"cannot write the batch folder {batch_root}: {reason}. {advice}"


def reject_unwritable_batch(folder: BatchFolder) -> None:
    """Reject a batch folder that this user cannot write.

    Raises:
        UserError: names the path that cannot be written, with advice.
    """
    try:
        check_batch_writable(folder)
    except OSError as error:
        raise UserError(explain_batch_write_error(error, folder.root)) from None


def check_result_path(batch_root: Path, path: Path) -> None:
    """Reject a path in a batch folder that cannot be written, before hours are spent on the result.

    The user did not choose the path, so no message advises another one.

    Raises:
        LinkedFolderError: one of the folders is a symbolic link.
        UserError: the batch folder cannot be written, the path is not a regular file, or its folder cannot be created
            or written.
    """
    if (link := find_linked_folder(batch_root, path)) is not None:
        raise LinkedFolderError(link)
    reject_unwritable_batch(BatchFolder(batch_root))
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is not a regular file. Move it out of the batch folder")
    nearest_existing_path = next(folder for folder in path.parents if os.path.lexists(folder))
    if not nearest_existing_path.is_dir():
        raise UserError(
            f"cannot write {path}: {nearest_existing_path} is not a folder. Move it out of the batch folder"
        )
    if (error := find_access_error(nearest_existing_path)) is not None:
        raise UserError(explain_batch_write_error(error, batch_root))
