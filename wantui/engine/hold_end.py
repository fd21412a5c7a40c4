"""Find out whether the cause of a hold has ended: a full disk, or a folder that cannot be written."""

from wantui.queue.records import Hold
from wantui.storage.disk_space import has_free_files, query_free_disk_bytes
from wantui.storage.output_errors import is_folder_deleted, probe_write_error


def describe_hold_end(hold: Hold) -> str | None:
    """Describe for the log that the cause of a hold has ended; None if it persists, or only a user can end the hold."""
    folder = hold.folder
    if folder is None:
        return None
    try:
        match hold.kind:
            case "disk" if hold.needed_bytes is None and has_free_files(folder):
                return f"enough files can be created in {folder} again"
            case "disk" if hold.needed_bytes is not None and query_free_disk_bytes(folder) >= hold.needed_bytes:
                return f"{folder} has enough disk space again"
            case "folder" if is_folder_deleted(folder) or probe_write_error(folder) is None:
                return f"{folder} can be written again"
    except OSError:
        return f"{folder} cannot be examined; the queue resumes, and its videos report the reason"
    return None
