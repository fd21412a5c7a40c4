"""wantui logs: print log files, and follow them as they grow."""

import os
import time
from pathlib import Path
from typing import NamedTuple

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.options import open_queue_for_command
from wantui.cli.output import echo
from wantui.cli.types import BATCH_TYPE, PATH_TYPE, WholeNumber
from wantui.errors import UserError

LOG_POLL_SECONDS = 0.2


@click.command("logs", cls=WantuiCommand)
@click.argument("batch", required=False, type=BATCH_TYPE)
@click.option("-f", "--follow", "keeps_following", is_flag=True, help="Keep printing new lines until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    "line_count",
    type=WholeNumber(0),
    default=20,
    show_default=True,
    help="Number of lines to print from the end of each file.",
)
@click.option("--logs", "log_folder", type=PATH_TYPE, help="Log folder.  [default: log folder of the engine]")
def command(batch: str | None, keeps_following: bool, line_count: int, log_folder: Path | None) -> None:
    """Show the log of BATCH, or the logs of the engine and its workers."""
    log_paths = _find_log_files(batch, log_folder)
    position_by_path: dict[Path, LogPosition] = {}
    for path in log_paths:
        text_lines = _read_new_lines(path, position_by_path)
        for line in text_lines[max(0, len(text_lines) - line_count) :]:
            _print_log_line(path, line, len(log_paths) > 1)
    while keeps_following:
        time.sleep(LOG_POLL_SECONDS)
        for path in _find_log_files(batch, log_folder):
            for line in _read_new_lines(path, position_by_path):
                _print_log_line(path, line, len(position_by_path) > 1)


class LogPosition(NamedTuple):
    """Position up to which a log was read."""

    inode: int
    """Inode of the file; a rotated log is a new file."""
    offset: int
    modified_ns: int = 0
    """Modification time of the file when read, in nanoseconds."""


def _read_new_lines(log_path: Path, position_by_path: dict[Path, LogPosition]) -> list[str]:
    """Return the complete lines of a log after its position, and advance the position.

    If the log was rotated since, the lines start with the rest of the earlier files.

    Raises:
        UserError: the log is not a regular file.
    """
    from wantui.queue.state_files import open_state_file

    try:
        file = os.fdopen(open_state_file(log_path, os.O_RDONLY), "rb")
    except FileNotFoundError:  # it is being rotated
        return []
    with file:
        status = os.fstat(file.fileno())
        position = position_by_path.get(log_path, LogPosition(status.st_ino, 0))
        content = b""
        if position.inode != status.st_ino:
            content = _read_rotated_files(log_path, position, status.st_ino)
            position = LogPosition(status.st_ino, 0)
        offset = 0 if status.st_size < position.offset else position.offset  # the log was emptied
        file.seek(offset)
        new_content, newline, _ = file.read().rpartition(b"\n")
    position_by_path[log_path] = LogPosition(status.st_ino, offset + len(new_content + newline), status.st_mtime_ns)
    return (content + new_content).decode(errors="replace").splitlines()


def _read_rotated_files(log_path: Path, position: LogPosition, base_inode: int) -> bytes:
    """Return what a log contained after a position before it was rotated, as far as its files still exist.

    Args:
        base_inode: inode of the open log, which may be rotated meanwhile.
    """
    from wantui.queue.state_files import open_state_file
    from wantui.storage.log_files import BACKUP_COUNT

    content, read_inodes = b"", {base_inode}
    for number in range(1, BACKUP_COUNT + 1):  # the latest first
        try:
            with os.fdopen(open_state_file(log_path.with_name(f"{log_path.name}.{number}"), os.O_RDONLY), "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_mtime_ns < position.modified_ns:  # older than the file of the position
                    break
                if status.st_ino in read_inodes:  # rotated meanwhile
                    continue
                file.seek(position.offset if status.st_ino == position.inode else 0)
                content = file.read() + content
        except (OSError, UserError):
            break
        if status.st_ino == position.inode:
            break
        read_inodes.add(status.st_ino)
    return content


def _print_log_line(log_path: Path, line: str, shows_name: bool) -> None:
    echo(f"{log_path.stem}: {line}" if shows_name else line)


def _find_log_files(batch: str | None, log_folder: Path | None) -> list[Path]:
    from wantui.engine.control import find_published_engine
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.layout import BatchFolder
    from wantui.storage.output_errors import is_folder_deleted

    state_dir = find_state_directory()
    if batch is not None:
        with open_queue_for_command(state_dir) as queue:
            batch_log = BatchFolder(queue.find_batch(batch).folder).log_path
        if is_folder_deleted(batch_log.parent.parent):
            raise UserError(
                f"cannot show {batch_log}: the batch folder was deleted or moved. If it was moved, read "
                f"logs/batch.log in the new folder"
            )
        if not batch_log.exists():
            raise UserError(f"cannot show {batch_log}: it does not exist, because no video of the batch has started")
        return [batch_log]
    engine = find_published_engine(state_dir.directory)
    log_folder = log_folder or (engine.logs_folder if engine else state_dir.directory / "logs")
    log_paths = sorted(path for path in log_folder.glob("*.log") if path.is_file())
    if not log_paths:
        raise UserError(f"no logs in {log_folder}. Choose another folder with --logs")
    return log_paths
