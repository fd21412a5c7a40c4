"""Lock file of the running engine, with the information that the engine publishes in it."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wantui.errors import UserError

ENGINE_LOCK = "engine.lock"
MAX_LOCK_BYTES = 1 << 20
"""Maximum number of bytes read from the lock file."""


def open_engine_lock(directory: Path, flags: int) -> int:
    """Open the lock file of a state directory with the flags of `os.open`; return its descriptor.

    Raises:
        UserError: something else than a regular file has its name.
        OSError: it cannot be opened.
    """
    path = directory / ENGINE_LOCK
    try:
        # Without O_NONBLOCK, opening a FIFO would block forever.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ENXIO, errno.ELOOP):  # a folder, a socket, or a loop of links
            raise _odd_lock_error(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _odd_lock_error(path)
    return descriptor


def _odd_lock_error(path: Path) -> UserError:
    return UserError(f"cannot use the engine lock {path}: it is not a regular file. Remove it, and try again")


def read_engine_info(directory: Path) -> dict[str, Any] | None:
    """Return the information published by the running engine: None without an engine, `{}` before it is published."""
    with prevent_engine_start(directory) as holder:
        return holder


@contextmanager
def prevent_engine_start(directory: Path) -> Iterator[dict[str, Any] | None]:
    """Prevent engines from starting inside the block; yield the running engine's information, or None without one."""
    try:
        descriptor = open_engine_lock(directory, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _parse_engine_info(os.pread(descriptor, MAX_LOCK_BYTES, 0))
        else:
            yield None
    finally:
        os.close(descriptor)


def _parse_engine_info(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:  # the engine is writing it
        return {}
    return content if isinstance(content, dict) else {}
