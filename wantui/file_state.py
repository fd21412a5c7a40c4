"""State of a file on disk, by which caches of its content recognise a change."""

import os
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """File status: at least one value changes when the file is written or replaced. Links are followed.

    The modification time alone is not enough: `cp -p`, `rsync --inplace -t` and archives set it, and the weights of two
    fine-tunes have equal sizes. No program can set the change time.
    """

    size_bytes: int
    modified_ns: int
    """Modification time in nanoseconds."""
    changed_ns: int
    """Change time of the inode in nanoseconds."""
    inode: int
    device: int

    @classmethod
    def from_path(cls, path: Path) -> "FileState":
        """Return the state of the file at a path.

        Raises:
            OSError: the file does not exist, or cannot be reached.
        """
        return cls.from_status(path.stat())

    @classmethod
    def from_status(cls, status: os.stat_result) -> "FileState":
        """Return the state of a file from the result of `stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


MISSING_FILE = FileState(0, 0, 0, 0, 0)
"""State of a file that does not exist."""
UNREADABLE_FILE = FileState(0, 0, 0, -1, 0)
"""State of a file that exists, but cannot be opened."""


def read_file_state(path: Path) -> FileState:
    """Return the state of a file; `MISSING_FILE` if it does not exist, `UNREADABLE_FILE` if it cannot be opened."""
    try:
        # Open the file: only then does a network file system ask the server instead of its cache.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return MISSING_FILE
    except (OSError, ValueError):  # ValueError: a path with a null character
        return UNREADABLE_FILE
    try:
        return FileState.from_status(os.fstat(descriptor))
    finally:
        os.close(descriptor)
