"""Write files and folders that get their final name only when they are complete.

They are written to a `.partial` path in the same folder, synced, and renamed. Other users of a shared folder could put
a symbolic link in the place of a partial file: such links are removed, never followed.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Return the path at which a file or folder is written before it is renamed to `path`."""
    return path.with_name(path.name + ".partial")


def create_new(path: Path) -> tuple[int, int]:
    """Create an empty regular file, replacing anything at its path; a symbolic link is removed, not followed.

    Returns:
        Device and inode of the file, for `replace_created`.

    Raises:
        OSError: the file cannot be created.
    """
    path.parent.mkdir(exist_ok=True)  # no parents: a batch folder that is deleted meanwhile must not reappear
    remove(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino


def replace_created(partial: Path, path: Path, created: tuple[int, int]) -> None:
    """Rename a partial file to its final name, if it is still the file that `create_new` created.

    Raises:
        OSError: the file was replaced while it was written, or cannot be renamed.
    """
    status = partial.lstat()
    if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != created:
        raise OSError(f"{partial} was replaced by another file while it was written")
    partial.replace(path)


@contextmanager
def atomic_write(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a partial path to write to; it replaces `path` when the block ends, and is removed if the block fails.

    Args:
        partial: the partial path; `partial_path(path)` by default. Concurrent writers of one file need different paths.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial or partial_path(path)
    created = create_new(partial)
    try:
        yield partial
        sync_to_disk(partial)
        replace_created(partial, path, created)
        sync_to_disk(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a partial folder to write to; it replaces `path` when the block ends, and is removed if the block fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        for part in (*partial.rglob("*"), partial):
            sync_to_disk(part)
        remove(path)
        partial.rename(path)
        sync_to_disk(path.parent)
    except BaseException:
        remove(partial)
        raise


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


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, a symbolic link (not its target) or a folder, if it exists."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
