"""Find out whether the cause of a hold has ended: a full disk, or a folder that cannot be written."""

from pathlib import Path

from wantui.queue.records import Hold
from wantui.storage.disk_space import has_free_files, query_free_disk_bytes
from wantui.storage.output_errors import is_folder_deleted, probe_write_error


def find_hold_end(hold: Hold) -> str | None:
    """Return a log line if the cause of a hold has ended; None if it persists, or if only a user can end the hold."""
    check = CHECK_BY_HOLD_KIND.get(hold.kind)
    if check is None or hold.folder is None:
        return None
    try:
        return check(hold.folder, hold.needed_bytes)
    except OSError:
        return f"{hold.folder} cannot be examined; the hold ends, and the videos in this folder will report the reason"


def _check_disk_space(folder: Path, needed_bytes: int | None) -> str | None:
    """Return a log line if a disk has enough free bytes (without a number: enough free inodes); None otherwise."""
    if needed_bytes is None:
        return f"enough files can be created in {folder} again" if has_free_files(folder) else None
    has_space = query_free_disk_bytes(folder) >= needed_bytes
    return f"{folder} has enough disk space again" if has_space else None


def _check_folder(folder: Path, _: int | None) -> str | None:
    """Return a log line about the end of a hold if a folder can be written or was deleted; None otherwise."""
    is_usable = is_folder_deleted(folder) or probe_write_error(folder) is None
    return f"{folder} can be written again" if is_usable else None


CHECK_BY_HOLD_KIND = {"disk": _check_disk_space, "folder": _check_folder}
"""Function that checks whether a hold has ended, for each kind of `TEMPORARY_HOLD_KINDS`."""
