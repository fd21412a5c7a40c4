"""Lock file of the running engine, with the information that the engine publishes in it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wantui.queue.state_files import open_state_file

ENGINE_LOCK_FILE = "engine.lock"
MAX_LOCK_BYTES = 1 << 20
"""Maximum number of bytes read from the lock file."""


def read_engine_info(directory: Path) -> dict[str, Any] | None:
    """Return the information published by the running engine: None without an engine, `{}` before it is published."""
    with prevent_engine_start(directory) as engine_info:
        return engine_info


@contextmanager
def prevent_engine_start(directory: Path) -> Iterator[dict[str, Any] | None]:
    """Prevent engines from starting inside the block; yield the running engine's information, or None without one."""
    try:
        descriptor = open_state_file(directory / ENGINE_LOCK_FILE, os.O_RDONLY)
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
