"""Nothing exists until it is whole: files are written to a `.partial` neighbour, synced, and renamed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wantui.errors import UserError


def partial_path(path: Path) -> Path:
    """The neighbour of a file or folder that holds it while it is written."""
    return path.with_name(path.name + ".partial")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends, and is removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file, or leave what was there."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Keep any other program that asks for the same out of a folder, for as long as the block lasts or this one lives.

    Raises:
        UserError: another one is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another wantui is at work in {folder}; wait until it has ended, or stop it") from None
        except OSError:
            pass  # a network file system without locks: there is nothing to hold
        yield
    finally:
        os.close(descriptor)
