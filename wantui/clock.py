"""Measure durations by the boot clock, because the wall clock of a laboratory machine may jump by days."""

import time
from functools import cache
from pathlib import Path


@cache
def read_boot_id() -> str:
    """Return the kernel's identifier of this boot; empty if it is unavailable."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def read_boot_seconds() -> float:
    """Return the seconds since this machine booted, including sleep; the clock is the same for all processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def compute_seconds_since(boot_id: str | None, start_boot_seconds: float | None) -> float | None:
    """Return the seconds since a moment that was recorded as `read_boot_id()` and `read_boot_seconds()`.

    None if the moment is unknown or belongs to another boot.
    """
    if start_boot_seconds is None or boot_id != read_boot_id():
        return None
    return max(0.0, read_boot_seconds() - start_boot_seconds)
