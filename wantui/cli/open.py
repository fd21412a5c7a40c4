"""wantui open: a batch in the library of the terminal application."""

from pathlib import Path

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.types import BATCH_TYPE
from wantui.errors import UserError


@click.command("open", cls=WantuiCommand)
@click.argument("batch", type=BATCH_TYPE)
@click.pass_context
def command(context: click.Context, batch: str) -> None:
    """Open BATCH in the library of the terminal application.

    BATCH is a batch folder, or the number or name of a batch in the queue.
    """
    from wantui.cli.tui import run_application
    from wantui.storage.layout import BatchFolder

    folder = Path(batch)
    if not BatchFolder(folder).manifest_path.is_file():
        folder = _find_queued_folder(batch, folder)
    options = context.find_root().params
    run_application(options["low_bandwidth"], captures_mouse=not options["no_mouse"], batch=folder.resolve())


def _find_queued_folder(batch: str, folder: Path) -> Path:
    """Return the folder of a batch in the queue.

    Raises:
        UserError: the argument names neither a batch folder nor a batch in the queue.
    """
    from wantui.cli.options import open_queue_for_command
    from wantui.queue.batch_lookup import UnknownBatchError

    if len(folder.parts) > 1 and not folder.exists():
        raise UserError(f"cannot open {batch}: it does not exist. List the batches: wantui library ls")
    try:
        with open_queue_for_command() as queue:
            return queue.find_batch(batch).folder
    except UnknownBatchError:
        if not folder.is_dir():
            raise
        raise UserError(
            f"cannot open {batch}: the folder contains no batch.json. Choose a batch folder: wantui library ls lists "
            f"them"
        ) from None
