"""Write files and folders that get their final name only when they are complete.

They are written to a `.partial` path in the same folder, synced, and renamed. Other users of a shared folder could put
a symbolic link in the place of a partial file: such links are removed, never followed.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def make_partial_path(path: Path) -> Path:
    """Return the path at which a file or folder is written before it is renamed to `path`."""
    return path.with_name(path.name + ".partial")


def create_empty_file(path: Path) -> tuple[int, int]:
    """Create an empty regular file, replacing anything at its path; a symbolic link is removed, not followed.

    Returns:
        Device and inode of the file, for `rename_created_file`.

    Raises:
        OSError: the file cannot be created.
    """
    descriptor = _open_empty_file(path)
    try:
        return _read_file_identity(descriptor)
    finally:
        os.close(descriptor)


def _open_empty_file(path: Path) -> int:
    path.parent.mkdir(exist_ok=True)  # no parents: a batch folder that is deleted meanwhile must not reappear
    remove_path(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _read_file_identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def rename_created_file(partial_path: Path, path: Path, file_identity: tuple[int, int]) -> None:
    """Rename a partial file to its final name, if it is still the file that `create_empty_file` created.

    Raises:
        OSError: the file was replaced or removed while it was written, or cannot be renamed.
    """
    _check_created_file(partial_path, file_identity)
    partial_path.replace(path)


def remove_created_file(partial_path: Path, file_identity: tuple[int, int]) -> None:
    """Remove a partial file, if it is still the file that `create_empty_file` created: that of another writer stays."""
    with suppress(OSError):
        _check_created_file(partial_path, file_identity)
        partial_path.unlink()


def _check_created_file(partial_path: Path, file_identity: tuple[int, int]) -> None:
    try:
        status = partial_path.lstat()
    except FileNotFoundError as error:
        if not partial_path.parent.exists():
            raise
        reason = "another process removed it while it was written, perhaps because it writes the same file"
        raise FileNotFoundError(error.errno, reason, str(partial_path)) from None
    if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != file_identity:
        raise OSError(f"{partial_path} was replaced by another file while it was written")


@contextmanager
def atomic_write(path: Path, partial_path: Path | None = None) -> Iterator[Path]:
    """Yield a partial path to write to; it replaces `path` when the block ends, and is removed if the block fails.

    A file that is replaced keeps its permissions, which its user may have restricted.

    Args:
        partial_path: path of the partial file; `make_partial_path(path)` by default. Concurrent writers of a file need
            different paths.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = partial_path or make_partial_path(path)
    kept_mode = _read_file_mode(path)
    descriptor = _open_empty_file(partial_path)  # while it is open, no file of another writer can have its inode
    file_identity = _read_file_identity(descriptor)
    try:
        if kept_mode is not None:
            _set_file_mode(partial_path, kept_mode | 0o600)  # before the content, which may be private
        yield partial_path
        _check_created_file(partial_path, file_identity)
        sync_to_disk(partial_path)
        if kept_mode is not None:
            _set_file_mode(partial_path, kept_mode)
        rename_created_file(partial_path, path, file_identity)
        _sync_folder(path.parent)
    except BaseException:
        remove_created_file(partial_path, file_identity)
        raise
    finally:
        os.close(descriptor)


def _read_file_mode(path: Path) -> int | None:
    """Return the permissions of a regular file; None if there is none at the path."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    return stat.S_IMODE(mode) & 0o777 if stat.S_ISREG(mode) else None


def _set_file_mode(path: Path, mode: int) -> None:
    """Set the permissions of a file if they differ: on vfat and exFAT, only the owner of the mount may set them."""
    if _read_file_mode(path) != mode:
        path.chmod(mode)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a partial folder to write to; it replaces `path` when the block ends, and is removed if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = make_partial_path(path)
    remove_path(partial_folder)
    partial_folder.mkdir()
    try:
        yield partial_folder
        publish_folder(partial_folder, path)
    except BaseException:
        remove_path(partial_folder)
        raise


def publish_folder(partial_folder: Path, path: Path) -> None:
    """Write a complete folder to disk, and rename it to its final name, replacing anything at that path.

    Raises:
        OSError: the folder contains something else than files and folders, or cannot be written.
    """
    for part in (*partial_folder.rglob("*"), partial_folder):
        sync_to_disk(part)
    remove_path(path)
    partial_folder.rename(path)
    _sync_folder(path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk.

    Raises:
        OSError: the path is a symbolic link, a FIFO or a device, or cannot be written to disk.
    """
    # Without O_NONBLOCK, opening a FIFO in the place of the file would block forever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Wait until the entries of a folder are on disk; users may name a folder by a symbolic link, which is followed."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text_atomically(path: Path, text: str) -> None:
    """Replace a text file atomically, with UTF-8 text."""
    with atomic_write(path) as partial_path:
        partial_path.write_text(text, encoding="utf-8")


def remove_path(path: Path) -> None:
    """Remove a file, a symbolic link (not its target) or a folder, if it exists."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
