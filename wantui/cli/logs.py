"""wantui logs: print log files, and follow them as they grow."""

import os
import time
from pathlib import Path

import click

from wantui.cli.commands import Command
from wantui.cli.output import echo
from wantui.cli.types import BATCH, PATH, WholeNumber
from wantui.errors import UserError

POLL_SECONDS = 0.2


@click.command("logs", cls=Command)
@click.argument("batch", required=False, type=BATCH)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=WholeNumber(0),
    default=20,
    show_default=True,
    help="Lines to print from the end of each file.",
)
@click.option("--logs", "folder", type=PATH, help="Log folder.  [default: that of the engine]")
def command(batch: str | None, follow: bool, lines: int, folder: Path | None) -> None:
    """Show the log of BATCH, or the logs of the engine and its workers."""
    files = _find_log_files(batch, folder)
    offsets: dict[Path, int] = {}
    for path in files:
        text_lines = _read_new_lines(path, offsets)
        for line in text_lines[max(0, len(text_lines) - lines) :]:
            _print_log_line(path, line, len(files) > 1)
    while follow:
        time.sleep(POLL_SECONDS)
        for path in _find_log_files(batch, folder):
            for line in _read_new_lines(path, offsets):
                _print_log_line(path, line, len(offsets) > 1)


def _read_new_lines(path: Path, offsets: dict[Path, int]) -> list[str]:
    """Return the complete lines of a log after its offset, and advance the offset.

    Raises:
        UserError: the log is not a regular file.
    """
    from wantui.queue.state_files import open_state_file

    offset = offsets.get(path, 0)
    try:
        with os.fdopen(open_state_file(path, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size < offset:  # rotated
                offset = 0
            file.seek(offset)
            new, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:  # it is being rotated
        return []
    offsets[path] = offset + len(new + newline)
    return new.decode(errors="replace").splitlines()


def _print_log_line(path: Path, line: str, with_name: bool) -> None:
    echo(f"{path.stem}: {line}" if with_name else line)


def _find_log_files(batch: str | None, folder: Path | None) -> list[Path]:
    from wantui.engine.control import find_engine, open_queue
    from wantui.queue.state_dir import find_state_directory
    from wantui.storage.layout import BatchFolder

    state_dir = find_state_directory()
    if batch is not None:
        with open_queue(state_dir)[0] as queue:
            log = BatchFolder(queue.find_batch(batch).folder).log
        if not log.exists():
            raise UserError(f"cannot show {log}: it does not exist, because no video of the batch has started")
        return [log]
    engine = find_engine(state_dir.directory)
    folder = folder or (engine.logs if engine else state_dir.directory / "logs")
    paths = sorted(path for path in folder.glob("*.log") if path.is_file())
    if not paths:
        raise UserError(f"no logs in {folder}. Choose another folder with --logs")
    return paths
