"""Measure durations by a clock that nobody sets: the wall clock of a laboratory's machine may jump by days."""

import time
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Return the kernel's identifier of this boot; empty where it gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def boot_seconds() -> float:
    """Return the seconds since this machine was booted, the same in every process; sleep is included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def seconds_since(boot: str | None, started: float | None) -> float | None:
    """Return the seconds since a moment recorded as `boot_id()` and `boot_seconds()`; None for another boot."""
    if started is None or boot != boot_id():
        return None
    return max(0.0, boot_seconds() - started)
