"""The lock that an engine holds for life, and what it publishes in it."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ENGINE_LOCK = "engine.lock"
MAX_LOCK_BYTES = 1 << 20
"""Bytes of the lock file that are read."""


def read_engine_info(directory: Path) -> dict[str, Any] | None:
    """Return the data published by the running engine, `{}` while it writes them; None without an engine."""
    with prevent_engine_start(directory) as holder:
        return holder


@contextmanager
def prevent_engine_start(directory: Path) -> Iterator[dict[str, Any] | None]:
    """Prevent engines from starting inside the block; yield the running engine's data, or None if none runs."""
    try:
        descriptor = os.open(directory / ENGINE_LOCK, os.O_RDONLY | os.O_CLOEXEC)
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
    except ValueError:  # it is being written
        return {}
    return content if isinstance(content, dict) else {}
