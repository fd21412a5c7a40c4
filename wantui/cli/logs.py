"""wantui logs: the log files, one after another or as they grow."""

import os
import time
from pathlib import Path

import click

from wantui.cli.output import echo
from wantui.cli.types import BATCH, PATH, WholeNumber
from wantui.errors import UserError

POLL_SECONDS = 0.2


@click.command("logs")
@click.argument("batch", required=False, type=BATCH)
@click.option("-f", "--follow", is_flag=True, help="Keep printing new lines.")
@click.option(
    "-n",
    "--lines",
    type=WholeNumber(0),
    default=20,
    show_default=True,
    help="Number of last lines of each file to print first.",
)
@click.option("--logs", "folder", type=PATH, help="Folder of the logs.  [default: the engine's]")
def command(batch: str | None, follow: bool, lines: int, folder: Path | None) -> None:
    """Show the log of BATCH, or those of the engine and its workers."""
    files = _files(batch, folder)
    places: dict[Path, int] = {}
    for path in files:
        text_lines = _read_on(path, places)
        for line in text_lines[max(0, len(text_lines) - lines) :]:
            _show(path, line, len(files) > 1)
    while follow:
        time.sleep(POLL_SECONDS)
        for path in _files(batch, folder):
            for line in _read_on(path, places):
                _show(path, line, len(places) > 1)


def _read_on(path: Path, places: dict[Path, int]) -> list[str]:
    """Return the complete lines of a log from its place on, and move the place behind what was read."""
    seen = places.get(path, 0)
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < seen:  # rotated
                seen = 0
            file.seek(seen)
            new, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:  # it is being rotated
        return []
    places[path] = seen + len(new + newline)
    return new.decode(errors="replace").splitlines()


def _show(path: Path, line: str, several: bool) -> None:
    echo(f"{path.stem}: {line}" if several else line)


def _files(batch: str | None, folder: Path | None) -> list[Path]:
    from wantui.engine.control import find_engine, open_queue
    from wantui.queue.state_dir import state_place
    from wantui.storage.layout import BatchFolder

    state_dir = state_place()
    if batch is not None:
        with open_queue(state_dir)[0] as queue:
            log = BatchFolder(queue.find_batch(batch).folder).log
        if not log.exists():
            raise UserError(f"{log} is not there: no video of the batch was begun")
        return [log]
    engine = find_engine(state_dir.directory)
    folder = folder or (engine.logs if engine else state_dir.directory / "logs")
    paths = sorted(folder.glob("*.log"))
    if not paths:
        raise UserError(f"no logs in {folder}; --logs names another folder")
    return paths
