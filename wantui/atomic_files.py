"""Write files and folders that appear under their name only once they are complete.

They are written to a `.partial` neighbour, synced, and renamed. Folders may be shared with other users, who could put
a symbolic link in the place of a partial file: such links are removed, never followed.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Return the neighbour of a file or folder that holds it while it is written."""
    return path.with_name(path.name + ".partial")


def create_new(path: Path) -> tuple[int, int]:
    """Create an empty regular file in the place of whatever has its name; a symbolic link is removed, not followed.

    Returns:
        Device and inode of the file, for `replace_created`.

    Raises:
        OSError: it cannot be created.
    """
    path.parent.mkdir(exist_ok=True)  # and none above: a batch folder that is deleted meanwhile must not come back
    remove(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return status.st_dev, status.st_ino


def replace_created(partial: Path, path: Path, created: tuple[int, int]) -> None:
    """Give a file its final name, if it still is the one that `create_new` made.

    Raises:
        OSError: something else was put in its place while it was written, or it cannot be renamed.
    """
    status = partial.lstat()
    if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != created:
        raise OSError(f"{partial} was replaced by another file while it was written")
    partial.replace(path)


@contextmanager
def atomic_write(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield a path to write to, which replaces `path` when the block ends and is removed when it fails.

    Args:
        partial: that path; `partial_path(path)` by default. Each writer needs its own where several may write the same
            file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial or partial_path(path)
    created = create_new(partial)
    try:
        yield partial
        sync(partial)
        replace_created(partial, path, created)
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to write to, which replaces `path` when the block ends and is removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        for part in (*partial.rglob("*"), partial):
            sync(part)
        remove(path)
        partial.rename(path)
        sync(path.parent)
    except BaseException:
        remove(partial)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: it is a symbolic link, a FIFO or a device, or its bytes cannot be written.
    """
    # Without O_NONBLOCK a FIFO that somebody put in its place would be waited for, for ever.
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
    """Remove a file, a symbolic link (not what it points to) or a folder, if it is there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
