"""wantui open: a batch in the library of the terminal application."""

import click

from wantui.cli.commands import WantuiCommand
from wantui.cli.types import BATCH_TYPE


@click.command("open", cls=WantuiCommand)
@click.argument("batch", type=BATCH_TYPE)
@click.pass_context
def command(context: click.Context, batch: str) -> None:
    """Open BATCH in the library of the terminal application.

    BATCH is a batch folder, or the number or name of a batch in the queue.
    """
    from pathlib import Path

    from wantui.cli.options import open_queue_for_command
    from wantui.cli.tui import run_application
    from wantui.storage.layout import BatchFolder

    folder = Path(batch)
    if not BatchFolder(folder).manifest_path.is_file():
        with open_queue_for_command() as queue:
            folder = queue.find_batch(batch).folder
    options = context.find_root().params
    run_application(options["low_bandwidth"], captures_mouse=not options["no_mouse"], batch=folder.resolve())
