"""Record the folder of a new batch until it is in the queue, to report a folder left by a killed command."""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wantui.errors import UserError
from wantui.queue.records import BatchRow
from wantui.queue.state_files import open_state_file
from wantui.storage.layout import BatchFolder

RECORDS_FOLDER = "new-batches"
"""Folder in the state directory with one file for each batch that a command is creating."""
MAX_RECORD_BYTES = 1 << 16
FolderCallback = Callable[[Path], None]
"""Function that records the folder which its caller is about to create, replacing the one recorded before."""


@contextmanager
def record_new_folder(directory: Path) -> Iterator[FolderCallback]:
    """Yield a callback that records the folder of a new batch that is put on the queue inside the block.

    The record is removed after the block, unless a signal ends it. It remains locked inside the block, so that
    `describe_unqueued_folders` reports only the folders of ended processes.

    Args:
        directory: the state directory.

    Raises:
        UserError: the record cannot be written.
    """
    path = directory / RECORDS_FOLDER / f"{os.getpid()}-{secrets.token_hex(4)}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = _create_locked_file(path)
    except OSError as error:
        raise _write_error(path, error) from None

    def record(folder: Path) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps({"folder": os.path.realpath(folder)}).encode(), 0)
            os.fsync(descriptor)
        except OSError as error:
            raise _write_error(path, error) from None

    is_interrupted = True
    try:
        yield record
        is_interrupted = False
    except Exception:  # the command has removed what it created, or reports it
        is_interrupted = False
        raise
    finally:
        if not is_interrupted:
            with suppress(OSError):  # the next command removes it
                path.unlink()
        os.close(descriptor)


def _create_locked_file(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process removed the empty file before it was locked


def _write_error(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileExistsError):
        return UserError(f"cannot use {path.parent}: it is not a folder. Remove it, and try again")
    return UserError(
        f"cannot write {path}: {error.strerror or error}. Free disk space, or make the folder writable; then try again"
    )


def describe_unqueued_folders(directory: Path, queued: Callable[[], Sequence[BatchRow]]) -> list[str]:
    """Return a warning for each batch folder whose command was interrupted before it put the batch on the queue.

    Records of folders that were queued or removed since are deleted.

    Args:
        directory: the state directory.
        queued: return the batches in the queue.
    """
    warnings = []
    for path in sorted((directory / RECORDS_FOLDER).glob("*.json")):
        with suppress(OSError, UserError):  # another process removed it, or it is not a regular file
            descriptor = open_state_file(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if its command is running
                warning = _describe_record(os.pread(descriptor, MAX_RECORD_BYTES, 0), queued)
                if warning is None:
                    path.unlink()
                else:
                    warnings.append(warning)
            finally:
                os.close(descriptor)
    return warnings


def _describe_record(content: bytes, queued: Callable[[], Sequence[BatchRow]]) -> str | None:
    """Return the warning about the folder in a record; None if nothing is left to do."""
    from wantui.storage.manifest import read_manifest  # slow to import, and rarely needed
    from wantui.storage.manifest_errors import ManifestError

    try:
        folder = Path(json.loads(content)["folder"])
    except (ValueError, KeyError, TypeError):  # the command was ended before it created a folder
        return None
    batch = BatchFolder(folder)
    if not os.path.lexists(folder) or any(row.folder == folder for row in queued()):
        return None
    if not os.path.lexists(batch.manifest_path):
        return f"{folder} is an incomplete batch folder: the command that created it was interrupted. Remove it"
    with suppress(ManifestError):  # the command below reports it
        if "queued" not in read_manifest(batch).count_states():  # it was generated by another queue
            return None
    return (
        f"{folder} was never queued: the command that created it was interrupted. Queue it: wantui run --resume "
        f"{folder}; or remove it: wantui library trash {folder}"
    )
