"""wantui logs: the log files, one after another or as they grow."""

import time
from pathlib import Path

import click

from wantui.cli.tables import echo
from wantui.cli.types import BATCH, PATH
from wantui.errors import UserError

POLL_SECONDS = 0.2


@click.command("logs")
@click.argument("batch", required=False, type=BATCH)
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is added.")
@click.option("-n", "--lines", default=20, show_default=True, help="Lines of each file to begin with.")
@click.option("--logs", "folder", type=PATH, help="Folder of the logs.  [default: the engine's]")
def command(batch: str | None, follow: bool, lines: int, folder: Path | None) -> None:
    """Show the log of BATCH, or those of the engine and its workers."""
    files = _files(batch, folder)
    places: dict[Path, int] = {}
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        places[path] = path.stat().st_size
        for line in text.splitlines()[-lines:]:
            _show(path, line, len(files) > 1)
    while follow:
        time.sleep(POLL_SECONDS)
        for path in _files(batch, folder):
            size = path.stat().st_size
            seen = places.get(path, 0)
            if size < seen:  # rotated
                seen = 0
            with path.open("rb") as file:
                file.seek(seen)
                new, newline, _ = file.read().rpartition(b"\n")
            places[path] = seen + len(new + newline)
            for line in new.decode(errors="replace").splitlines():
                _show(path, line, len(places) > 1)


def _show(path: Path, line: str, several: bool) -> None:
    echo(f"{path.stem}: {line}" if several else line)


def _files(batch: str | None, folder: Path | None) -> list[Path]:
    from wantui.engine.control import find_engine, open_queue
    from wantui.queue.place import state_place
    from wantui.storage.layout import BatchFolder

    place = state_place()
    if batch is not None:
        queue, _ = open_queue(place)
        log = BatchFolder(queue.find_batch(batch).folder).log
        queue.close()
        if not log.exists():
            raise UserError(f"{log} is not there: no video of the batch was begun")
        return [log]
    engine = find_engine(place.directory)
    folder = folder or (engine.logs if engine else place.directory / "logs")
    found = sorted(folder.glob("*.log"))
    if not found:
        raise UserError(f"no logs in {folder}; --logs names another folder")
    return found
